"""From tensors of a model to what can be drawn: photographs, maps of relevance, limits of colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxlrp.errors import SignatureError

Pixels = NDArray[np.float64]
Numbers = float | Sequence[float]
TOLERANCE = 0.5
"""How far a restored value may lie outside of 0 to 1: noise and compression go a little beyond."""


def restore_images(x: Tensor, mean: Numbers | None = None, std: Numbers | None = None) -> Pixels:
    """Return images as photographs, of shape (samples, height, width, 3) and with values from 0 to 1.

    Args:
        x: Images as a model takes them, of shape (samples, 1 or 3 channels, height, width).
        mean: What was subtracted from values between 0 and 1, a number or one per channel.
        std: What they were divided by then. Without both, each image is scaled to its own range.

    Raises:
        SignatureError: If these are no images, or no values from 0 to 1 come out.
    """
    check_images(x)
    values = x.detach().double().cpu()
    if (mean is None) != (std is None):
        raise SignatureError("mean and std undo a normalisation together: give both, or none of them")
    if mean is None or std is None:
        low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
        values = (values - low) / torch.where(high > low, high - low, 1.0)
    else:
        values = values * spread_over_channels(std, x.shape[1], "std") + spread_over_channels(mean, x.shape[1], "mean")
        low, high = values.aminmax()
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise SignatureError(
                f"x * std + mean has values from {low:.4g} to {high:.4g}, where photographs have values from 0 to 1: "
                "give mean and std of these (those of images from 0 to 255 are divided by 255), or none of both"
            )
    pixels: Pixels = values.clamp(0, 1).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return pixels


def check_images(x: Any) -> None:
    """Refuse what is no batch of images.

    Raises:
        SignatureError: If it is none, with what it is.
    """
    if not isinstance(x, Tensor):
        raise SignatureError(f"images are a tensor of shape (samples, channels, height, width), not {type(x).__name__}")
    shape = tuple(x.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or not x.numel():
        hint = ": add a dimension by x[None]" if len(shape) == 3 and shape[0] in (1, 3) else ""
        hint = ": move the channels by x.permute(0, 3, 1, 2)" if len(shape) == 4 and shape[3] in (1, 3) else hint
        raise SignatureError(f"images have shape (samples, 1 or 3 channels, height, width), not {shape}{hint}")
    if x.is_complex() or not x.isfinite().all():
        raise SignatureError("images consist of finite real numbers, and x has others")


def spread_over_channels(numbers: Numbers, channels: int, name: str) -> Tensor:
    """Return one number per channel, of shape (channels, 1, 1)."""
    values = torch.as_tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1)
    if len(values) not in (1, channels):
        raise SignatureError(f"{name} has {len(values)} numbers for {channels} channels: give one, or one per channel")
    return values


def sum_channels(relevance: Any, samples: int) -> Pixels:
    """Return maps of relevance, of shape (samples, maps, height, width).

    Args:
        relevance: Relevance of images, or of what a layer makes of them, of shape (samples, channels, height, width);
            for several targets or conditions with a leading dimension.
        samples: How many images there are.

    Raises:
        SignatureError: If it is not shaped so.
    """
    if isinstance(relevance, Mapping):
        raise SignatureError(
            f"the model has several inputs, {', '.join(map(repr, relevance))}: give relevance of one of them, "
            "result.relevance[name]"
        )
    if not isinstance(relevance, Tensor):
        raise SignatureError(f"relevance is a tensor or what an attributor returns, not {type(relevance).__name__}")
    if relevance.ndim not in (4, 5) or relevance.shape[-4] != samples or not relevance.numel():
        raise SignatureError(
            f"relevance of {samples} images has shape ({samples}, channels, height, width), with a leading dimension "
            f"for several targets, not {tuple(relevance.shape)}"
        )
    maps = relevance.detach().double().cpu().sum(-3)
    summed: Pixels = (maps[:, None] if maps.ndim == 3 else maps.transpose(0, 1)).numpy()
    return summed


def find_limit(values: Pixels, percentile: float) -> float:
    """Return where the colours of a map end: a percentile of its absolute relevance.

    It is the largest where most values are 0 (so that the percentile is, too), and 1 where all are. Values that are not
    finite do not count.

    Raises:
        SignatureError: If the percentile is not between 0 and 100.
    """
    if not 0 < percentile <= 100:
        raise SignatureError(f"percentile is a number above 0 and up to 100, not {percentile!r}")
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.any():
        return 1.0
    return float(np.percentile(sizes, percentile)) or float(sizes.max())
