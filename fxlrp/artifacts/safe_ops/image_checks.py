"""What pools, samplers and convolutions rely on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fxlrp.artifacts.safe_ops.expectations import Check, expect, expect_range, expect_shape, repeat_per_dimension

MAX_PADDING = 2**40
"""Entries that are added at an end of a dimension."""
MAX_WINDOW = 2**24
"""Entries that a window covers."""
ROUNDING = 1e-6
"""Relative error of factors."""
SCALES = 1e-6, 1e6
"""Factors by which images grow; beyond, places in them are no numbers that a processor can count to."""


def check_pool_backward(dims: int) -> Check:
    """Expect each maximum to come from an entry of its own image."""

    def check(grad_output: Tensor, self: Tensor, indices: Tensor) -> None:
        expect_gradients(grad_output, self, dims)
        expect_shape(indices, grad_output.shape, "indices")
        expect_range(indices, math.prod(self.shape[-dims:]))

    return check


def check_average_backward(dims: int) -> Check:
    """Expect one gradient per image."""

    def check(grad_output: Tensor, self: Tensor) -> None:
        expect_gradients(grad_output, self, dims)
        expect(min(self.shape[-dims:]) > 0, "images that are not empty")

    return check


def expect_gradients(grad_output: Tensor, images: Tensor, dims: int) -> None:
    """Refuse gradients of another batch, or of other channels; how large the output's images are, the op checks."""
    expect(images.ndim in (dims + 1, dims + 2), f"images of {dims} dimensions")
    expect_shape(grad_output, [*images.shape[:-dims], *grad_output.shape[images.ndim - dims :]], "grad_output")


def check_pad(dims: int) -> Check:
    """Expect that no more is cut off than is there."""

    def check(self: Tensor, padding: Sequence[int]) -> None:
        compute_padded_sizes(self, padding, dims)

    return check


def check_pad_backward(dims: int) -> Check:
    """Expect one gradient per entry of the output."""

    def check(grad_output: Tensor, self: Tensor, padding: Sequence[int]) -> None:
        expect_shape(grad_output, [*self.shape[:-dims], *compute_padded_sizes(self, padding, dims)], "grad_output")

    return check


def compute_padded_sizes(x: Tensor, padding: Sequence[int], dims: int) -> list[int]:
    """Return the sizes with what is added before and behind; torch counts from the last dimension."""
    expect(x.ndim in (dims + 1, dims + 2) and len(padding) == 2 * dims, f"images of {dims} dimensions")
    ends = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    sizes = x.shape[-dims:]
    expect(
        all(-n < p <= MAX_PADDING for n, pair in zip(sizes, ends, strict=True) for p in pair), "no more than is there"
    )
    return [n + sum(pair) for n, pair in zip(sizes, ends, strict=True)]


def check_fractional_pool(self: Tensor, random_samples: Tensor) -> None:
    """Expect samples that are shares of what is left over."""
    dims = random_samples.shape[-1]
    expect(self.ndim > dims, f"images of {dims} dimensions")
    batch = self.shape[0] if self.ndim == dims + 2 else 1
    expect_shape(random_samples, (batch, self.shape[-dims - 1], dims), "random_samples")
    expect(bool(((random_samples >= 0) & (random_samples < 1)).all()), "random_samples from 0 to 1")


def check_window(kernel_size: Any, stride: Any, padding: Any) -> None:
    """Expect windows and steps of sizes that can be counted through."""
    numbers = [n for given in (kernel_size, stride, padding) for n in repeat_per_dimension(given, 1)]
    expect(max(numbers) <= MAX_WINDOW, f"windows of {MAX_WINDOW} at most")


def check_scales(
    output_size: Sequence[int] | None,
    self: Tensor | None = None,
    input_size: Sequence[int] | None = None,
    scales_d: float | None = None,
    scales_h: float | None = None,
    scales_w: float | None = None,
    scales: float | None = None,
) -> None:
    """Expect the factors by which sizes grow."""
    before = input_size if input_size is not None else () if self is None else self.shape
    factors = [scale for scale in (scales_d, scales_h, scales_w, scales) if scale is not None]
    if factors and output_size is not None:
        places = zip(before[2:], output_size, factors, strict=True)
        fits = (after <= size * factor * (1 + ROUNDING) for size, after, factor in places)
        expect(all(fits), "factors by which sizes grow so far")


def check_factors(scale_factors: Sequence[float] | None) -> None:
    """Expect factors near enough to 1."""
    low, high = SCALES
    expect(all(low <= factor <= high for factor in scale_factors or ()), f"factors from {low:g} to {high:g}")


def check_grid(interpolation_mode: int, padding_mode: int) -> None:
    """Expect modes that there are."""
    expect(interpolation_mode in (0, 1, 2) and padding_mode in (0, 1, 2), "modes that there are")


def check_grid_backward(
    grad_output: Tensor, input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int
) -> None:
    """Expect one gradient per channel and place of the grid."""
    check_grid(interpolation_mode, padding_mode)
    expect_shape(grad_output, [*input.shape[:2], *grid.shape[1:-1]], "grad_output")


def check_convolution_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> None:
    """Expect one gradient per entry of the output."""
    n = weight.ndim - 2
    expect(n >= 1 and input.ndim == weight.ndim and groups >= 1, "images and filters of one number of dimensions")
    steps, edges, gaps, extra = (repeat_per_dimension(x, n) for x in (stride, padding, dilation, output_padding))
    images = zip(input.shape[2:], weight.shape[2:], steps, edges, gaps, extra, strict=True)
    sizes = [compute_output_size(size, kernel, *numbers, transposed=transposed) for size, kernel, *numbers in images]
    inside, outside = (0, 1) if transposed else (1, 0)
    ins, outs = weight.shape[inside], weight.shape[outside]
    expect(input.shape[1] == (ins if transposed else ins * groups), "the channels of the filters")
    expect_shape(grad_output, [input.shape[0], outs * groups if transposed else outs, *sizes], "grad_output")


def compute_output_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int, *, transposed: bool
) -> int:
    """Return the size of one dimension of a convolution's output."""
    expect(stride >= 1 and dilation >= 1 and padding >= 0, "strides and dilations of 1 or more")
    reach = dilation * (kernel - 1)
    if transposed:
        return (size - 1) * stride - 2 * padding + reach + output_padding + 1
    return (size + 2 * padding - reach - 1) // stride + 1
