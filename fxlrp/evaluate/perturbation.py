"""What relevance foretells of random changes of an input, and how much it changes with them itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.correlation import correlate_rows
from fxlrp.evaluate.segments import Model, call_without, read_variants, sum_segments


@dataclass(frozen=True)
class Foretold:
    """What relevance says that random sets of segments are worth, and what a model loses without them.

    Attributes:
        sums: Relevance of each set, ``(samples, draws)``.
        drops: ``f(x) - f(x without the set)``, ``(samples, draws)``.
    """

    sums: Tensor
    drops: Tensor

    @property
    def infidelity(self) -> Tensor:
        """Mean squared difference of both for each sample; smaller is better.

        Source: Yeh et al. 2019, infidelity, where a change replaces a set by the baseline.
        """
        return (self.sums - self.drops).square().mean(1)

    @property
    def scaled_infidelity(self) -> Tensor:
        """The same with relevance times the number that suits it best, so that its scale does not matter.

        Source: Yeh et al. 2019, as their code scales explanations.
        """
        size = self.sums.square().sum(1)
        scale = (self.sums * self.drops).sum(1) / torch.where(size == 0, 1.0, size)
        return (scale[:, None] * self.sums - self.drops).square().mean(1)

    @property
    def correlation(self) -> Tensor:
        """Pearson's correlation of both for each sample; 0 where either is constant.

        Source: Bhatt et al. 2020, faithfulness correlation.
        """
        return correlate_rows(self.sums, self.drops)


@torch.no_grad()
def drop_at_random(
    model: Model,
    x: Tensor,
    relevance: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    size: int,
    draws: int = 100,
    read: str = "logit",
    seed: int = 0,
    batch: int = 32,
) -> Foretold:
    """Replace random sets of segments, the same for each sample.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        relevance: In the shape of ``x``, or without channels.
        target: Class of each sample.
        segments: Number of the segment of each place, from 0.
        baseline: What replaces them.
        size: Segments of each set.
        draws: Number of sets.
        read: ``"logit"`` of the class, or its ``"probability"``.
        seed: Of what is drawn.
        batch: Inputs in each forward pass.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or there are no such sets.
        TargetError: If a class is out of range.
    """
    scores, count = sum_segments(relevance, segments), int(segments.max()) + 1
    if not 1 <= size <= count or draws < 1:
        raise SignatureError(f"size={size} and draws={draws} are no sets of {count} segments")
    generator = torch.Generator().manual_seed(seed)
    sets = torch.zeros(draws + 1, count, dtype=torch.bool)  # the first is empty
    for one in sets[1:]:
        one[torch.randperm(count, generator=generator)[:size]] = True
    gone = sets.to(x.device)
    logits = call_without(model, x, lambda variant, _: gone[variant], len(sets), segments, baseline, batch)
    said = read_variants(logits, target, read).T
    return Foretold(scores.to(said) @ sets[1:].T.to(said), said[:, :1] - said[:, 1:])


def measure_sensitivity(
    explain: Callable[[Tensor], Tensor], x: Tensor, *, radius: float = 0.02, draws: int = 10, seed: int = 0
) -> Tensor:
    """Return the largest relative change of relevance among random neighbours of each input; smaller is better.

    ``max |R(x + e) - R(x)| / |R(x)|`` with ``e`` uniform from ``-radius`` to ``radius`` and Euclidean norms. Where
    ``R(x)`` is 0 the change is not divided.

    Args:
        explain: Inputs to relevance, of a fixed class: ``lambda x: attributor(x, target=3).relevance``.
        x: ``(samples, ...)``, of floating point numbers.
        radius: How far neighbours are away, in each entry.
        draws: Neighbours of each input.
        seed: Of what is drawn.

    Source: Yeh et al. 2019, max-sensitivity, relative to the norm of the explanation.

    Raises:
        SignatureError: If inputs are whole numbers, or ``radius`` or ``draws`` are none.
    """
    if not x.is_floating_point():
        raise SignatureError(f"whole numbers have no neighbours, and x is {x.dtype}: explain embeddings")
    if not 0 < radius < float("inf") or draws < 1:
        raise SignatureError(f"radius={radius!r} and draws={draws!r} are no neighbours: give numbers above 0")
    generator, own = torch.Generator().manual_seed(seed), explain(x).flatten(1)
    found = own.new_zeros(len(x))
    for _ in range(draws):
        drawn = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
        found = torch.maximum(found, (explain(x + radius * drawn.to(x)).flatten(1) - own).norm(dim=1))
    norms = own.norm(dim=1)
    return found / torch.where(norms == 0, 1.0, norms)
