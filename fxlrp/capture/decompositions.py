"""How far capture takes a model apart."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

KEEP_WHOLE = frozenset(
    {
        "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "matmul", "scaled_dot_product_attention", "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm",
        "instance_norm", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "hardswish", "hardsigmoid",
        "softplus", "log_sigmoid", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d",
        "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
        "upsample_trilinear3d", "_safe_softmax", "special_log_ndtr", "linalg_vector_norm",
    }
)  # fmt: skip
"""Ops that have a rule of their own, though torch would decompose them (`linalg_vector_norm` since 2.14)."""


FEW_EXPERTS = 16
"""Up to so many experts, every row is multiplied by all of them; beyond, each row gets a copy of its expert."""


def make_decompositions() -> Mapping[Any, Any]:
    """Make the core ATen table without the ops that stay whole, and with decompositions of our own."""
    fallback = getattr(torch.ops.transformers, "grouped_mm_fallback", None)  # registered by its package's import
    return make_core_table() | ({fallback.default: grouped_mm} if fallback is not None else {})


@functools.cache
def make_core_table() -> dict[Any, Any]:
    """Make the part of that table that torch's own ops have."""
    table = dict(torch.export.default_decompositions())
    table = {op: f for op, f in table.items() if op.name().partition("::")[2].partition(".")[0] not in KEEP_WHOLE}
    return table | {aten.index_fill.int_Tensor: index_fill, aten._grouped_mm.default: grouped_mm}


def grouped_mm(
    x: Tensor,
    weight: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply each group of rows by the matrix of its expert; no size depends on how many rows a group has.

    Args:
        x: (rows, inputs), sorted by expert.
        weight: (experts, inputs, outputs).
        offs: Where the group of each expert ends. Rows beyond the last are 0.
        bias: Not supported, as by torch.
        out_dtype: Dtype of the result; that of ``x`` by default.
    """
    if offs is None or bias is not None or (x.ndim, weight.ndim) != (2, 3):
        return NotImplemented  # type: ignore[no-any-return]
    experts = weight.shape[0]
    rows = torch.arange(x.shape[0], device=x.device)
    expert = (rows[:, None] >= offs).sum(1)
    known = expert.clamp(max=experts - 1)
    if experts <= FEW_EXPERTS:
        every = torch.matmul(x, weight)
        y = every.gather(0, known[None, :, None].expand(1, -1, every.shape[2])).squeeze(0)
    else:
        y = torch.bmm(x[:, None], weight[known]).squeeze(1)
    y = torch.where((expert < experts)[:, None], y, 0.0)
    return y if out_dtype is None else y.to(out_dtype)


def index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor) -> Tensor:
    """Choose by place: torch's own writes twice, and counts the value twice, where an index is repeated."""
    places = torch.arange((x.shape or (1,))[dim], device=x.device)
    chosen = (places[:, None] == index.reshape(1, -1)).any(1)
    return torch.where(chosen.view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]), value, x)
