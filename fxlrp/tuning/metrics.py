"""What candidates are measured by: a number for each sample, the larger the better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline, blur
from fxlrp.evaluate.flipping import flip
from fxlrp.evaluate.leave_one_out import compare_with_drops, drop_each
from fxlrp.evaluate.segments import Model, divide_grid

Metric = Callable[[Model, Tensor, Tensor, Tensor], Tensor]
"""A model, samples, their relevance and the class of each, to a number for each sample."""

STEPS = 50
"""The most steps of a curve, unless there are patches of a given size."""


@dataclass(frozen=True)
class Flipping:
    """Area between the curves of flipped segments, see `fxlrp.evaluate.flipping`.

    Attributes:
        segments: Number of the segment of each place.
        baseline: What replaces them.
        batch: Inputs in each forward pass.
    """

    segments: Tensor
    baseline: Baseline
    batch: int

    def __call__(self, model: Model, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        """Return the area of each sample."""
        per_step = -(-(int(self.segments.max()) + 1) // STEPS)
        curves = flip(model, x, relevance, target, self.segments, self.baseline, per_step=per_step, batch=self.batch)
        return curves.abpc


class LeaveOneOut:
    """Correlation of relevance with what the model loses without each segment, see `fxlrp.evaluate.leave_one_out`.

    What it loses is measured once for all candidates that follow each other on the same samples.
    """

    def __init__(self, segments: Tensor, baseline: Baseline, batch: int) -> None:
        self.segments, self.baseline, self.batch = segments, baseline, batch
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(self, model: Model, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        """Return the correlation of each sample."""
        if self._known is None or self._known[0] is not x:
            self._known = x, drop_each(model, x, target, self.segments, self.baseline, batch=self.batch)
        return compare_with_drops(relevance, self._known[1], self.segments)


METRICS: dict[str, type[Flipping] | type[LeaveOneOut]] = {"flipping": Flipping, "leave_one_out": LeaveOneOut}


def name_metric(metric: Metric) -> str:
    """Return the name of a metric in reports."""
    known = next((name for name, made in METRICS.items() if isinstance(metric, made)), type(metric).__name__)
    return str(getattr(metric, "__name__", known))


def make_metric(
    metric: str | Metric,
    x: Tensor,
    segments: Tensor | None,
    baseline: Baseline | None,
    patch: int | None,
    batch: int,
) -> Metric:
    """Return a metric from its name, or itself.

    Args:
        metric: Its name, or a function.
        x: The samples.
        segments: Number of the segment of each place; None for square patches of images, and for single places of
            sequences.
        baseline: What replaces segments; None for a blur of images.
        patch: Side of the patches; None for a seventh of the shorter side of images.
        batch: Inputs in each forward pass.

    Raises:
        SignatureError: If ``metric`` is none, or segments or a baseline are missing.
    """
    if callable(metric):
        return metric
    if metric not in METRICS:
        known = ", ".join(map(repr, METRICS))
        raise SignatureError(f"metric={metric!r} is none of {known}, and no function of (model, x, relevance, target)")
    images = x.ndim == 4 and x.is_floating_point()
    if baseline is None and not images:
        raise SignatureError(
            "what replaces parts of these inputs is not known: give baseline=, such as "
            "fxlrp.evaluate.baselines.constant(0), for token ids with the id of the mask or padding token"
        )
    if segments is None:
        segments = divide_samples(x, patch)
    return METRICS[metric](segments, blur() if baseline is None else baseline, batch)


def divide_samples(x: Tensor, patch: int | None) -> Tensor:
    """Return the number of the segment of each place: patches of images, places of sequences."""
    if x.ndim == 4 and x.is_floating_point():
        height, width = x.shape[2:]
        return divide_grid(height, width, -(-min(height, width) // 7) if patch is None else patch)
    if x.ndim != 2:
        raise SignatureError(
            f"samples of shape {tuple(x.shape[1:])} have no parts that are known: give segments=, the number of the "
            "segment of each place"
        )
    return torch.arange(x.shape[1])


def measure(metric: Metric, model: Model, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
    """Measure an explanation.

    Returns:
        A number for each sample, in float64.

    Raises:
        SignatureError: If the metric returns anything else.
    """
    found = torch.as_tensor(metric(model, x, relevance, target)).detach().double().cpu()
    if found.shape != (len(x),):
        raise SignatureError(
            f"the metric {name_metric(metric)} returned the shape {tuple(found.shape)} for {len(x)} samples: it takes "
            f"(model, x, relevance, target), and returns one number per sample, ({len(x)},)"
        )
    return found
