"""What ops rely on that select entries, or look at memory in another way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.artifacts.safe_ops.expectations import (
    compute_extent,
    expect,
    expect_offsets,
    expect_range,
    expect_shape,
    expect_vectors,
)

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types of numbers that artefacts hold; quantised ones have kernels of their own."""
DEVICES = ("cpu", "cuda", "mps", "xpu")


def check_new_tensor(dtype: Any = None, layout: Any = None, device: Any = None) -> None:
    """Expect tensors of plain numbers that lie in memory."""
    expect(dtype is None or dtype in DTYPES, f"a dtype of numbers, not {dtype}")
    expect(layout is None or layout is torch.strided, f"a strided layout, not {layout}")
    expect(device is None or torch.device(device).type in DEVICES, f"a device with memory, not {device}")


def check_view_as(self: Tensor, dtype: torch.dtype) -> None:
    """Expect no bytes to be read as truth values: kernels count on those being 0 or 1."""
    expect(dtype in DTYPES and (dtype is not torch.bool or self.dtype is torch.bool), f"another dtype than {dtype}")


def check_strided(self: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> None:
    """Expect reads between the first and the last entry of the tensor, whatever else is in its storage."""
    first = self.storage_offset()
    start = first if storage_offset is None else storage_offset
    expect(len(size) == len(stride) and min([*size, *stride, start], default=0) >= 0, "sizes and strides of one length")
    if math.prod(size):
        end, own = start + compute_extent(size, stride), first + compute_extent(self.shape, self.stride())
        expect(self.numel() > 0 and first <= start and end <= own, "entries of the tensor itself")


def check_strided_scatter(
    self: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> None:
    """Expect the same of what is written to a copy."""
    expect_shape(src, size, "src")
    check_strided(self, size, stride, storage_offset)


def check_division(self: Tensor, other: Any, rounding_mode: str | None) -> None:
    """Expect no division of the smallest integer by -1: there is no result, and the process is stopped."""
    whole = not (self.is_floating_point() or self.is_complex() or isinstance(other, float))
    if whole and rounding_mode == "trunc" and has_entry(other, -1):
        expect(
            not (has_entry(self, -(2**63)) or has_entry(self, -(2**31))), "no division of the smallest integer by -1"
        )


def has_entry(x: Any, number: int) -> bool:
    """Return whether a number is among entries."""
    return bool((x == number).any()) if isinstance(x, Tensor) else x == number


def check_cdist_backward(grad: Tensor, x1: Tensor, x2: Tensor, cdist: Tensor) -> None:
    """Expect one gradient per pair."""
    expect(min(x1.ndim, x2.ndim) >= 2 and x1.shape[-1] == x2.shape[-1], "vectors of one length")
    batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2])  # type: ignore[no-untyped-call]
    expect_shape(cdist, [*batch, x1.shape[-2], x2.shape[-2]], "cdist")
    expect_shape(grad, cdist.shape, "grad")


def check_pdist(self: Tensor) -> None:
    """Expect rows that are vectors."""
    expect(self.ndim == 2, "rows of vectors")


def check_pdist_backward(grad: Tensor, self: Tensor, pdist: Tensor) -> None:
    """Expect one gradient per pair of rows."""
    check_pdist(self)
    pairs = self.shape[0] * (self.shape[0] - 1) // 2
    expect_vectors(pairs, grad=grad, pdist=pdist)


def check_unfold_backward(grad_in: Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int) -> None:
    """Expect one gradient per entry of each window."""
    n = len(input_sizes)
    expect(-n <= dim < n and min(input_sizes) >= 0 and step >= 1, "a dimension of the input")
    windows = list(input_sizes)
    expect(0 <= size <= windows[dim], "windows that fit in")
    windows[dim] = (windows[dim] - size) // step + 1
    expect_shape(grad_in, [*windows, size], "grad_in")


def check_transform(self: Tensor, dim: Sequence[int], normalization: int) -> None:
    """Expect dimensions that are counted from the beginning, each once."""
    expect(len(set(dim)) == len(dim) and all(0 <= d < self.ndim for d in dim), "each dimension once")
    expect(normalization in (0, 1, 2), "a normalisation that there is")


def check_real_transform(self: Tensor, dim: Sequence[int], normalization: int) -> None:
    """Expect something to transform."""
    check_transform(self, dim, normalization)
    expect(len(dim) > 0, "a dimension to transform")


def check_half_transform(self: Tensor, dim: Sequence[int], normalization: int, last_dim_size: int) -> None:
    """Expect the last of them to hold the half of the frequencies that is told apart."""
    check_real_transform(self, dim, normalization)
    expect(last_dim_size >= 1, "a dimension to transform")
    expect(self.shape[dim[-1]] == last_dim_size // 2 + 1, f"{last_dim_size // 2 + 1} frequencies")


def check_segments(data: Tensor, lengths: Tensor | None, offsets: Tensor | None, axis: int) -> None:
    """Expect segments that follow one another up to the end."""
    given = lengths if lengths is not None else offsets
    expect(given is not None, "lengths or offsets")
    assert given is not None
    expect(0 <= axis < data.ndim and given.ndim == axis + 1, "segments of the last dimension that they share")
    expect_shape(given, [*data.shape[:axis], *given.shape[axis:]], "segments")
    size = data.shape[axis]
    if lengths is None:
        expect_offsets(given, size)
    else:
        expect_range(given, size + 1, name="lengths")
        expect(bool((given.sum(-1) == size).all()), f"lengths whose sum is {size}")


def check_segments_backward(
    grad: Tensor, output: Tensor, data: Tensor, lengths: Tensor | None, offsets: Tensor | None, axis: int
) -> None:
    """Expect one gradient per segment."""
    check_segments(data, lengths, offsets, axis)
    segments = lengths.shape[-1] if lengths is not None else offsets.shape[-1] - 1 if offsets is not None else 0
    expect_shape(output, [*data.shape[:axis], segments, *data.shape[axis + 1 :]], "output")
    expect_shape(grad, output.shape, "grad")


def check_loss(self: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int) -> None:
    """Expect targets that are classes, or to be left out."""
    expect(self.ndim >= 1 and reduction in (0, 1, 2), "scores of classes")
    at = 0 if self.ndim == 1 else 1
    classes = self.shape[at]
    expect_shape(target, [n for i, n in enumerate(self.shape) if i != at], "target")
    expect_range(target[target != ignore_index], classes, name="target")
    expect_vectors(classes, weight=weight)


def check_loss_backward(
    grad_output: Tensor,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> None:
    """Expect one gradient per target, or one for all."""
    check_loss(self, target, weight, reduction, ignore_index)
    expect_shape(grad_output, target.shape if reduction == 0 else grad_output.shape, "grad_output")
    expect((reduction == 0 or grad_output.numel() == 1) and total_weight.numel() == 1, "one gradient")


def check_pivots(LU: Tensor, pivots: Tensor) -> None:
    """Expect rows to be exchanged with rows that there are."""
    expect(LU.ndim >= 2, "matrices")
    expect_shape(pivots, [*LU.shape[:-2], min(LU.shape[-2:])], "pivots")
    expect_range(pivots, LU.shape[-2] + 1, start=1, name="pivots")


def check_unpacked_pivots(LU_data: Tensor, LU_pivots: Tensor) -> None:
    """Expect the same under other names."""
    check_pivots(LU_data, LU_pivots)
