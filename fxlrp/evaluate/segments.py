"""Parts of an input that are removed together, and their ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import SignatureError


def divide_grid(height: int, width: int, patch: int) -> Tensor:
    """Return the number of the square patch that each pixel is in, ``(height, width)``; borders have smaller ones."""
    if patch < 1:
        raise SignatureError(f"patch={patch} is no side of a square: give 1 pixel or more")
    rows, columns = torch.arange(height) // patch, torch.arange(width) // patch
    return rows[:, None] * -(-width // patch) + columns


def sum_segments(relevance: Tensor, segments: Tensor) -> Tensor:
    """Sum relevance over each segment, ``(samples, segments)``.

    Args:
        relevance: ``(samples, *places)``, or ``(samples, channels, *places)``, which is summed over channels.
        segments: Number of the segment of each place, from 0.

    Raises:
        SignatureError: If shapes do not fit, or relevance is not finite.
    """
    if relevance.ndim == segments.ndim + 2:
        relevance = relevance.sum(1)
    if relevance.shape[1:] != segments.shape:
        raise SignatureError(
            f"relevance has the shape {tuple(relevance.shape)}, but places have {tuple(segments.shape)}: "
            "give one number per place and sample, with channels behind samples or summed"
        )
    if not relevance.isfinite().all():
        raise SignatureError("relevance is not finite, so that it ranks nothing: look where NaN or infinity comes from")
    flat = segments.flatten().to(relevance.device)
    found = relevance.new_zeros(len(relevance), int(flat.max()) + 1)
    return found.index_add_(1, flat, relevance.flatten(1))


def rank_segments(scores: Tensor, *, most: bool = True) -> Tensor:
    """Return the rank of each segment, 0 for the first to go; of equal ones the first in order goes first."""
    order = scores.argsort(dim=1, descending=most, stable=True)
    places = torch.arange(scores.shape[1], device=order.device)
    return torch.empty_like(order).scatter_(1, order, places.expand_as(order))
