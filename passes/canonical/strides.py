"""Give ops that read memory by strides a memory of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.ir.ops import name_arguments
from fxlrp.ir.provenance import describe
from fxlrp.passes.manager import Pass, insert, make_sweep, shape_of

aten = torch.ops.aten


def insert_memory_row(node: fx.Node) -> tuple[fx.Node, list[int]]:
    """Insert the first operand as one row in the order of its memory, and return that order of its dimensions too.

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


def read_layout(node: fx.Node) -> tuple[Any, Any, Any]:
    """Return size, stride and offset of what an op reads or writes."""
    a = name_arguments(node)
    return a["size"], a["stride"], a["storage_offset"] or 0


def own_gather(node: fx.Node) -> fx.Node | None:
    """Write ``as_strided(x, ...)`` as one of a row with the memory of ``x``."""
    if is_owned(node):
        return None
    row, _ = insert_memory_row(node)
    return insert(node, aten.as_strided.default, row, *read_layout(node))


def own_scatter(node: fx.Node) -> fx.Node | None:
    """Write ``as_strided_scatter(x, src, ...)`` into such a row, which then takes the shape of ``x``."""
    if is_owned(node):
        return None
    row, order = insert_memory_row(node)
    filled = insert(node, aten.as_strided_scatter.default, row, node.args[1], *read_layout(node))
    ordered = insert(node, aten.reshape.default, filled, [shape_of(node)[d] for d in order])
    return insert(node, aten.permute.default, ordered, [order.index(d) for d in range(len(order))])


def write_pairs(node: fx.Node) -> fx.Node:
    """Write ``view_as_complex(x)`` as ``complex(x[..., 0], x[..., 1])``, wherever in memory the pairs are."""
    parts = (insert(node, aten.select.int, node.args[0], -1, i) for i in (0, 1))
    return insert(node, aten.complex.default, *parts)


own_pairs: Pass = make_sweep({aten.view_as_complex.default: write_pairs})
own_memory: Pass = make_sweep(
    {
        aten.as_strided.default: own_gather,
        aten.as_strided_copy.default: own_gather,
        aten.as_strided_scatter.default: own_scatter,
    }
)
