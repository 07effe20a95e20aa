"""Ops in place: the same numbers to the last bit, and nothing overwritten that is still needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, fx
from zoo import ZOO

import fxlrp
from fxlrp._torch import make_fx, tree_leaves
from fxlrp.backends.in_place import write_in_place
from fxlrp.ir import targets

aten = torch.ops.aten
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

# name, function, how many ops write in place
CASES: list[tuple[str, Callable[[Tensor], object], int]] = [
    ("chain", lambda x: (x + 1).exp().mul(2).relu(), 3),
    ("input", lambda x: x.exp(), 0),
    ("second operand", lambda x: x * x.exp(), 1),
    ("second operand of a difference", lambda x: x - x.exp(), 0),
    ("used later", lambda x: (lambda y: y.exp() + y)(x + 1), 1),
    ("returned", lambda x: (lambda y: (y, y.exp()))(x + 1), 0),
    ("through a view", lambda x: (x + 1).t().exp(), 1),
    ("view that is used later", lambda x: (lambda y: y.t().exp() + y.t())(x + 1), 1),
    ("expanded", lambda x: (x[:1] + 1).expand(3, 4).exp(), 0),
    ("view of expanded", lambda x: (x[:1] + 1).expand(3, 4).reshape(3, 4, 1).exp(), 0),
    ("both operands", lambda x: (lambda y: y * y)(x + 1), 1),
    ("both operands, turned", lambda x: (lambda y: y * y.t())(x[:3, :3] + 1), 0),
    ("another type", lambda x: (x + 1) > 0, 0),
    ("the wider operand", lambda x: (x + 1) + x.double(), 1),
    ("the narrower operand", lambda x: (x + 1) - x.double(), 0),
    ("broadcast", lambda x: (x[:1] + 1) + x, 0),
    ("a view by einsum", lambda x: (torch.einsum("ij->ji", x).exp(), x), 0),
    ("first of several", lambda x: aten.native_layer_norm(x, [4], None, None, 1e-5)[0].exp(), 1),
]


@pytest.mark.parametrize(("name", "function", "count"), CASES, ids=[case[0] for case in CASES])
def test_ops_in_place(name: str, function: Callable[[Tensor], object], count: int) -> None:
    module = make_fx(function, tracing_mode="fake")(X)
    assert write_in_place(module.graph) == count
    module.recompile()
    x = X.clone()
    for _ in range(2):
        for found, expected in zip(tree_leaves(module(x)), tree_leaves(function(X)), strict=True):
            assert torch.equal(found, expected)
    assert torch.equal(x, X)


def test_what_composite_ops_return_is_not_written_to() -> None:
    """Such an op may return its operand."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = X
    same = graph.call_function(aten.dropout.default, (x, 0.5, False))
    after = graph.call_function(aten.exp.default, (same,))
    same.meta["val"] = after.meta["val"] = X
    graph.output(after)
    assert write_in_place(graph) == 0


@pytest.mark.parametrize(
    ("name", "rules"),
    leave_to_slow(
        [
            ("vgg16", "epsilon_gamma_box"),
            ("vgg16", "epsilon_alpha2_beta1_flat"),
            ("vit_b_16", "attnlrp"),
            ("gpt2", "cp_lrp"),
            ("flan_t5", "attnlrp"),
            ("gru", "epsilon"),
        ],
        but={"gpt2"},
    ),
)
def test_same_to_the_last_bit(name: str, rules: str) -> None:
    """The runner beside the functional program, twice: neither inputs nor constants were written to."""
    model, args, kwargs = ZOO[name](2)
    attributor = fxlrp.compile(model, args, kwargs, rules=rules)
    entry, program = attributor._programs.last
    (run,) = (runner for _, runner in entry.programs.values())
    _, numbers = targets.split_target(None, entry.shape({}))
    inputs = [t for t in tree_leaves((args, dict(sorted(kwargs.items())))) if isinstance(t, Tensor)]
    before = [t.clone() for t in inputs]
    with torch.no_grad():
        expected = program.module(*inputs, *numbers)
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(run(*inputs, *numbers), expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
