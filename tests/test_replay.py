"""Replayed functions: the same programs, from fewer traces."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, fx
from zoo import ZOO

import fxlrp
from fxlrp import replay
from fxlrp._torch import make_fx
from fxlrp.segments import segment

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["llama", "bert", "resnet50"])
def test_programs_are_those_that_are_traced_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, args, kwargs = ZOO[name]()
    found = calls(fxlrp.compile(model, args, kwargs).program.module.graph)
    monkeypatch.setattr(replay, "shared", contextlib.nullcontext)
    expected = calls(fxlrp.compile(model, args, kwargs).program.module.graph)
    assert segment(found).key == segment(expected).key
    for key in ("nn_module_stack", "custom"):
        assert [n.meta.get(key) for n in found] == [n.meta.get(key) for n in expected]


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def runs(*values: Tensor, scale: float = 2.0, constant: bool = False) -> int:
    """How often a function runs that is replayed at each of the values."""
    count = 0

    def function(x: Tensor) -> tuple[Tensor, ...]:
        nonlocal count
        count += 1
        return (x * (torch.tensor(scale) if constant else scale),)

    def program(*xs: Tensor) -> list[Tensor]:
        return [replay.replayed(function, scale, [x])[0] for x in xs]

    with replay.shared():
        module = make_fx(program, tracing_mode="fake", _allow_non_fake_inputs=True)(*values)
    for r, x in zip(module(*values), values, strict=True):
        torch.testing.assert_close(r, x * scale)
    return count


def test_functions_are_traced_once_for_each_layout() -> None:
    assert runs(X, X + 1, X - 1) == 1
    assert runs(X, X.double(), X[:2], X.t().contiguous().t()) == 4


def test_functions_with_tensors_of_their_own_are_traced_each_time() -> None:
    assert runs(X, X + 1, constant=True) == 3
