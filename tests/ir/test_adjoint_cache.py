"""Replayed functions: the same programs, from fewer traces."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, fx
from zoo import ZOO

import fxlrp
from fxlrp._torch import make_fx
from fxlrp.backends.segments import make_segment
from fxlrp.ir import adjoint_cache

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", leave_to_slow(["llama", "bert", "resnet50"], but={"bert"}))
def test_programs_are_those_that_are_traced_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, args, kwargs = ZOO[name]()
    found = calls(fxlrp.compile(model, args, kwargs).program.module.graph)
    monkeypatch.setattr(adjoint_cache, "share_traces", contextlib.nullcontext)
    expected = calls(fxlrp.compile(model, args, kwargs).program.module.graph)
    assert make_segment(found).key == make_segment(expected).key
    for key in ("nn_module_stack", "custom"):
        assert [n.meta.get(key) for n in found] == [n.meta.get(key) for n in expected]


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def runs(*values: Tensor, scales: Sequence[float] = (2.0, 2.0, 2.0, 2.0), constant: bool = False) -> int:
    """How often a function runs that is replayed at each of the values, with a number besides."""
    count = 0

    def function(x: Tensor, scale: float) -> tuple[Tensor, ...]:
        nonlocal count
        count += 1
        return (x * (torch.tensor(scale) if constant else scale),)

    given = list(zip(values, scales, strict=False))

    def program(*xs: Tensor) -> list[Tensor]:
        return [
            adjoint_cache.call_by_trace(function, "scaled", [x, scale])[0]
            for x, (_, scale) in zip(xs, given, strict=True)
        ]

    with adjoint_cache.share_traces():
        module = make_fx(program, tracing_mode="fake", _allow_non_fake_inputs=True)(*values)
    for r, (x, scale) in zip(module(*values), given, strict=True):
        torch.testing.assert_close(r, x * scale)
    return count


def test_functions_are_traced_once_for_each_layout_and_number() -> None:
    assert runs(X, X + 1, X - 1) == 1
    assert runs(X, X.double(), X[:2], X.t().contiguous().t()) == 4
    assert runs(X, X, X, scales=(2.0, 3.0, 2.0)) == 2
    assert runs(X, X, X, scales=(1, 1.0, True)) == 3


def test_functions_with_tensors_of_their_own_are_traced_each_time() -> None:
    assert runs(X, X + 1, constant=True) == 3


def test_a_tensor_given_twice_is_no_pattern_for_two() -> None:
    def product(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (x * y,)

    def program(x: Tensor, y: Tensor) -> list[Tensor]:
        return [adjoint_cache.call_by_trace(product, "product", [x, other])[0] for other in (x, y)]

    with adjoint_cache.share_traces():
        module = make_fx(program, tracing_mode="fake")(X, X + 1)
    for found, expected in zip(module(X, X + 1), (X * X, X * (X + 1)), strict=True):
        torch.testing.assert_close(found, expected)
