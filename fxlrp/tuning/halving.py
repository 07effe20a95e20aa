"""Successive halving: many candidates on few samples, few on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fxlrp.ir.rule_set import RuleSet

LEAST = 4
"""Samples that every candidate is measured on, if there are so many."""
FINALISTS = 2
"""Candidates that are measured on all samples, so that there is one to compare the best with."""


@dataclass(frozen=True)
class Trial:
    """A candidate and what it reached.

    Attributes:
        name: Its name.
        rules: The rule set.
        scores: A number for each of the first samples, as far as it was measured, in float64.
        seconds: Time that it took.
        dropped: Why it was not measured further, though not for its scores; empty if nothing speaks against it.
    """

    name: str
    rules: RuleSet
    scores: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    seconds: float = 0.0
    dropped: str = ""

    @property
    def mean(self) -> float:
        """Mean of the scores; NaN if there are none."""
        return float(self.scores.mean()) if len(self.scores) else math.nan

    def add(self, scores: Tensor, seconds: float) -> Trial:
        """Return the same candidate with scores of further samples."""
        return replace(self, scores=torch.cat([self.scores, scores]), seconds=self.seconds + seconds)

    def drop(self, reason: str, seconds: float = 0.0) -> Trial:
        """Return the same candidate as one that cannot be measured."""
        return replace(self, dropped=reason, seconds=self.seconds + seconds)


Begin = Callable[[Sequence[Trial], int, int], object]
"""Called at each rung with its candidates, and the first and last of the samples that they are measured on more."""
Step = Callable[[Trial], Trial]
"""Measures a candidate on these samples; returns it with their scores, or dropped."""


def choose_first(candidates: int, samples: int, eta: int) -> int:
    """Return on how many samples all candidates are measured, so that two are left when all samples are.

    Each rung then measures about as many samples as any other, over all its candidates together.

    Source: Jamieson and Talwalkar 2016.
    """
    halvings = max(0, math.ceil(math.log(candidates / FINALISTS, eta) - 1e-9))
    return min(samples, max(LEAST, math.ceil(samples / int(eta**halvings))))


def list_rungs(samples: int, first: int, eta: int) -> list[int]:
    """Return how many samples the candidates of each rung have been measured on."""
    rungs = [min(first, samples)]
    while rungs[-1] < samples:
        rungs.append(min(samples, eta * rungs[-1]))
    return rungs


def halve(trials: Sequence[Trial], rungs: Sequence[int], eta: int, begin: Begin, step: Step) -> list[Trial]:
    """Measure all candidates on the samples of the first rung, the best ``1 / eta`` of them on those of the next.

    Args:
        trials: The candidates; of equal ones the first goes on.
        rungs: Samples of each rung.
        eta: What a rung divides the number of candidates by.
        begin: Called at each rung.
        step: What measures a candidate there.

    Returns:
        All candidates, the best first: those of later rungs, then by their mean, and at the end what was dropped.
    """
    running, start = list(trials), 0
    beaten: list[Trial] = []
    dropped: list[Trial] = []
    for end in rungs:
        begin(running, start, end)
        measured = [step(trial) for trial in running]
        dropped += [trial for trial in measured if trial.dropped]
        ranked = sorted((trial for trial in measured if not trial.dropped), key=lambda trial: -trial.mean)
        kept = len(ranked) if end == rungs[-1] else count_kept(len(ranked), eta)
        running, beaten, start = ranked[:kept], ranked[kept:] + beaten, end
    return running + beaten + dropped


def count_kept(candidates: int, eta: int) -> int:
    """Return how many candidates go on to the next rung."""
    return min(candidates, max(FINALISTS, math.ceil(candidates / eta)))
