"""Images as a model gets them, made visible again, and relevance between -1 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxlrp.errors import SignatureError

Channels = Sequence[float] | float | None
"""A number for all channels, or one for each."""


def restore_images(x: Tensor, mean: Channels = None, std: Channels = None) -> Tensor:
    """Undo the normalisation of images, ``x * std + mean``, and put channels last.

    Args:
        x: ``(samples, 1 or 3, height, width)``.
        mean: What was taken off values between 0 and 1; without it and ``std``, each image fills that range.
        std: What they were divided by then.

    Returns:
        ``(samples, height, width, 3)``, between 0 and 1.

    Raises:
        SignatureError: If these are no images, or only one of ``mean`` and ``std`` is given, or they do not fit.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise SignatureError(
            f"images are floating point, (samples, 1 or 3 channels, height, width), not {x.dtype} of {tuple(x.shape)}"
        )
    if (mean is None) != (std is None):
        raise SignatureError("give both mean and std, as the model's preparation has them, or neither")
    x = x.detach().double().cpu()
    if mean is None or std is None:
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = (x - low) / torch.where(high == low, 1.0, high - low)
    else:
        x = x * fit_channels("std", std, x) + fit_channels("mean", mean, x)
    return x.clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1)


def fit_channels(name: str, given: Sequence[float] | float, x: Tensor) -> Tensor:
    """Return numbers of channels in the shape of images."""
    found = torch.as_tensor(given, dtype=x.dtype).reshape(-1, 1, 1)
    if len(found) not in (1, x.shape[1]):
        raise SignatureError(f"{name} has {len(found)} numbers, and images have {x.shape[1]} channels")
    return found


def scale_relevance(relevance: Tensor, x: Tensor, percentile: float = 99.5) -> Tensor:
    """Sum relevance over channels, and divide it by the percentile of its absolute values, for each image.

    Args:
        relevance: In the shape of the images, or without channels.
        x: The images.
        percentile: What gets the full colour; what is larger gets it too.

    Returns:
        ``(samples, height, width)``, between -1 and 1.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or the percentile is none.
    """
    if not 0 < percentile <= 100:
        raise SignatureError(f"percentile={percentile} is not above 0 and at most 100")
    if relevance.shape == x.shape:
        relevance = relevance.sum(1)
    if relevance.shape != (len(x), *x.shape[2:]):
        raise SignatureError(f"relevance has the shape {tuple(relevance.shape)}, and the images {tuple(x.shape)}")
    if not relevance.isfinite().all():
        raise SignatureError("relevance is not finite: look where NaN or infinity comes from before you draw it")
    relevance = relevance.detach().double().cpu()
    limits = relevance.abs().flatten(1).quantile(percentile / 100, 1)
    largest = relevance.abs().flatten(1).amax(1)
    limits = torch.where(limits > 0, limits, largest.clamp(min=torch.finfo(largest.dtype).tiny))
    return (relevance / limits[:, None, None]).clamp(-1, 1)
