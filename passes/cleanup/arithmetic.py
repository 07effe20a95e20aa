"""Arithmetic that changes nothing, and zeros that are written over: what traced adjoints leave behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.passes.canonical.identities import take_first
from fxlrp.passes.manager import insert, is_same_shape, make_sweep, shape_of, substitute

aten = torch.ops.aten


def drop_neutral_operand(node: fx.Node, number: float) -> fx.Node | None:
    """Return ``x`` for ``op(x, number)`` of the same dtype."""
    x, other = node.args[:2]
    alike = (
        isinstance(x, fx.Node)
        and x.meta["val"].dtype == node.meta["val"].dtype
        and is_same_shape(shape_of(x), shape_of(node))
    )
    return x if alike and isinstance(other, (int, float)) and other == number else None  # type: ignore[return-value]


def drop_one(node: fx.Node) -> fx.Node | None:
    """Rewrite ``x * 1 -> x`` and ``x / 1 -> x``."""
    return drop_neutral_operand(node, 1) if not node.kwargs else None


def drop_zero(node: fx.Node) -> fx.Node | None:
    """Rewrite ``x + 0 -> x``."""
    return drop_neutral_operand(node, 0)


def drop_double_transpose(node: fx.Node) -> fx.Node | None:
    """Rewrite ``x.t().t() -> x``."""
    return take_first(take_first(node)) if take_first(node).target is aten.t.default else None


def drop_single_cat(node: fx.Node) -> fx.Node | None:
    """Rewrite ``cat([x]) -> x``."""
    tensors: Any = node.args[0]
    return tensors[0] if len(tensors) == 1 else None


drop_neutral_arithmetic = make_sweep(
    {
        aten.mul.Tensor: drop_one,
        aten.mul.Scalar: drop_one,
        aten.div.Tensor: drop_one,
        aten.div.Scalar: drop_one,
        aten.add.Tensor: drop_zero,
        aten.add.Scalar: drop_zero,
        aten.t.default: drop_double_transpose,
        aten.cat.default: drop_single_cat,
    }
)


def join_pieces(graph: fx.Graph) -> int:
    """Write sums of pieces, each padded with zeros to the whole, as one concatenation.

    ``slice_backward(a, ..., 0, k) + slice_backward(b, ..., k, n) -> cat([a, b])``, and the same of ``select_backward``
    and ``stack``: the adjoints of a split, of rotary positions, and of packed queries, keys and values.
    """
    hits = 0
    for node in list(graph.nodes):
        if (
            node.target is aten.add.Tensor
            and not node.kwargs
            and (whole := insert_joined(node, list_terms(node))) is not None
        ):
            substitute(node, whole)
            hits += 1
    return hits


def list_terms(node: fx.Node) -> list[Any]:
    """List what a sum of sums adds up, where nothing else uses the inner sums."""
    found: list[Any] = []
    for arg in node.args:
        inner = isinstance(arg, fx.Node) and arg.target is aten.add.Tensor and not arg.kwargs and len(arg.users) == 1
        found += list_terms(arg) if inner else [arg]  # type: ignore[arg-type]
    return found


def insert_joined(node: fx.Node, parts: list[Any]) -> fx.Node | None:
    """Insert one concatenation of the parts, if they fill a dimension without a gap."""
    ops = {part.target if isinstance(part, fx.Node) else None for part in parts}
    if len(ops) > 1 or not ops <= {aten.slice_backward.default, aten.select_backward.default}:
        return None
    (op,) = ops
    dims = {part.args[2] for part in parts}
    if len(dims) > 1 or not all(is_same_shape(shape_of(part), shape_of(node)) for part in parts):
        return None
    (dim,) = dims
    size = shape_of(node)[dim]
    if not isinstance(size, int):
        return None
    spans = sorted((*locate_piece(part, size), i) for i, part in enumerate(parts))
    edges = [0, *(end for _, end, _ in spans)]
    if edges[-1] != size or [start for start, _, _ in spans] != edges[:-1]:
        return None
    pieces = [parts[i].args[0] for _, _, i in spans]
    return insert(node, aten.cat.default if op is aten.slice_backward.default else aten.stack.default, pieces, dim)


def locate_piece(part: fx.Node, size: int) -> tuple[int, int]:
    """Say where a piece begins and ends; nowhere if it has gaps."""
    if part.target is aten.select_backward.default:
        index: Any = part.args[3]
        return (index % size, index % size + 1) if isinstance(index, int) else (-1, -1)
    start, end, step = part.args[3:6]
    if not isinstance(start, int) or not isinstance(end, int) or step != 1:
        return -1, -1
    return slice(start, end).indices(size)[:2]
