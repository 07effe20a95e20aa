"""Tokens that are taken out of texts, and what a model says of texts that shrink and grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.segments import Model, call_without, list_rows, rank_segments, read_variants, sum_segments

TENTHS = tuple(k / 10 for k in range(11))


def remove_tokens(ids: Tensor, token: int, pad: int) -> Tensor:
    """Move what is not ``token`` to the front of each text, and fill up with ``pad``; ``(samples, length)``."""
    gone = ids == token
    order = gone.long().argsort(dim=1, stable=True)
    return torch.where(gone, pad, ids).gather(1, order)


def removing(model: Model, token: int, pad: int) -> Model:
    """Return a model that does not see a token: it is removed, and the text is filled up at its end.

    With ``constant(token)`` as the baseline, every measure of texts removes tokens in place of masking them; a number
    that is no id of the vocabulary, such as -1, is a good ``token``.

    Args:
        model: Ids to ``(samples, classes)``; it has to leave padding out, by an attention mask that it makes of them.
        token: What is removed.
        pad: Id of the padding.
    """
    return lambda ids: model(remove_tokens(ids, token, pad))


@dataclass(frozen=True)
class Pruning:
    """What a model says of texts without their least relevant tokens, and of their most relevant tokens alone.

    Attributes:
        fractions: Part of the tokens that is taken out, or put in.
        error: Squared change of the logits, summed over classes, without the least relevant, ``(samples, steps)``.
        grown: What the model says of the class with the most relevant alone, ``(samples, steps)``.
    """

    fractions: Tensor
    error: Tensor
    grown: Tensor

    @property
    def au_mse(self) -> Tensor:
        """Area under the error of each sample; smaller is better."""
        return torch.trapezoid(self.error, self.fractions.to(self.error), dim=1)

    @property
    def auac(self) -> Tensor:
        """Area under the activation curve of each sample."""
        return torch.trapezoid(self.grown, self.fractions.to(self.grown), dim=1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per sample and step, ready for ``pandas.DataFrame``."""
        return list_rows("fraction", self.fractions.tolist(), error=self.error, grown=self.grown)


@torch.no_grad()
def prune_tokens(
    model: Model,
    ids: Tensor,
    relevance: Tensor,
    target: Tensor,
    baseline: Baseline,
    *,
    fractions: Sequence[float] = TENTHS,
    read: str = "logit",
    batch: int = 32,
) -> Pruning:
    """Take tokens out of texts, the smallest absolute relevance first; put them into empty ones, the largest first.

    Args:
        model: Ids to ``(samples, classes)``.
        ids: ``(samples, length)``.
        relevance: In the shape of the ids; the sizes order the pruning, the signed numbers the growing.
        target: Class of each sample.
        baseline: What replaces tokens, such as `fxlrp.evaluate.baselines.constant`; see `removing`.
        fractions: Ascending parts of the length, rounded to whole tokens.
        read: What the growing texts are read as: ``"logit"``, ``"probability"`` or ``"accuracy"``.
        batch: Texts in each forward pass.

    Source: Ali et al. 2022, AU-MSE of pruning and AUAC of generation, as their code orders tokens.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or fractions are none.
        TargetError: If a class is out of range.
    """
    steps = torch.tensor(fractions, dtype=torch.float64)
    if len(steps) < 2 or not ((steps >= 0) & (steps <= 1)).all() or (steps.diff() <= 0).any():
        raise SignatureError(f"fractions={tuple(fractions)} are no ascending parts of a text: give numbers from 0 to 1")
    places = torch.arange(ids.shape[1])
    least = rank_segments(sum_segments(relevance.abs(), places), most=False).to(ids.device)
    most = rank_segments(sum_segments(relevance, places)).to(ids.device)
    counts = [round(f * len(places)) for f in fractions]
    gone = torch.stack([least < 0, *(least < k for k in counts), *(most >= k for k in counts)])
    logits = call_without(model, ids, lambda *rows: gone[rows], len(gone), places, baseline, batch)
    grown = read_variants(logits, target, read)[len(counts) + 1 :]
    whole, *pruned = logits[: len(counts) + 1]
    error = torch.stack([(whole - one).square().sum(1) for one in pruned], 1)
    return Pruning(steps, error, grown.T)
