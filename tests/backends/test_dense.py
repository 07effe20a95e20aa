"""Programs on memory in any order: which ops do not read it, and that they get what they do read."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from op_db import ENTRIES, made_samples
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import fxlrp
from fxlrp.backends import inductor
from fxlrp.backends.dense import ORDERS, call_on_ordered, make_rows_or_pixels, make_vectors_dense, order_operands

aten = torch.ops.aten
SAMPLES = 3

SHOWN = ("aten::as_strided", "aten::view", "aten::_unsafe_view", "aten::_reshape_alias")
"""Ops that are defined by the order of memory; `fxlrp.passes` give them rows, or let them copy."""
UNWRITTEN = ("aten::empty", "aten::new_empty", "aten::_efficientzerotensor", "aten::_ctc_loss")
"""Ops that return memory, or part of it, without values."""
OTHER_DIGITS = ("aten::linalg_", "aten::_linalg_", "aten::lu_", "aten::ormqr", "aten::geqrf")
"""What they return besides a value, such as pivots, depends on the order that LAPACK reads."""


def turned(x: Any) -> Any:
    """The same entries, the last dimension outermost in memory."""
    if not isinstance(x, Tensor) or x.ndim < 2 or x.layout is not torch.strided:
        return x
    order = range(x.ndim - 1, -1, -1)
    return x.permute(*order).contiguous().permute(*order)


def last(x: Any) -> Any:
    """The same entries, channels innermost in memory."""
    if not isinstance(x, Tensor) or x.ndim < 3 or x.layout is not torch.strided:
        return x
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def columns(x: Tensor) -> Tensor:
    """The same matrices, column by column in memory."""
    return x.mT.contiguous().mT


class Reordered(TorchDispatchMode):
    """Repeats every op on operands in other orders, and counts those that notice."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed: Counter[str] = Counter()
        self.blind: Counter[Any] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = op(*args, **(kwargs or {}))
        if judged(op):
            for order in (turned, last):
                given = pytree.tree_map(order, args)
                try:
                    again = (
                        call_on_ordered(op, *given, **(kwargs or {})) if op in ORDERS else op(*given, **(kwargs or {}))
                    )
                except Exception as error:
                    self.noticed[f"{op}: {error}".partition("\n")[0]] += 1
                    continue
                self.blind[op] += 1
                if not same(found, again):
                    self.noticed[f"{op}: other values"] += 1
        return found


def judged(op: Any) -> bool:
    """Whether an op computes its results from the values of its operands alone."""
    schema = op._schema
    fresh = not schema.is_mutable and not any(r.alias_info is not None for r in schema.returns)
    values = torch.Tag.nondeterministic_seeded not in op.tags
    return op.namespace == "aten" and fresh and values and not schema.name.startswith(SHOWN + UNWRITTEN + OTHER_DIGITS)


