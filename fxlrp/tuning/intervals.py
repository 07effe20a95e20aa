"""Mean differences of two candidates on the same samples, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """A mean difference.

    Attributes:
        mean: The mean.
        half: Half the width of its 95 % interval.
    """

    mean: float
    half: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half


def compare_scores(scores: Tensor, others: Tensor) -> Difference:
    """Compare two candidates on the samples that both were measured on, by Student's interval of paired differences."""
    count = min(len(scores), len(others))
    less = scores[:count] - others[:count]
    half = find_quantile(count - 1) * float(less.std()) / math.sqrt(count)
    return Difference(float(less.mean()), half)


def find_quantile(freedom: int) -> float:
    """Return the number that Student's t stays within, above or below 0, with a probability of 95 %."""
    low, high = 0.0, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if find_probability(middle, freedom) < 0.95 else (low, middle)
    return low


def find_probability(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies between ``-t`` and ``t``.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) ** odd, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * total)
