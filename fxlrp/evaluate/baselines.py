"""What takes the place of parts that are removed from an input."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fxlrp.errors import SignatureError

Baseline = Callable[[Tensor], Tensor]
"""Given inputs, what replaces them, in their shape."""


def blur(sigma: float = 15.0) -> Baseline:
    """Return a Gaussian blur of images ``(samples, channels, height, width)``, with reflected borders.

    Args:
        sigma: Standard deviation in pixels; the kernel ends at four of them, or at the border of the image.

    Raises:
        SignatureError: Unless ``sigma`` is above 0; when called, unless inputs have four dimensions.
    """
    if not sigma > 0:
        raise SignatureError(f"sigma={sigma!r} is no width of a blur: give a number of pixels above 0")

    def replace(x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise SignatureError(f"only images are blurred, (samples, channels, height, width), not {tuple(x.shape)}")
        for dim in (2, 3):
            radius = min(math.ceil(4 * sigma), x.shape[dim] - 1)
            at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
            kernel = torch.softmax(-(at**2) / (2 * sigma**2), 0)
            lines = x.movedim(dim, -1)
            flat = functional.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="reflect")
            x = functional.conv1d(flat, kernel.view(1, 1, -1)).reshape(lines.shape).movedim(-1, dim)
        return x

    return replace


def mean() -> Baseline:
    """Return the mean of each sample, by channel: over all dimensions behind the second."""

    def replace(x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1).reshape(*x.shape[:2], *(1 for _ in x.shape[2:])).expand_as(x)

    return replace


def constant(value: float = 0.0) -> Baseline:
    """Return a number for every entry: 0, or the id of a mask or padding token."""

    def replace(x: Tensor) -> Tensor:
        return torch.full_like(x, value)

    return replace


def noise(scale: float = 1.0, seed: int = 0) -> Baseline:
    """Return normal noise of mean 0 and a standard deviation, the same for the same seed."""

    def replace(x: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return (scale * drawn).to(x)

    return replace


def fixed(values: Tensor) -> Baseline:
    """Return given values, such as the mean of a data set by channel, or ones that were learned.

    Args:
        values: In a shape that broadcasts to a sample, such as ``(channels, 1, 1)``.

    Raises:
        SignatureError: When called, if they do not broadcast to a sample.
    """

    def replace(x: Tensor) -> Tensor:
        try:
            return values.to(x).expand(x.shape[1:]).expand_as(x)
        except RuntimeError as error:
            raise SignatureError(
                f"the baseline has the shape {tuple(values.shape)}, which does not broadcast to a sample of the shape "
                f"{tuple(x.shape[1:])}"
            ) from error

    return replace
