"""Relevance of regions of a page, from that of its patches."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import SignatureError

WAYS = ("mean", "max", "weighted", "share")


def overlap_boxes(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the area that each pair of boxes ``(x1, y1, x2, y2)`` has in common, ``(boxes, others)``."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def measure_boxes(boxes: Tensor) -> Tensor:
    """Return the area of each box ``(x1, y1, x2, y2)``."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def match_boxes(boxes: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union of each pair of boxes, ``(boxes, others)``."""
    common = overlap_boxes(boxes, others)
    return common / (measure_boxes(boxes)[:, None] + measure_boxes(others)[None] - common)


def score_regions(scores: Tensor, boxes: Tensor, size: tuple[float, float], way: str = "weighted") -> Tensor:
    """Score regions of a page by the patches under them.

    Args:
        scores: Number of each patch, ``(rows, columns)``, such as relevance or the similarity with a query.
        boxes: ``(regions, 4)``, ``x1, y1, x2, y2`` in pixels of the page.
        size: Width and height of the page in pixels.
        way: ``"weighted"``: mean of the patches by their intersection over union with the region; ``"mean"`` and
            ``"max"`` of the patches that it touches; ``"share"``: each patch is split by area, so that regions that
            tile a page get all of its relevance.

    Returns:
        One number per region; 0 where it touches no patch.

    Source: the late-interaction region relevance of arXiv 2512.02660; ``"share"`` is ours.

    Raises:
        SignatureError: If shapes or the way are none.
    """
    if way not in WAYS:
        raise SignatureError(f"way={way!r} is none of {', '.join(map(repr, WAYS))}")
    if scores.ndim != 2 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise SignatureError(
            f"scores are (rows, columns) and boxes (regions, 4), not {tuple(scores.shape)} and {tuple(boxes.shape)}"
        )
    rows, columns = scores.shape
    step = torch.tensor([size[0] / columns, size[1] / rows] * 2, dtype=boxes.dtype)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    patches = torch.stack([x, y, x + 1, y + 1], -1).reshape(-1, 4) * step
    common, flat = overlap_boxes(boxes, patches), scores.flatten()
    if way == "share":
        return (common / measure_boxes(patches)) @ flat
    if way == "max":
        found = torch.where(common > 0, flat, -torch.inf).amax(1)
        return torch.where(found.isinf(), 0.0, found)
    weights = (common > 0).to(flat.dtype) if way == "mean" else match_boxes(boxes, patches)
    return weights @ flat / weights.sum(1).clamp(min=torch.finfo(flat.dtype).tiny)


def judge_selection(chosen: Tensor, truth: Tensor) -> dict[str, float]:
    """Judge chosen regions by true ones.

    ``hit`` alone does not mind if everything is chosen; ``precision``, the part of the chosen area that is true, does.

    Args:
        chosen: ``(regions, 4)``; they must not overlap one another.
        truth: The same of true ones.

    Returns:
        ``iou``, the best of each true region, on the mean; ``hit``, the part of true regions with at least 0.5 of it;
        ``precision``.
    """
    best = match_boxes(truth, chosen).amax(1)
    return {
        "iou": float(best.mean()),
        "hit": float((best >= 0.5).double().mean()),
        "precision": float(overlap_boxes(chosen, truth).sum() / measure_boxes(chosen).sum()),
    }
