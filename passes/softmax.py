"""Recognise softmax written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.passes.manager import Pass, insert, same, shape, sweep

aten = torch.ops.aten

MOVES = (
    aten.expand.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.alias.default,
    aten.clone.default,
)


def skip_moves(node: Any) -> Any:
    """The node behind views that only broadcast."""
    while isinstance(node, fx.Node) and node.target in MOVES:
        node = node.args[0]
    return node


def summed(node: Any, exponential: fx.Node) -> int | None:
    """The dimension that ``node`` sums ``exponential`` over, kept or put back by broadcasting."""
    total = skip_moves(node)
    if not isinstance(total, fx.Node) or total.target is not aten.sum.dim_IntList or total.args[0] is not exponential:
        return None
    dims: Any = total.args[1]
    ndim = len(shape(exponential))
    if len(dims) != 1:
        return None
    dim = int(dims[0]) % ndim
    kept = tuple(1 if i == dim else n for i, n in enumerate(shape(exponential)))
    return dim if same(shape(node), kept) or same(shape(node), shape(exponential)) else None


def without_offset(logits: fx.Node, dim: int) -> Any:
    """``x - m`` is ``x`` to softmax when ``m`` is the same along the dimension, as its maximum is."""
    if logits.target is not aten.sub.Tensor or logits.kwargs:
        return logits
    x, offset = logits.args[0], skip_moves(logits.args[1])
    if not isinstance(x, fx.Node) or not same(shape(x), shape(logits)):
        return logits
    before = shape(logits.args[1]) if isinstance(logits.args[1], fx.Node) else ()
    reduced = shape(offset) if len(shape(offset)) == len(shape(x)) else before
    padded = (1,) * (len(shape(x)) - len(reduced)) + tuple(reduced)
    return x if same((padded[dim],), (1,)) else logits


def softmax(node: fx.Node) -> fx.Node | None:
    """Rewrite ``exp(z) / sum(exp(z))`` to ``softmax(z)``, whatever offset is subtracted from ``z`` first."""
    top, bottom = node.args[:2]
    if not isinstance(top, fx.Node) or top.target is not aten.exp.default:
        return None
    (logits,) = top.all_input_nodes
    dim = summed(bottom, top)
    return None if dim is None else insert(node, aten.softmax.int, without_offset(logits, dim), dim)


recognise: Pass = sweep({aten.div.Tensor: softmax})
