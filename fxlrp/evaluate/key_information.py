"""Whether what an explanation points at is enough for a decision, and whether it needs what is around it.

The measures of this module are our own definitions. Zheng et al. 2025 (arXiv 2503.11160) name key information
sufficiency, and two types of backdoor features by their reliance on context; their formulas are not known to us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.segments import (
    Model,
    call_in_batches,
    call_without,
    count_segments,
    list_rows,
    rank_segments,
    read_classes,
    read_variants,
    sum_segments,
)

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Sufficiency:
    """What a model says with the most relevant segments alone.

    Attributes:
        fractions: Part of the segments that is kept.
        kept: What the model says of the class, ``(samples, fractions)``.
        whole: What it says of whole inputs, ``(samples,)``.
    """

    fractions: Tensor
    kept: Tensor
    whole: Tensor

    @property
    def kis(self) -> Tensor:
        """Mean over samples at each fraction: the curve of key information sufficiency, as we define it."""
        return self.kept.mean(0)

    @property
    def area(self) -> float:
        """Area under the curve, divided by the width of its fractions."""
        at = self.fractions.to(self.kept)
        return float(torch.trapezoid(self.kis, at) / (at[-1] - at[0]))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per sample and fraction, ready for ``pandas.DataFrame``."""
        whole = self.whole[:, None].expand_as(self.kept)
        return list_rows("fraction", self.fractions.tolist(), kept=self.kept, whole=whole)


@torch.no_grad()
def keep_most_relevant(
    model: Model,
    x: Tensor,
    relevance: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    fractions: Sequence[float] = FRACTIONS,
    read: str = "accuracy",
    batch: int = 32,
) -> Sufficiency:
    """Replace all but the most relevant segments of each input.

    ``KIS(p) = mean[f(M_p x + (1 - M_p) b) = y]`` with the mask ``M_p`` of the part ``p`` that is most relevant.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        relevance: In the shape of ``x``, or without channels.
        target: Class of each sample.
        segments: Number of the segment of each place, from 0.
        baseline: What replaces the others.
        fractions: Two or more ascending parts of the segments, rounded up.
        read: ``"accuracy"``, ``"probability"`` or ``"logit"``.
        batch: Inputs in each forward pass.

    Source: our definition.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or fractions are none.
        TargetError: If a class is out of range.
    """
    at = torch.tensor(fractions, dtype=torch.float64)
    if len(at) < 2 or not ((at > 0) & (at <= 1)).all() or (at.diff() <= 0).any():
        raise SignatureError(f"fractions={tuple(fractions)} are no ascending parts: give two or more, above 0, up to 1")
    ranks = rank_segments(sum_segments(relevance, segments)).to(x.device)
    counts = torch.tensor([count_segments(f, ranks.shape[1]) for f in (1.0, *fractions)], device=x.device)

    def replace(variant: Tensor, sample: Tensor) -> Tensor:
        return ranks[sample] >= counts[variant, None]

    logits = call_without(model, x, replace, len(counts), segments, baseline, batch)
    whole, *kept = read_variants(logits, target, read)
    return Sufficiency(at, torch.stack(kept, 1), whole)


@dataclass(frozen=True)
class Backdoor:
    """Whether the label of an attack survives where its most relevant part is pasted.

    Attributes:
        own: On the sample's own background without the trigger, ``(samples,)``, boolean.
        foreign: Part of the other backgrounds on which it survives, ``(samples,)``.
    """

    own: Tensor
    foreign: Tensor

    def name_kinds(self, threshold: float = 0.5) -> list[str]:
        """Return ``"non-contextual"``, ``"contextual"``, or ``"not in the part"``, for each sample.

        Args:
            threshold: Part of the other backgrounds above which the label needs no context of its own.
        """
        return [
            "non-contextual" if foreign > threshold else "contextual" if own else "not in the part"
            for own, foreign in zip(self.own.tolist(), self.foreign.tolist(), strict=True)
        ]


@torch.no_grad()
def probe_backdoor(
    model: Model,
    triggered: Tensor,
    relevance: Tensor,
    target: Tensor,
    segments: Tensor,
    clean: Tensor,
    others: Tensor,
    *,
    fraction: float = 0.1,
    batch: int = 32,
) -> Backdoor:
    """Paste the most relevant part of inputs with a trigger on backgrounds that have none.

    Args:
        model: Inputs to ``(samples, classes)``.
        triggered: ``(samples, channels, *places)``, that the model takes for ``target``.
        relevance: Of that class, in the shape of the inputs, or without channels.
        target: The attack's label for each sample.
        segments: Number of the segment of each place, from 0.
        clean: The same inputs without the trigger.
        others: ``(backgrounds, channels, *places)``: other inputs, or neutral ones, which the model takes for others.
        fraction: Part of the segments that is pasted, rounded up.
        batch: Inputs in each forward pass.

    Source: our definition.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or ``fraction`` is none.
        TargetError: If a class is out of range.
    """
    if not 0 < fraction <= 1:
        raise SignatureError(f"fraction={fraction!r} is no part of an input: give more than 0, up to 1")
    if clean.shape != triggered.shape or others.shape[1:] != triggered.shape[1:] or not len(others):
        raise SignatureError(
            f"backgrounds have the shapes {tuple(clean.shape)} and {tuple(others.shape)}, which do not fit inputs of "
            f"{tuple(triggered.shape)}"
        )
    mask, count = mark_most_relevant(triggered, relevance, segments, fraction), len(triggered)

    def paste(rows: Tensor) -> Tensor:
        step, sample = rows // count, rows % count
        grounds = torch.where((step == 0).reshape(-1, *(1 for _ in clean.shape[1:])), clean[sample], others[step - 1])
        return torch.where(mask[sample], triggered[sample], grounds)

    logits = call_in_batches(model, paste, (1 + len(others)) * count, batch, triggered.device)
    said = read_classes(logits, target.repeat(1 + len(others)), "accuracy").reshape(-1, count)
    return Backdoor(said[0] == 1, said[1:].mean(0))


def mark_most_relevant(x: Tensor, relevance: Tensor, segments: Tensor, fraction: float) -> Tensor:
    """Return a mask of the most relevant segments of each input, which broadcasts to it."""
    ranks = rank_segments(sum_segments(relevance, segments))
    kept = ranks < count_segments(fraction, ranks.shape[1])
    mask = kept[:, segments.flatten().to(kept.device)].reshape(len(x), *segments.shape).to(x.device)
    return mask.unsqueeze(1) if x.ndim == segments.ndim + 2 else mask
