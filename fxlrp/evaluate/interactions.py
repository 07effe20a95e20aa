"""What parts of an input do together, exactly: by all sets of a few parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.segments import Model, call_without, list_rows, read_variants, sum_segments

MOST = 16
"""Segments, above which there are too many sets."""


@dataclass(frozen=True)
class Interactions:
    """What each set of segments adds to what its parts do (Harsanyi's dividends).

    Attributes:
        effects: ``(samples, 2 ** segments)``; the binary digits of a column's number say which segments are in the set,
            the first segment the last digit. ``f(x)`` is the sum of a row, and the empty set's is that of the baseline.
    """

    effects: Tensor

    @property
    def segments(self) -> int:
        """Return their number."""
        return self.effects.shape[1].bit_length() - 1

    @property
    def members(self) -> Tensor:
        """Return whether each segment is in each set, ``(2 ** segments, segments)``."""
        return list_sets(self.segments, self.effects.device)

    @property
    def shapley(self) -> Tensor:
        """Shapley value of each segment, ``(samples, segments)``: each set's effect in equal parts.

        Source: Harsanyi 1963.
        """
        members = self.members.to(self.effects)
        return self.effects @ (members / members.sum(1, keepdim=True).clamp(min=1))

    @property
    def occlusion(self) -> Tensor:
        """What is lost without each segment, ``(samples, segments)``: each set's whole effect to every part."""
        return self.effects @ self.members.to(self.effects)

    @property
    def alone(self) -> Tensor:
        """What each segment does alone, ``(samples, segments)``."""
        return self.effects[:, [2**i for i in range(self.segments)]]

    def find_idle(self, tolerance: float = 1e-4) -> Tensor:
        """Return which segments no set needs, ``(samples, segments)``: relevance of theirs was taken from others.

        Args:
            tolerance: What counts as no effect, in parts of the largest of the sample; above what rounding leaves in
                differences of float32.
        """
        sizes = self.effects.abs()
        some = sizes > tolerance * sizes.amax(1, keepdim=True)
        return (some.to(self.effects) @ self.members.to(self.effects)) == 0


@dataclass(frozen=True)
class Audit:
    """How relevance allots what segments do together.

    Attributes:
        scores: Relevance of each segment, ``(samples, segments)``.
        shapley: Their Shapley values.
        occlusion: What is lost without each.
        leaked: Part of the absolute relevance of each sample that is on segments which do nothing.
        gap: ``f(x) - f(baseline)`` less the sum of relevance, for each sample.
    """

    scores: Tensor
    shapley: Tensor
    occlusion: Tensor
    leaked: Tensor
    gap: Tensor

    @property
    def error(self) -> Tensor:
        """Mean absolute difference from the Shapley values, in parts of their mean size; smaller is better."""
        return (self.scores - self.shapley).abs().sum(1) / self.shapley.abs().sum(1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per sample and segment, ready for ``pandas.DataFrame``."""
        numbers = range(self.scores.shape[1])
        return list_rows("segment", numbers, scores=self.scores, shapley=self.shapley, occlusion=self.occlusion)


@torch.no_grad()
def measure_interactions(
    model: Model,
    x: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    read: str = "logit",
    batch: int = 32,
) -> Interactions:
    """Run a model on every set of segments, the others replaced, and find what each set adds to its parts.

    ``I(S) = sum_{T in S} (-1)^(|S| - |T|) f(x_T)``.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        target: Class of each sample.
        segments: Number of the segment of each place, from 0 to at most 15; a sample becomes ``2 ** segments`` inputs.
        baseline: What replaces them.
        read: ``"logit"`` of the class, or its ``"probability"``.
        batch: Inputs in each forward pass.

    Source: Harsanyi 1963; Deng et al. 2024, Taylor interactions of attributions.

    Raises:
        SignatureError: If there are more than 16 segments.
        TargetError: If a class is out of range.
    """
    count = int(segments.max()) + 1
    if count > MOST:
        raise SignatureError(f"{count} segments have 2 ** {count} sets: join them to at most {MOST}")
    missing = ~list_sets(count, x.device)
    logits = call_without(model, x, lambda variant, _: missing[variant], len(missing), segments, baseline, batch)
    effects = read_variants(logits, target, read).T.double().contiguous()
    for i in range(count):  # one digit at a time, sets with it less those without it
        halves = effects.view(len(x), -1, 2, 2**i)
        halves[:, :, 1] -= halves[:, :, 0]
    return Interactions(effects)


def audit_interactions(relevance: Tensor, segments: Tensor, interactions: Interactions) -> Audit:
    """Compare relevance with what `measure_interactions` found.

    Args:
        relevance: ``(samples, *places)``, or with channels behind the samples.
        segments: Number of the segment of each place.
        interactions: Of the same samples and segments.

    Raises:
        SignatureError: If shapes do not fit, or relevance is not finite.
    """
    scores = sum_segments(relevance, segments).to(interactions.effects)
    if scores.shape != (len(interactions.effects), interactions.segments):
        raise SignatureError(
            f"there are scores of {tuple(scores.shape)}, and interactions of {len(interactions.effects)} samples with "
            f"{interactions.segments} segments"
        )
    sizes = scores.abs()
    total = sizes.sum(1)
    leaked = (sizes * interactions.find_idle()).sum(1) / torch.where(total == 0, 1.0, total)
    gap = interactions.effects[:, 1:].sum(1) - scores.sum(1)
    return Audit(scores, interactions.shapley, interactions.occlusion, leaked, gap)


def list_sets(count: int, device: torch.device) -> Tensor:
    """Return the binary digits of every number below ``2 ** count``, the last digit first."""
    return (torch.arange(2**count, device=device)[:, None] >> torch.arange(count, device=device)) % 2 == 1
