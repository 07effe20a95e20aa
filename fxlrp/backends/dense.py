"""Operands in the order of memory that a kernel reads.

A program runs on memory in other orders than it was traced with: packed convolutions leave channels last, callers give
inputs in any order, and passes drop copies. Nearly every kernel reads any order. Those that do not refuse theirs or,
worse, read entries that are not there; these few get operands in an order that they read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.ir.ops import ATTENTION_BACKWARDS, ATTENTION_KERNELS

aten = torch.ops.aten

Order = Callable[[Tensor], Tensor]


def make_rows(x: Tensor) -> Tensor:
    """Put entry behind entry, as shapes are read."""
    return x.contiguous()


def make_rows_or_pixels(x: Tensor) -> Tensor:
    """Make such rows, unless it is of images pixel by pixel."""
    if x.ndim == 4 and not x.is_contiguous():
        _, channels, height, width = x.shape
        if x.stride() == (channels * height * width, 1, channels * width, channels):
            return x
    return x.contiguous()


def make_vectors_dense(x: Tensor) -> Tensor:
    """Put the entries of each vector side by side, vectors wherever they are."""
    return x if x.stride(-1) == 1 else x.contiguous()


EVERY_OPERAND = slice(None)
ORDERS: dict[OpOverload, tuple[Order, slice]] = {
    aten._embedding_bag.default: (make_rows, EVERY_OPERAND),
    aten._embedding_bag_backward.default: (make_rows, EVERY_OPERAND),
    aten._embedding_bag_dense_backward.default: (make_rows, EVERY_OPERAND),
    aten._embedding_bag_forward_only.default: (make_rows, EVERY_OPERAND),
    aten._embedding_bag_per_sample_weights_backward.default: (make_rows, EVERY_OPERAND),
    aten._pdist_forward.default: (make_rows, EVERY_OPERAND),
    aten._pdist_backward.default: (make_rows, EVERY_OPERAND),
    aten.adaptive_max_pool3d_backward.default: (make_rows, EVERY_OPERAND),
    aten.fractional_max_pool2d_backward.default: (make_rows, EVERY_OPERAND),
    aten.fractional_max_pool3d_backward.default: (make_rows, EVERY_OPERAND),
    aten.median.dim: (make_rows, EVERY_OPERAND),
    aten.nanmedian.dim: (make_rows, EVERY_OPERAND),
    aten.native_group_norm.default: (make_rows_or_pixels, EVERY_OPERAND),
    aten.native_group_norm_backward.default: (make_rows, EVERY_OPERAND),
    aten.nll_loss2d_backward.default: (make_rows, EVERY_OPERAND),
    aten.view_as_complex.default: (make_rows, EVERY_OPERAND),
    aten.view.dtype: (make_rows, EVERY_OPERAND),
    **dict.fromkeys(ATTENTION_KERNELS, (make_vectors_dense, slice(3))),
    **dict.fromkeys(ATTENTION_BACKWARDS, (make_vectors_dense, slice(5))),
    aten._scaled_dot_product_efficient_attention_backward.default: (make_vectors_dense, slice(4)),
}
"""Ops of torch that do not read every order: the one they read, and of which operands."""


def call_on_ordered(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Call an op on operands in the order that it reads; they are copied only if they are not."""
    order, which = ORDERS.get(op, (make_rows, EVERY_OPERAND))
    given = list(args)
    given[which] = [order_operand(x, order) for x in given[which]]
    return op(*given, **kwargs)


def order_operand(x: Any, order: Order) -> Any:
    """Put an operand, or each of a list, in an order of memory."""
    if isinstance(x, (list, tuple)):
        return [order_operand(one, order) for one in x]
    return order(x) if isinstance(x, Tensor) and x.layout is torch.strided else x


def order_operands(graph: fx.Graph) -> int:
    """Let ops have the order that they read, and those that are not torch's own rows; return how many there are."""
    choosy = [node for node in graph.nodes if node.op == "call_function" and is_choosy(node.target)]
    for node in choosy:
        node.args = node.target, *node.args
        node.target = call_on_ordered
    return len(choosy)


def is_choosy(op: object) -> bool:
    """Whether an op is known not to read every order, or not known to."""
    return isinstance(op, OpOverload) and (op in ORDERS or op.namespace not in ("aten", "prims", "fxlrp"))
