"""Give ops that read memory by strides a memory of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.ir.provenance import describe
from fxlrp.passes.manager import Pass, insert, make_sweep, shape_of

aten = torch.ops.aten


def insert_memory_row(node: fx.Node) -> tuple[fx.Node, list[int]]:
    """The first operand as one row in the order of its memory, and that order of its dimensions.

    Later passes drop clones, after which strides are others.

    Raises:
        CaptureError: If the operand is a view of part of a memory.
    """
    x: Any = node.args[0]
    val = x.meta["val"]
    order = sorted(range(val.ndim), key=lambda d: (-val.stride(d), d))
    ordered = val.permute(order)
    if not ordered.is_contiguous() or val.untyped_storage().nbytes() != val.numel() * val.itemsize:
        raise CaptureError(
            f"as_strided reads memory that its input does not own: {describe(node)}\nIndex, slice or unfold it instead."
        )
    if order != sorted(order):
        x = insert(node, aten.permute.default, x, order)
    return insert(node, aten.repeat.default, insert(node, aten.reshape.default, x, [-1]), [1]), order


def is_owned(node: fx.Node) -> bool:
    """Whether the operand is a row of its own already."""
    x: Any = node.args[0]
    return bool(x.target is aten.repeat.default and x.args[1] == [1])


def own_gather(node: fx.Node) -> fx.Node | None:
    """``as_strided(x, ...)`` of a row with the memory of ``x``."""
    if is_owned(node):
        return None
    row, _ = insert_memory_row(node)
    size, stride, offset = (*node.args[1:], None)[:3]
    return insert(node, aten.as_strided.default, row, size, stride, offset or 0)


def own_scatter(node: fx.Node) -> fx.Node | None:
    """``as_strided_scatter(x, src, ...)`` into such a row, which then takes the shape of ``x``."""
    if is_owned(node):
        return None
    row, order = insert_memory_row(node)
    src, size, stride, offset = (*node.args[1:], None)[:4]
    filled = insert(node, aten.as_strided_scatter.default, row, src, size, stride, offset or 0)
    ordered = insert(node, aten.reshape.default, filled, [shape_of(node)[d] for d in order])
    return insert(node, aten.permute.default, ordered, [order.index(d) for d in range(len(order))])


def write_pairs(node: fx.Node) -> fx.Node:
    """``view_as_complex(x) -> complex(x[..., 0], x[..., 1])``, which does not ask for pairs side by side in memory."""
    parts = (insert(node, aten.select.int, node.args[0], -1, i) for i in (0, 1))
    return insert(node, aten.complex.default, *parts)


own_memory: Pass = make_sweep(
    {
        aten.view_as_complex.default: write_pairs,
        aten.as_strided.default: own_gather,
        aten.as_strided_copy.default: own_gather,
        aten.as_strided_scatter.default: own_scatter,
    }
)
