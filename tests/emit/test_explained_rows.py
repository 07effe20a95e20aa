"""The end of a sequence model is walked for the explained positions only, with the same relevance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

import fxlrp
from fxlrp.capture.explained_output import pick_output
from fxlrp.capture.functional_graph import capture
from fxlrp.ir.decisions import Tail
from fxlrp.passes.analyses.positions import find_tail
from fxlrp.plan.decide import make_plan
from fxlrp.rules.presets import LINEAR
from fxlrp.rules.weighted import flat, gamma, z_plus

SEQUENCES = ["gpt2", "llama", "gemma3", "qwen3", "mixtral", "mamba", "flan_t5", "whisper"]
X = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


TAIL = {"relu", "add", "linear_1", "gelu", "linear_2", "add_1", "layer_norm", "linear_3"}
"""Everything in `Head` behind what mixes positions."""


class Head(nn.Module):
    """Something that mixes positions, then a block and a head that do not."""

    def __init__(self, last: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(5, 5)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11)
        self.table = nn.Parameter(torch.randn(5, 8))
        self.last = last
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2).relu()
        x = x + self.down(functional.gelu(self.up(x)))
        return self.head(self.last(self.norm(x)))


def tail_of(model: nn.Module, *inputs: Tensor, rules: str = "attnlrp", **kwargs: Any) -> Tail | None:
    made = make_plan(capture(model, inputs, kwargs), fxlrp.rule_set(rules), (), True)
    return find_tail(made.captured.graph, made.twins, made.captured.explained, ())


def targets() -> list[Any]:
    return [
        (1, 3),
        (-1, None),
        None,
        [(0, 4), (3, 10)],
        torch.tensor([[2, 2], [2, 5]]),
        fxlrp.contrast((1, 3), (1, 4)),
        fxlrp.contrast((1, 3), (4, 3)),
        fxlrp.contrast((2, 2), (2, 2)),
    ]


def seed_of(target: Any, y: Tensor) -> Tensor:
    form, numbers = fxlrp.ir.targets.split_target(target, tuple(y.shape))
    return fxlrp.ir.targets.make_seed(form, y, numbers)


def same(found: Any, wanted: Any) -> None:
    if isinstance(found, dict):
        assert found.keys() == wanted.keys()
        for name in found:
            same(found[name], wanted[name])
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("name", "rules"),
    leave_to_slow([*((name, "attnlrp") for name in SEQUENCES), ("llama", "epsilon"), ("gpt2", "gradient")], but=()),
)
def test_equals_the_walk_of_all_positions(name: str, rules: str) -> None:
    """A seed tensor takes that walk."""
    model, args, kwargs = ZOO[name]()
    attributor = fxlrp.compile(model, rules=rules)
    y = pick_output(model(*args, **kwargs), None).detach()
    for target in ((-1, None), fxlrp.contrast((1, 3), (2, 4))):
        result = attributor(*args, target=target, **kwargs)
        same(result.relevance, attributor(*args, target=seed_of(target, y), **kwargs).relevance)


@pytest.mark.parametrize("target", targets(), ids=str)
@pytest.mark.parametrize("rule", leave_to_slow([None, gamma(0.3), z_plus(), flat()], but={gamma(0.3)}), ids=str)
def test_every_form_of_target(rule: Any, target: Any) -> None:
    rules = fxlrp.rule_set("epsilon") if rule is None else fxlrp.rule_set("epsilon").where(rule, ops=LINEAR)
    model = Head()
    attributor = fxlrp.compile(model, rules=rules, read=("head", "norm", "up", "up:coefficient", "mix"))
    found, wanted = attributor(X, target=target), attributor(X, target=seed_of(target, model(X).detach()))
    same(found.relevance, wanted.relevance)
    same(found.read, wanted.read)


def only_positive(site: fxlrp.Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T max(c, 0)``: terms of a target are not apart."""
    return site.adjoint(c.clamp(min=0))


def centred(site: fxlrp.Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T (c - mean(c))`` over positions: these are not apart."""
    return site.adjoint(c - c.mean(1, keepdim=True))


@pytest.mark.parametrize("function", [only_positive, centred])
def test_nothing_is_assumed_of_a_rule_of_the_users(function: Callable[..., tuple[Tensor, ...]]) -> None:
    model = Head()
    attributor = fxlrp.compile(model, rules={LINEAR[0]: fxlrp.Rule("mine", "linear", function)})
    y = model(X).detach()
    for target in targets():
        same(attributor(X, target=target).relevance, attributor(X, target=seed_of(target, y)).relevance)


def test_masks_and_parameters_in_the_tail() -> None:
    model = Head()
    attributor = fxlrp.compile(model, read=("head.weight", "up.bias", "norm"))
    mask = (torch.rand(2, 5, 16, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    for keep in ({}, {"up": mask}, {"head": torch.ones(1)}):
        found = attributor(X, target=(1, 3), keep=keep)
        wanted = attributor(X, target=seed_of((1, 3), model(X).detach()), keep=keep)
        same(found.relevance, wanted.relevance)
        same(found.read, wanted.read)


def test_the_tail_and_what_it_reads() -> None:
    found = tail_of(Head(), X)
    assert found is not None
    names = {node.name for node in found.nodes}
    assert names == TAIL
    assert {node.name for node in found.columns} == {"p_head_weight", "p_head_bias"}


@pytest.mark.parametrize(
    ("last", "left"),
    [
        (lambda x: x.cumsum(1), {"linear_3"}),
        (lambda x: x.softmax(1), {"linear_3"}),
        (lambda x: x - x.mean(1, keepdim=True), {"linear_3"}),
        (lambda x: x.flip(1), {"linear_3"}),
        (lambda x: functional.layer_norm(x, (5, 8)), {"linear_3"}),
        (lambda x: x + torch.ones(5, 8).double(), {"linear_3"}),
        (lambda x: x.softmax(2), TAIL | {"softmax"}),
    ],
    ids=["sum", "softmax", "mean", "flip", "norm", "table", "within"],
)
def test_ends_where_positions_mix(last: Callable[[Tensor], Tensor], left: set[str]) -> None:
    model = Head(last)
    found = tail_of(model, X)
    assert found is not None
    assert {node.name for node in found.nodes} == left
    attributor = fxlrp.compile(model)
    same(attributor(X, target=(1, 3)).relevance, attributor(X, target=seed_of((1, 3), model(X).detach())).relevance)


@pytest.mark.parametrize(
    "model",
    [nn.Linear(8, 3), nn.Sequential(nn.Flatten(), nn.Linear(40, 3)), nn.Softmax(1)],
    ids=["rows", "flat", "mixed"],
)
def test_no_tail(model: nn.Module) -> None:
    inputs = X[:, 0] if isinstance(model, nn.Linear) else X
    assert tail_of(model.double().eval(), inputs) is None


def test_most_of_the_last_layer_is_not_multiplied_out() -> None:
    """No product of the reverse walk's tail runs over all positions."""
    attributor = fxlrp.compile(Head())
    attributor(X, target=(1, 3))
    sizes = [
        n.meta["val"].shape[0] for n in attributor.program.module.graph.nodes if n.target is torch.ops.aten.mm.default
    ]
    assert sizes.count(2) == 3  # head, down, up
