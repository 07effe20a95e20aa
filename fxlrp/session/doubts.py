"""What speaks against an explanation: relevance that did not arrive, or that grew out of proportion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.ir.targets import Form, find_flat_position

MAX_ABSORBED = 0.9
"""A greater share of the explained value than this, absorbed or leaked, is worth a warning."""
MAX_GROWTH = 50.0
"""So is absolute relevance beyond this multiple of the explained value."""
MAX_NAMED = 3
"""How many samples a warning names."""


@dataclass(frozen=True)
class Question:
    """What a call asked: which numbers of a model's output it explained.

    Attributes:
        choose: From the model's output to the tensor that targets select from; its first dimension is the batch.
        form: Form of the target.
        numbers: Its tensors.
        several: Whether these have a leading dimension, for several targets.
    """

    choose: Callable[[Any], Tensor]
    form: Form
    numbers: tuple[Tensor, ...]
    several: bool = False

    def answer(self, output: Any) -> Tensor | None:
        """Compute the explained value of each sample, for several targets of each target and sample.

        None if relevance does not start at the output, or is masked on its way: it has nothing to sum to.
        """
        if self.form.starts or self.form.kept:
            return None
        y = self.choose(output)
        if not self.several:
            return compute_explained(y, self.form, self.numbers)
        return torch.stack([compute_explained(y, self.form, numbers) for numbers in zip(*self.numbers, strict=True)])


def compute_explained(y: Tensor, form: Form, numbers: Sequence[Tensor]) -> Tensor:
    """Compute one number per sample of the output ``y``: the sum of its entries times their seed."""
    y = y if y.ndim else y.reshape(1)
    if not form.weights:
        return (y.double() * numbers[0].to(y.device)).unsqueeze(-1).flatten(1).sum(1)
    if y.ndim == 1:
        return sum(form.weights) * y.double()
    terms = [
        weight * y.flatten(1).gather(1, find_flat_position(y, wild, index.to(y.device))).double()
        for weight, wild, index in zip(form.weights, form.wild, numbers, strict=True)
    ]
    return torch.cat(terms, 1).sum(1)


def list_entries(question: Question, y: Tensor) -> Iterator[list[tuple[int, ...]]]:
    """Yield the explained entry of each sample, for each term of the target."""
    for wild, index in zip(question.form.wild, question.numbers, strict=True):
        position = find_flat_position(y, wild, index.to(y.device)).squeeze(1)
        places = torch.stack(torch.unravel_index(position, y.shape[1:]), 1)
        yield [tuple(row) for row in places.tolist()]


@dataclass(frozen=True)
class SampleAccount:
    """One sample: where it is, its explained value, the sum of its relevance, and that of its absolute relevance."""

    place: str
    value: float
    sum: float
    size: float

    @property
    def lost(self) -> float:
        """Return the share of the explained value that did not arrive."""
        return 1 - self.sum / self.value if self.value else 0.0

    @property
    def growth(self) -> float:
        """Return absolute relevance as a multiple of the explained value."""
        return self.size / abs(self.value) if self.value else math.inf if self.size else 0.0


def find_doubts(values: Tensor, relevances: Sequence[Tensor]) -> tuple[str, ...]:
    """Write a sentence for each thing that looks wrong.

    Args:
        values: Explained value of each sample, or of each target and sample.
        relevances: Relevance of every input. Inputs without a dimension for the samples are judged for all together.
    """
    found = account_samples(values, relevances)
    wild = [row for row in found if not math.isfinite(row.value + row.size)]
    lost = sorted((row for row in found if row.lost > MAX_ABSORBED), key=lambda row: -row.lost)
    grown = sorted(
        (row for row in found if math.inf > row.size and row.growth > MAX_GROWTH), key=lambda row: -row.growth
    )
    said = []
    if wild:
        said.append(
            f"the explained value or relevance of {list_places(wild)} is not finite: attributor.verify() finds where"
        )
    if lost:
        row = lost[0]
        said.append(
            f"of the explained value {row.value:.6g} of {row.place} the inputs receive {row.sum:.4g}: "
            f"{100 * row.lost:.2f} % is absorbed by parameters or leaked by rules{mention_others(lost)}. "
            "attributor.ledger() says by which; another rule set may pass more on"
        )
    if grown:
        row = grown[0]
        times = f"{row.growth:.3g} times" if row.value else "out of all proportion to"
        said.append(
            f"the absolute relevance of {row.place} sums to {row.size:.4g}, {times} its explained value "
            f"{row.value:.6g}{mention_others(grown)}: contributions cancel, so that small changes may turn the picture "
            "over. attributor.ledger() says where relevance grows; another rule set may keep it in proportion"
        )
    return tuple(said)


def account_samples(values: Tensor, relevances: Sequence[Tensor]) -> list[SampleAccount]:
    """Account for every sample, or for all together."""
    apart = all(r.shape[: values.ndim] == values.shape for r in relevances)
    if not apart:
        values = values.sum(-1)
    flat = [r.detach().unsqueeze(-1).flatten(values.ndim).to(values.device) for r in relevances]
    sums = torch.stack([r.sum(-1, dtype=torch.float64) for r in flat]).sum(0)
    sizes = torch.stack([r.abs().sum(-1, dtype=torch.float64) for r in flat]).sum(0)
    numbers = torch.stack([values.detach(), sums, sizes], -1).reshape(-1, 3).tolist()
    titles = ("target", "sample") if values.ndim + (not apart) > 1 else ("sample",)
    places = itertools.product(*(range(n) for n in values.shape))
    return [SampleAccount(name_sample(titles, index, apart), *row) for index, row in zip(places, numbers, strict=True)]


def name_sample(titles: Sequence[str], index: Sequence[int], apart: bool) -> str:
    """Say in words which sample it is."""
    words = [f"{title} {i}" for title, i in zip(titles, index, strict=False)]
    return ", ".join(words if apart else [*words, "all samples"])


def list_places(found: Sequence[SampleAccount]) -> str:
    """Write the first few places, and how many more there are."""
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return "; ".join(row.place for row in found[:MAX_NAMED]) + more


def mention_others(found: Sequence[SampleAccount]) -> str:
    """Write the places behind the worst one."""
    return f" (likewise {list_places(found[1:])})" if len(found) > 1 else ""