def same(found: Any, again: Any) -> bool:
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(again), strict=True)
    return all(
        torch.allclose(a, b, equal_nan=True) for a, b in pairs if isinstance(a, Tensor) and a.layout is torch.strided
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # by ops of the catalogue
def test_every_other_op_reads_every_order() -> None:
    """On samples of torch's catalogue, forward and backward."""
    mode = Reordered()
    for entry in ENTRIES.values():
        for sample in islice(made_samples(entry), SAMPLES):
            with mode:
                differentiate(entry, sample)
    assert mode.noticed == {}
    assert len(mode.blind) > 300


def differentiate(entry: Any, sample: Any) -> None:
    """Call an op and its derivative, where it has one."""
    inputs = [x for x in pytree.tree_leaves((sample.input, sample.args)) if isinstance(x, Tensor) and x.requires_grad]
    try:
        found = pytree.tree_leaves(entry(sample.input, *sample.args, **sample.kwargs))
        sums = [y.abs().sum() for y in found if isinstance(y, Tensor) and y.requires_grad]
        if sums and inputs:
            torch.autograd.grad(sums, inputs, allow_unused=True)
    except RuntimeError:
        return


class Channels(nn.Module):
    """Attention between channels, and a norm of pixels, behind a convolution and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.last = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x).flatten(2)).unflatten(1, (2, 4))
        y = nn.functional.scaled_dot_product_attention(y, y, y)
        return self.last(y.sum((1, 2)))


class Attention(nn.Module):
    """Attention of the input itself, turned or not, so that it is traced with rows or with columns."""

    def __init__(self, turn: bool) -> None:
        super().__init__()
        self.turn, self.last = turn, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(2, 3) if self.turn else x
        return self.last(nn.functional.scaled_dot_product_attention(x, x, x).sum((1, 2)))


def latest() -> nn.Module:
    """Pooling in three dimensions, whose adjoint reads rows, behind a norm of images."""
    return nn.Sequential(
        nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3), nn.Unflatten(1, (2, 2)), nn.AdaptiveMaxPool3d(2), nn.Flatten()
    )


MODELS = {
    "behind a convolution": (Channels, (2, 3, 4, 5)),
    "rows": (lambda: Attention(False), (2, 3, 5, 8)),
    "columns": (lambda: Attention(True), (2, 3, 5, 8)),
    "pooling": (latest, (2, 4, 6, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("name", MODELS)
def test_inputs_come_in_any_order(monkeypatch: pytest.MonkeyPatch, name: str, backend: str) -> None:
    """Whatever the order that a program was traced with."""
    monkeypatch.setattr(inductor, "compile_graph", lambda module, _: module)
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = build().eval(), torch.randn(shape)
    model(x)
    orders = [x, columns(x), last(x)]
    exact = copy.deepcopy(model).double()
    expected = fxlrp.compile(exact, rules="gradient")(x.double(), target=1)
    torch.testing.assert_close(expected.output, exact(x.double()))
    for traced in orders[:2]:
        attributor = fxlrp.compile(model, rules="gradient", backend=backend)
        attributor.compile(traced, target=1)
        for given in orders:
            found = attributor(given, target=1)
            torch.testing.assert_close(found.relevance, expected.relevance.float())
            torch.testing.assert_close(found.output, expected.output.float())


def test_artefacts_take_inputs_in_any_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention(True), torch.randn(2, 3, 5, 8)
    model(x)
    attributor = fxlrp.compile(model.eval(), (columns(x),), rules="gradient")
    path = attributor.save(tmp_path / "model.pt2", columns(x), format="pt2")
    artefact = fxlrp.load(path)
    expected = attributor(x, target=1).relevance
    for given in (x, columns(x), last(x)):
        torch.testing.assert_close(artefact(given, target=1).relevance, expected)


@torch.library.custom_op("dense::upside", mutates_args=())
def upside(x: Tensor, others: list[Tensor]) -> Tensor:
    """Reads rows, whatever strides say."""
    assert x.is_contiguous()
    assert all(other.is_contiguous() for other in others)
    return x.flip(0)


@upside.register_fake
def _(x: Tensor, others: list[Tensor]) -> Tensor:
    return torch.empty_like(x)


def test_ops_of_others_get_rows() -> None:
    x = torch.rand(3, 4).t()
    graph = torch.fx.Graph()
    given = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.dense.upside.default, (given, [given])))
    assert order_operands(graph) == 1
    assert order_operands(graph) == 0
    assert torch.equal(torch.fx.GraphModule({}, graph)(x), x.flip(0))


def test_what_is_in_order_is_not_copied() -> None:
    images = torch.rand(2, 4, 3, 5)
    for x in (images, images.contiguous(memory_format=torch.channels_last)):
        assert make_rows_or_pixels(x) is x
    assert make_rows_or_pixels(turned(images)).is_contiguous()
    tokens = torch.rand(2, 5, 3, 4).transpose(1, 2)
    assert make_vectors_dense(tokens) is tokens
    assert make_vectors_dense(tokens.mT).is_contiguous()
