"""What each part of an input does by itself, and how well relevance agrees with that."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.correlation import correlate_ranks, correlate_rows
from fxlrp.evaluate.flipping import Model, call_in_batches, read_classes
from fxlrp.evaluate.segments import sum_segments

WAYS = {"pearson": correlate_rows, "spearman": correlate_ranks}


@torch.no_grad()
def drop_each(
    model: Model,
    x: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    read: str = "logit",
    batch: int = 32,
) -> Tensor:
    """Measure what a model loses when one segment alone is replaced: ``f(x) - f(x without it)``.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        target: Class of each sample.
        segments: Number of the segment of each place, from 0; ``torch.arange(length)`` for tokens.
        baseline: What replaces it.
        read: ``"logit"`` of the class, or its ``"probability"``.
        batch: Inputs in each forward pass.

    Returns:
        ``(samples, segments)``.

    Raises:
        TargetError: If a class is out of range.
    """
    count, other = int(segments.max()) + 1, baseline(x)
    places = segments.to(x.device).reshape(*(1 for _ in range(x.ndim - segments.ndim)), *segments.shape)

    def replace(rows: Tensor) -> Tensor:
        gone, sample = rows // len(x) - 1, rows % len(x)  # the first len(x) are whole
        return torch.where(places == gone.reshape(-1, *(1 for _ in x.shape[1:])), other[sample], x[sample])

    logits = call_in_batches(model, replace, (count + 1) * len(x), batch, x.device)
    said = read_classes(logits, target.repeat(count + 1), read).reshape(count + 1, len(x))
    return (said[:1] - said[1:]).T


def compare_with_drops(relevance: Tensor, drops: Tensor, segments: Tensor, way: str = "pearson") -> Tensor:
    """Correlate relevance with what `drop_each` measured, for each sample; 0 where either is constant.

    Source: You et al. 2025, agreement of attributions with leave-one-out.

    Args:
        relevance: ``(samples, *places)``, or with channels behind the samples.
        drops: ``(samples, segments)``.
        segments: Number of the segment of each place.
        way: ``"pearson"`` or ``"spearman"``.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or ``way`` is none.
    """
    if way not in WAYS:
        raise SignatureError(f"way={way!r} is none of {', '.join(map(repr, WAYS))}")
    scores = sum_segments(relevance, segments)
    if scores.shape != drops.shape:
        raise SignatureError(f"there are scores of {tuple(scores.shape)}, and drops of {tuple(drops.shape)}")
    return WAYS[way](scores.to(drops), drops)
