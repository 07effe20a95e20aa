"""Where candidates are measured: the samples of a rung, and what has been captured of the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from fxlrp.attributor import Attributor
from fxlrp.capture.explained_output import pick_output
from fxlrp.errors import MissingRules, RuleError
from fxlrp.plan.decide import Plan
from fxlrp.session.signature import plain_mode
from fxlrp.tuning.halving import Trial
from fxlrp.tuning.metrics import Metric, measure

SAME = 1e-3
"""Distance of two relevances of a sample, in parts of the norm, that is put down to rounding and stabilisers."""


def capture_model(probe: Attributor, x: Tensor) -> Plan:
    """Capture a model for samples like these."""
    with plain_mode():
        return probe._programs.find_signature((x,), {})[0].plan


def run_model(probe: Attributor, x: Tensor) -> Tensor:
    """Run a model, and return its classes."""
    y: Tensor = pick_output(probe.model(x), probe.options.output)
    return y


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two relevances are the same in every sample."""
    distances = (one - other).double().flatten(1).norm(dim=1)
    return bool((distances <= SAME * other.double().flatten(1).norm(dim=1)).all())


@dataclass
class Bench:
    """Measures candidates, each on the samples of the current rung.

    Attributes:
        probe: What captures the model, whose graph all candidates use.
        metric: What explanations are measured by.
        name: Of the model's input; what is computed of it, such as positions, may have relevance of its own.
        chunk: Samples that are explained at a time, always so many.
        x: All samples.
        classes: What is explained of each.
        rung: The samples of the current rung, and what is explained of them.
        attributors: Of the candidates of the current rung.
        relevances: Of the candidates of the first rung, to tell those that are the same.
    """

    probe: Attributor
    metric: Metric
    name: str
    chunk: int
    x: Tensor
    classes: Tensor
    rung: tuple[Tensor, Tensor] = field(init=False)
    attributors: dict[str, Attributor] = field(default_factory=dict)
    relevances: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, trials: Sequence[Trial], start: int, end: int) -> None:
        """Go on to other samples, and forget the candidates that do not."""
        self.rung = self.x[start:end], self.classes[start:end]
        names = {trial.name for trial in trials}
        self.attributors = {name: made for name, made in self.attributors.items() if name in names}
        self.relevances = {}

    def measure(self, trial: Trial) -> Trial:
        """Measure a candidate; it is dropped if that cannot be done, or if it is the same as another."""
        start = time.perf_counter()
        try:
            relevance = self.explain(trial)
        except (MissingRules, RuleError) as error:
            return trial.drop(str(error), time.perf_counter() - start)
        if reason := self.find_fault(trial, relevance):
            return trial.drop(reason, time.perf_counter() - start)
        x, classes = self.rung
        scores = measure(self.metric, partial(run_model, self.probe), x, relevance, classes)
        took = time.perf_counter() - start
        return trial.add(scores, took) if scores.isfinite().all() else trial.drop("the metric is not finite", took)

    def explain(self, trial: Trial) -> Tensor:
        """Return the relevance of the samples."""
        if trial.name not in self.attributors:
            self.attributors[trial.name] = self.probe.with_rules(trial.rules)
        attributor, found = self.attributors[trial.name], []
        x, classes = self.rung
        for start in range(0, len(x), self.chunk):
            rows = torch.arange(start, start + self.chunk).clamp(max=len(x) - 1)
            result = attributor(x[rows.to(x.device)], target=classes[rows.to(classes.device)])
            relevance = result.relevance if isinstance(result.relevance, Tensor) else result.relevance[self.name]
            found.append(relevance[: len(x) - start])
        return torch.cat(found)

    def find_fault(self, trial: Trial, relevance: Tensor) -> str:
        """Say why relevance is not worth measuring; empty if it is."""
        finite = relevance.flatten(1).isfinite().all(1)
        if not finite.all():
            return f"relevance is not finite for {int((~finite).sum())} of {len(finite)} samples"
        if len(trial.scores):
            return ""
        for name, other in self.relevances.items():
            if is_same(relevance, other):
                return f"the same relevance as {name}"
        self.relevances[trial.name] = relevance
        return ""
