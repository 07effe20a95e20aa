"""Recognise softmax written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import COPIES
from fxlrp.passes.manager import Pass, insert, is_same_shape, make_sweep, shape_of

aten = torch.ops.aten

BROADCASTS = (*COPIES, aten.expand.default)
RESHAPES = (*BROADCASTS, aten.reshape.default, aten.unsqueeze.default)


def skip_ops(node: Any, ops: tuple[Any, ...]) -> Any:
    """Return the node behind a chain of some ops on it."""
    while isinstance(node, fx.Node) and node.target in ops:
        node = node.args[0]
    return node


def pad_shape(node: Any, ndim: int) -> tuple[Any, ...]:
    """Return the shape of a node as it broadcasts to ``ndim`` dimensions; empty if it is no tensor."""
    return (1,) * (ndim - len(shape_of(node))) + shape_of(node) if isinstance(node, fx.Node) else ()


def find_summed_dim(node: Any, exponential: fx.Node) -> int | None:
    """Find the dimension that ``node`` sums ``exponential`` over, kept or put back by broadcasting."""
    kept = skip_ops(node, BROADCASTS)
    total = skip_ops(kept, RESHAPES)
    if not isinstance(total, fx.Node) or total.target is not aten.sum.dim_IntList or total.args[0] is not exponential:
        return None
    dims: Any = total.args[1]
    ndim = len(shape_of(exponential))
    if len(dims) != 1:
        return None
    dim = int(dims[0]) % ndim
    wanted = tuple(1 if i == dim else n for i, n in enumerate(shape_of(exponential)))
    return dim if is_same_shape(pad_shape(kept, ndim), wanted) else None


def drop_offset(logits: fx.Node, dim: int) -> Any:
    """Drop ``m`` from ``x - m`` where it is the same along the dimension of softmax, as its maximum is."""
    if logits.target is not aten.sub.Tensor or logits.kwargs:
        return logits
    x, offset = logits.args[0], skip_ops(logits.args[1], BROADCASTS)
    if not isinstance(x, fx.Node) or not is_same_shape(shape_of(x), shape_of(logits)):
        return logits
    return x if is_same_shape(pad_shape(offset, len(shape_of(x)))[dim : dim + 1], (1,)) else logits


def rewrite_softmax(node: fx.Node) -> fx.Node | None:
    """Rewrite ``exp(z) / sum(exp(z))`` to ``softmax(z)``, whatever offset is subtracted from ``z`` first."""
    top, bottom = node.args[:2]
    if not isinstance(top, fx.Node) or top.target is not aten.exp.default:
        return None
    (logits,) = top.all_input_nodes
    dim = find_summed_dim(bottom, top)
    return None if dim is None else insert(node, aten.softmax.int, drop_offset(logits, dim), dim)


recognise_softmax: Pass = make_sweep({aten.div.Tensor: rewrite_softmax})
