"""Measures of explained texts: tokens that are enough for an answer, and tokens that are the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.segments import Model, call_without, count_segments, rank_segments, read_variants, sum_segments

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Parts of a text that ERASER takes as rationales."""


@dataclass(frozen=True)
class Rationales:
    """What the probability of a class loses without the most relevant tokens, and with them alone.

    Attributes:
        comprehensiveness: ``p(x) - p(x without the rationale)``, ``(samples, fractions)``.
        sufficiency: ``p(x) - p(the rationale alone)``; smaller is better.
    """

    comprehensiveness: Tensor
    sufficiency: Tensor

    @property
    def aopc(self) -> tuple[float, float]:
        """Means of both over samples and fractions."""
        return float(self.comprehensiveness.mean()), float(self.sufficiency.mean())


@torch.no_grad()
def remove_rationales(
    model: Model,
    ids: Tensor,
    relevance: Tensor,
    target: Tensor,
    baseline: Baseline,
    *,
    fractions: Sequence[float] = FRACTIONS,
    read: str = "probability",
    batch: int = 32,
) -> Rationales:
    """Replace the most relevant tokens of each text, and all others.

    Args:
        model: Ids to ``(samples, classes)``.
        ids: ``(samples, length)``.
        relevance: In the shape of the ids.
        target: Class of each sample.
        baseline: What replaces tokens, such as `fxlrp.evaluate.baselines.constant` with the id of a mask token.
        fractions: Parts of the length that are taken as the rationale, rounded up.
        read: ``"probability"``, or ``"logit"``.
        batch: Texts in each forward pass.

    Source: DeYoung et al. 2020, eq. 1 and 2.
    """
    if not all(0 <= f <= 1 for f in fractions):
        raise SignatureError(f"fractions={tuple(fractions)} are no parts of a text: give numbers from 0 to 1")
    places = torch.arange(ids.shape[1])
    ranks = rank_segments(sum_segments(relevance, places)).to(ids.device)
    counts = [count_segments(f, len(places)) for f in fractions]
    gone = torch.stack([ranks < 0, *(ranks < k for k in counts), *(ranks >= k for k in counts)])
    logits = call_without(model, ids, lambda *rows: gone[rows], len(gone), places, baseline, batch)
    whole, *rest = read_variants(logits, target, read)
    less, alone = rest[: len(counts)], rest[len(counts) :]
    return Rationales(whole[:, None] - torch.stack(less, 1), whole[:, None] - torch.stack(alone, 1))


@dataclass(frozen=True)
class Overlap:
    """How many of the two most relevant tokens belong to an answer; see `count_overlap`. Counts of texts add up.

    Attributes:
        hits: Ends of the answer that were found.
        union: Ends and what was found besides.
        span_hits: The same with all tokens of the answer as hits.
        span_union: The same.
        first: Texts whose most relevant token is in the answer.
        texts: All texts.
    """

    hits: int
    union: int
    span_hits: int
    span_union: int
    first: int
    texts: int = 1

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.hits + other.hits,
            self.union + other.union,
            self.span_hits + other.span_hits,
            self.span_union + other.span_union,
            self.first + other.first,
            self.texts + other.texts,
        )

    @property
    def iou(self) -> tuple[float, float]:
        """Hits over union, for ends and for spans."""
        return self.hits / self.union, self.span_hits / self.span_union

    @property
    def accuracy(self) -> tuple[float, float]:
        """Part of the ends that were found, and of texts whose most relevant token is in the answer.

        An answer of one token has both of its ends there.
        """
        return self.hits / (2 * self.texts), self.first / self.texts


def count_overlap(relevance: Tensor, start: int, end: int) -> Overlap:
    """Count what the two most relevant tokens of a text have in common with the ends of its answer.

    The second token does not count where the first is all of an answer of one token.

    Args:
        relevance: One number per token.
        start: First token of the answer.
        end: Its last token.

    Source: Lee and Arias 2025, evaluation on SQuAD v2, as their code counts.

    Raises:
        SignatureError: If the answer is none of the text, or relevance is not finite.
    """
    if relevance.ndim != 1 or not 0 <= start <= end < len(relevance):
        raise SignatureError(f"an answer from {start} to {end} is none of a text of the shape {tuple(relevance.shape)}")
    if not relevance.isfinite().all():
        raise SignatureError("relevance is not finite, so that it ranks nothing: look where NaN or infinity comes from")
    hits, union, span_hits, span_union = 0, 2, 0, 2
    order = relevance.argsort(descending=True, stable=True).tolist()
    for token in order[:2]:
        ends = (token == start) + (token == end)
        hits, span_hits = hits + ends, span_hits + (ends or int(start < token < end))
        union, span_union = union + (ends == 0), span_union + (not start <= token <= end)
        if hits == 2:
            break
    return Overlap(hits, union, span_hits, span_union, int(start <= order[0] <= end))
