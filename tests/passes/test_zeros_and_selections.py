"""Zeros that are not multiplied, and what nobody selects that is not computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from torch import Tensor

from fxlrp import passes
from fxlrp._torch import make_fx
from fxlrp.passes.canonical import identities
from fxlrp.passes.cleanup import selections, zeros
from fxlrp.passes.cleanup.spans import Span, move_span

aten = torch.ops.aten


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(prod(shape)))


G, ROW, W = numbers(2, 6, 4), numbers(4), numbers(4, 5)


def one(c: Tensor, at: int = 3) -> Tensor:
    """A coefficient of one position in six."""
    return aten.select_backward(c, [2, 6, 4], 1, at)


def some(c: Tensor) -> Tensor:
    """Two rows in six of a matrix."""
    return aten.slice_backward(c, [6, 4], 0, 2, 4, 1)


def last(c: Tensor) -> Tensor:
    """The last of six, which alone has size 1."""
    return aten.slice_backward(c, [6, 1, 4], 0, 5, 6, 1)


def scalar() -> Tensor:
    return aten.scalar_tensor(0.0, dtype=torch.float64)


# name, function of a (2, 4), rewrites
SUNK: list[tuple[str, Callable[..., Tensor], int]] = [
    ("factor", lambda c, g, row, w: one(c) * g, 1),
    ("broadcast factor", lambda c, g, row, w: row * one(c) * 2.0, 2),
    ("norm", lambda c, g, row, w: one(c) - one(c).mean(-1, keepdim=True), 2),
    ("residual sum", lambda c, g, row, w: one(c) * g + one(2 * c), 2),
    ("sum of two places", lambda c, g, row, w: one(c) + one(c, 2), 0),
    ("sum with a whole", lambda c, g, row, w: one(c) + g, 0),
    ("mean over positions", lambda c, g, row, w: one(c).mean(1, keepdim=True), 0),
    ("mean without the dimension", lambda c, g, row, w: one(c).mean(-1), 0),
    ("permute", lambda c, g, row, w: one(c).permute(1, 2, 0).exp(), 1),
    ("transpose", lambda c, g, row, w: aten.transpose.int(one(c), -1, 1).exp(), 1),
    ("unsqueeze", lambda c, g, row, w: one(c).unsqueeze(1).exp(), 1),
    (
        "squeeze",
        lambda c, g, row, w: aten.squeeze.dims(aten.slice_backward(c[None, :1], [6, 1, 4], 0, 5, 6, 1), [0, 1]).exp(),
        1,
    ),
    ("merge with what is behind", lambda c, g, row, w: aten.reshape(one(c), [2, 24]).exp(), 1),
    ("merge with what is before", lambda c, g, row, w: aten.reshape(one(c), [12, 4]).exp(), 0),
    ("rows of a product", lambda c, g, row, w: aten.mm(some(c), w), 1),
    ("columns of a product", lambda c, g, row, w: aten.mm(aten.t(some(c)), g[0]), 2),
    ("mask", lambda c, g, row, w: torch.where(g > 0, one(c), scalar()), 1),
    ("mask with another value", lambda c, g, row, w: torch.where(g > 0, one(c), g), 0),
    ("mask the other way round", lambda c, g, row, w: torch.where(g > 0, scalar(), one(c)), 0),
    ("relu", lambda c, g, row, w: aten.threshold_backward(one(c), g, 0), 1),
    ("quotient", lambda c, g, row, w: one(c) / g, 1),
    ("quotient by it", lambda c, g, row, w: 1 / (one(c) + 1), 0),
    ("selection", lambda c, g, row, w: one(c)[:, 3].exp(), 1),
    ("slice of it", lambda c, g, row, w: some(c)[2:3].exp(), 1),
    ("selection of zeros", lambda c, g, row, w: one(c)[:, 2].exp(), 0),
]


@pytest.mark.parametrize(("name", "function", "count"), SUNK, ids=[case[0] for case in SUNK])
def test_zeros_sink(name: str, function: Callable[..., Tensor], count: int) -> None:
    c = numbers(2, 4)
    given = c, G, ROW, W
    module = make_fx(function, tracing_mode="fake")(*given)
    passes.run_passes(module, [("views", identities.free_views)])
    assert passes.run_passes(module, [("sink", zeros.sink_zeros)]) == {"sink": count}
    torch.testing.assert_close(module(*given), function(*given), rtol=1e-14, atol=1e-14)
    assert passes.run_passes(module, [("sink", zeros.sink_zeros)]) == {"sink": 0}


def affine(x: Tensor, w: Tensor) -> Tensor:
    return aten.reshape(aten.addmm(w[0], aten.reshape(x, [6, 4]), w), [1, 6, 5])


def normed(x: Tensor, row: Tensor) -> Tensor:
    return aten.native_layer_norm(x, [4], row, row, 1e-5)[0]


# name, function of a (2, 6, 4), rewrites
LIFTED: list[tuple[str, Callable[..., Tensor], int]] = [
    ("elementwise", lambda x, g, row, w: (x.exp() * g)[:, 2], 2),
    ("broadcast", lambda x, g, row, w: (x.exp() * row + g[:, :1])[:, 1:3], 3),
    ("norm", lambda x, g, row, w: normed(x, row)[:, 0], 1),
    ("norm over positions", lambda x, g, row, w: aten.native_layer_norm(x, [6, 4], g[0], g[0], 1e-5)[0][:, 0], 0),
    ("statistics", lambda x, g, row, w: (x - x.mean(-1, keepdim=True)).exp()[:, 5], 3),
    ("statistics of positions", lambda x, g, row, w: (x * x.mean(1, keepdim=True))[:, 5], 1),
    ("layer", lambda x, g, row, w: affine(x[:1].exp(), w).exp()[:, 4], 5),
    ("two selections", lambda x, g, row, w: x.exp()[:, 2] + x.exp()[:, 3], 2),
    ("used whole too", lambda x, g, row, w: (lambda y: y[:, 2] + y.sum(1))(x.exp()), 0),
    ("two selections of one", lambda x, g, row, w: (lambda y: y[:, 2] + y[:, 3])(x.exp()), 0),
    ("permute", lambda x, g, row, w: x.exp().permute(2, 0, 1)[..., 3], 2),
    ("returned", lambda x, g, row, w: x.exp(), 0),
    ("everything", lambda x, g, row, w: aten.slice(x.exp(), 1, 0, 6).exp(), 0),
]


@pytest.mark.parametrize(("name", "function", "count"), LIFTED, ids=[case[0] for case in LIFTED])
def test_selections_rise(name: str, function: Callable[..., Tensor], count: int) -> None:
    x = numbers(2, 6, 4)
    given = x, G, ROW, W
    module = make_fx(function, tracing_mode="fake")(*given)
    passes.run_passes(module, [("views", identities.free_views)])
    assert passes.run_passes(module, [("lift", selections.lift_selections)]) == {"lift": count}
    torch.testing.assert_close(module(*given), function(*given), rtol=1e-14, atol=1e-14)
    assert passes.run_passes(module, [("lift", selections.lift_selections)]) == {"lift": 0}


def test_open_sizes_are_left_alone() -> None:
    module = make_fx(lambda x: x.exp()[:, 2], tracing_mode="symbolic")(numbers(2, 6, 4))
    assert passes.run_passes(module, [("lift", selections.lift_selections), ("sink", zeros.sink_zeros)]) == {
        "lift": 0,
        "sink": 0,
    }


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Span, tuple[int, ...], tuple[int, ...]]:
    """A span, and two ways to write one number of entries as sizes."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5))

    def grouped() -> tuple[int, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, len(factors) - 1)))) if len(factors) > 1 else []
        edges = [0, *cuts, len(factors)]
        return tuple(prod(factors[a:b]) for a, b in pairwise(edges))

    sizes, into = grouped(), grouped()
    dim = draw(st.integers(0, len(sizes) - 1))
    start = draw(st.integers(0, sizes[dim] - 1))
    return Span(dim, start, draw(st.integers(start + 1, sizes[dim]))), sizes, into


@drawn(reshapes())
def test_a_span_keeps_its_entries(case: tuple[Span, tuple[int, ...], tuple[int, ...]]) -> None:
    span, sizes, into = case
    found = move_span(span, sizes, into)
    if found is not None:
        inside = torch.zeros(sizes)
        inside.narrow(span.dim, span.start, span.size).fill_(1)
        expected = torch.zeros(into)
        expected.narrow(found.dim, found.start, found.size).fill_(1)
        assert torch.equal(inside.reshape(into), expected)
    assert move_span(span, sizes, sizes) is not None
