"""Products of the relevance pass in bfloat16: which, what stays, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from zoo import ZOO, targets

import fxlrp
from fxlrp import passes
from fxlrp.backends.constants import find_constant_nodes
from fxlrp.ir.provenance import find_role
from fxlrp.passes.lowering.bfloat16 import PRODUCTS, round_products
from fxlrp.reports.rounding_error import measure_norm_error

aten = torch.ops.aten


def layers(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    found = nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 8), nn.GELU(), nn.Linear(8, 4)
    return nn.Sequential(*found).to(dtype).eval()


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linspace(-1, 2, 144).view(2, 2, 6, 6).to(dtype)


def program(model: nn.Module, x: Tensor, **options: Any) -> fx.Graph:
    attributor = fxlrp.compile(model, **options)
    attributor.compile(x, target=1)
    return attributor.program.module.graph


def dtypes(graph: fx.Graph, of: Callable[[str], bool]) -> set[torch.dtype]:
    """Of the operands of products in some roles."""
    found = [n for n in graph.nodes if n.target in PRODUCTS and of(find_role(n))]
    return {operand.meta["val"].dtype for node in found for operand in node.all_input_nodes}


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon_gamma_box", "gradient"])
def test_products_of_the_relevance_pass_are_rounded_and_those_of_the_model_are_not(rules: str) -> None:
    graph = program(layers(), image(), rules=rules, precision="bfloat16")
    assert dtypes(graph, lambda name: name == "forward") == {torch.float32}
    assert dtypes(graph, lambda name: name != "forward") == {torch.bfloat16}
    results = graph.output_node().all_input_nodes
    assert {node.meta["val"].dtype for node in results} == {torch.float32}


@torch.no_grad()
def test_count_and_a_second_run() -> None:
    attributor = fxlrp.compile(layers(), (image(),), rules="attnlrp")
    module = attributor.program.module
    products = [n for n in module.graph.nodes if n.target in PRODUCTS and find_role(n) != "forward"]
    before = module(image(), torch.tensor([[1], [2]]))
    assert passes.run_passes(module, [("round", round_products)]) == {"round": len(products)}
    assert len(products) == 3
    after = module(image(), torch.tensor([[1], [2]]))
    assert torch.equal(before[0], after[0])
    assert 0 < measure_norm_error(after[1], before[1]) < 1e-2
    assert passes.run_passes(module, [("round", round_products)]) == {"round": 0}


def test_values_are_what_the_graph_says() -> None:
    """Also of the results of an op with several."""
    module = fxlrp.compile(layers(), (image(),), precision="bfloat16").program.module

    class Checked(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out = super().run_node(n)
            if n.op == "call_function":
                for value, fake in zip(
                    *(x if isinstance(x, tuple) else (x,) for x in (out, n.meta["val"])), strict=True
                ):
                    if isinstance(value, Tensor):
                        assert (value.dtype, value.shape) == (fake.dtype, fake.shape), n
            return out

    with torch.no_grad():
        Checked(module).run(image(), torch.tensor([[1], [2]]))


def test_weights_are_rounded_once_and_followed() -> None:
    own = layers()
    attributor = fxlrp.compile(own, rules="attnlrp", precision="bfloat16")
    before = attributor(image(), target=1).relevance
    fixed = [n for n in find_constant_nodes(attributor.program.module.graph) if n.target is aten._to_copy.default]
    assert {n.args[0].target for n in fixed} == {"0_weight", "3_weight", "5_weight"}
    with torch.no_grad():
        own[3].weight.mul_(2)
    after = attributor(image(), target=1).relevance
    assert measure_norm_error(after, before) > 0.1
    assert measure_norm_error(after, fxlrp.compile(own, rules="attnlrp")(image(), target=1).relevance) < 1e-2


def test_double_precision_is_left_alone() -> None:
    graph = program(layers(torch.float64), image(torch.float64), precision="bfloat16")
    assert dtypes(graph, lambda _: True) == {torch.float64}


def test_weights_of_bfloat16_are_not_copied() -> None:
    graph = program(layers(torch.bfloat16), image(torch.bfloat16), rules="attnlrp", precision="bfloat16")
    weights = [n for n in graph.nodes if n.target is aten.mm.default and find_role(n) != "forward"]
    assert weights
    assert {n.args[1].op for n in weights} == {"get_attr"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "bert", "llama", "resnet50"])
def test_the_error_is_that_of_rounding(name: str) -> None:
    """Of bfloat16 about 1e-2, of float32 about 1e-6; and it is what is reported."""
    model, args, kwargs = ZOO[name](2)
    model = model.float()
    args = tuple(x.float() if x.is_floating_point() else x for x in args)
    shape = tuple(fxlrp.compile(model)(*args, **kwargs).output.shape) if args else None
    target = targets(shape or ((2, 3) if name == "bert" else (2, 7, 100)))
    plain, low = fxlrp.compile(model), fxlrp.compile(model, precision="bfloat16")
    (exact,) = plain.precision_error(*args, target=target, **kwargs).values()
    (error,) = low.precision_error(*args, target=target, **kwargs).values()
    assert exact < 1e-4
    assert 1e-4 < error < 5e-2
    found, expected = (a(*args, target=target, **kwargs) for a in (low, plain))
    assert measure_norm_error(found.relevance, expected.relevance) == pytest.approx(error, rel=1e-2)
    assert found.relevance.dtype is torch.float32


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(fxlrp.SignatureError, match="precision='int4' is none of None, 'bfloat16'"):
        fxlrp.compile(layers(), precision="int4")


def test_distance_from_zero_is_the_norm() -> None:
    assert measure_norm_error(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 5
    assert measure_norm_error(torch.zeros(2), torch.zeros(2)) == 0
