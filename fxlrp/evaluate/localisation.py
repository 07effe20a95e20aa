"""How much of an explanation lies where the object is."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import SignatureError


def draw_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return a mask of the pixels whose centre is in one of the boxes ``(x1, y1, x2, y2)``, ``(height, width)``."""
    y, x = torch.arange(height)[:, None, None] + 0.5, torch.arange(width)[None, :, None] + 0.5
    x1, y1, x2, y2 = boxes.cpu().unbind(-1)
    return ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).any(-1)


def measure_mass(relevance: Tensor, masks: Tensor) -> Tensor:
    """Return the part of the positive relevance that is inside of the mask of each sample; 0 if there is none.

    Args:
        relevance: ``(samples, *places)``, or with channels behind the samples, which are summed.
        masks: Boolean, ``(samples, *places)``.

    Source: Arras et al. 2022, relevance mass accuracy; Kohlbrenner et al. 2020, the inside-total ratio.

    Raises:
        SignatureError: If shapes do not fit, a mask is empty, or relevance is not finite.
    """
    rows, inside = flatten_places(relevance, masks)
    positive = rows.clamp(min=0)
    total = positive.sum(1)
    return (positive * inside).sum(1) / torch.where(total == 0, 1.0, total)


def measure_rank(relevance: Tensor, masks: Tensor) -> Tensor:
    """Return the part of the mask's size that is found by as many of the most relevant places.

    Of equal places the first goes first.

    Args:
        relevance: ``(samples, *places)``, or with channels behind the samples, which are summed.
        masks: Boolean, ``(samples, *places)``.

    Source: Arras et al. 2022, relevance rank accuracy.

    Raises:
        SignatureError: If shapes do not fit, a mask is empty, or relevance is not finite.
    """
    rows, inside = flatten_places(relevance, masks)
    found, count = inside.gather(1, rows.argsort(dim=1, descending=True, stable=True)), inside.sum(1)
    among = torch.arange(rows.shape[1], device=rows.device) < count[:, None]
    return (found & among).sum(1).to(rows) / count


def play_pointing_game(relevance: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Return whether the most relevant pixel is on the object; their mean is the accuracy of the game.

    Of equal pixels the first is taken.

    Args:
        relevance: ``(samples, height, width)``, or with channels behind the samples, which are summed.
        masks: Boolean, ``(samples, height, width)``.
        tolerance: Pixels that it may be off, as the crow flies; the published game allows 15.

    Source: Zhang et al. 2018.

    Raises:
        SignatureError: If shapes do not fit, a mask is empty, or relevance is not finite.
    """
    rows, inside = flatten_places(relevance, masks)
    if masks.ndim != 3:
        raise SignatureError(f"pixels are pointed at: masks are (samples, height, width), not {tuple(masks.shape)}")
    height, width = masks.shape[1:]
    first = rows == rows.amax(1, keepdim=True)
    at = first.int().argmax(1)[:, None]
    place = torch.arange(height * width, device=rows.device)
    away = ((place // width - at // width).square() + (place % width - at % width).square()) <= tolerance**2
    return (away & inside).any(1)


def flatten_places(relevance: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return relevance and masks as one row per sample."""
    if relevance.ndim == masks.ndim + 1:
        relevance = relevance.sum(1)
    if masks.dtype != torch.bool or relevance.shape != masks.shape:
        raise SignatureError(
            f"masks are boolean, one entry per place of relevance {tuple(relevance.shape)}, not {masks.dtype} of "
            f"{tuple(masks.shape)}"
        )
    rows, inside = relevance.flatten(1), masks.flatten(1).to(relevance.device)
    if not rows.isfinite().all():
        raise SignatureError("relevance is not finite, so that it points nowhere: look where it comes from")
    if not inside.any(1).all():
        raise SignatureError(
            f"the masks of samples {(~inside.any(1)).nonzero()[:, 0].tolist()} are empty: leave them out"
        )
    return rows, inside
