"""What tuning has found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fxlrp.ir.rule_set import RuleSet
from fxlrp.reports.terminal import write_table
from fxlrp.rules import PRESETS
from fxlrp.tuning.candidates import CALL
from fxlrp.tuning.halving import Trial
from fxlrp.tuning.intervals import Difference, compare_scores
from fxlrp.tuning.plots import draw_trials

IMPORTS = """\
from fxlrp.rules.published.residuals import residual_gamma
from fxlrp.rules.weighted import epsilon, flat, gamma, z_box, z_plus
from fxlrp.tuning.candidates import combine_rules
"""

SHOWN = 3
"""Candidates that the verdict names, if there are more that may be as good."""


@dataclass(frozen=True)
class TuningReport:
    """Candidates and what they reached.

    Attributes:
        trials: All candidates, the best first, and those at the end that could not be measured.
        rungs: Samples that candidates were measured on before some of them were left behind; the last is all.
        metric: What they were measured by.
    """

    trials: tuple[Trial, ...]
    rungs: tuple[int, ...]
    metric: str

    @property
    def best(self) -> str:
        """Name of the best candidate."""
        return self.trials[0].name

    @property
    def rules(self) -> RuleSet:
        """The best rule set, for ``fxlrp.compile(model, rules=report.rules)``."""
        return self.trials[0].rules

    @property
    def finalists(self) -> tuple[Trial, ...]:
        """Candidates that were measured on all samples, the best first."""
        return tuple(trial for trial in self.trials if len(trial.scores) == self.rungs[-1] and not trial.dropped)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of the candidates, measured on all samples, that the best is not significantly better than."""
        return tuple(trial.name for trial in self.finalists[1:] if not self.compare(trial).sure)

    @property
    def verdict(self) -> str:
        """How sure it is that the best is the best, in a sentence."""
        head = f"{self.best} is the best by {self.metric} on {self.rungs[-1]} samples"
        if len(self.finalists) == 1:
            return f"{head}, with nothing left to compare it with."
        if not self.rivals:
            return f"{head}, and better than {self.finalists[1].name} beyond chance (95 % intervals)."
        more = f" and {len(self.rivals) - SHOWN} more" if len(self.rivals) > SHOWN else ""
        named = f"{'; '.join(self.rivals[:SHOWN])}{more}"
        return f"{head}, but not significantly better than {named}: more samples may tell them apart."

    def compare(self, trial: Trial) -> Difference:
        """Compare a candidate with the best, on the samples that both were measured on."""
        return compare_scores(trial.scores, self.trials[0].scores)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per candidate, ready for ``pandas.DataFrame``.

        ``difference`` is the mean difference from the best on the same samples, ``low`` and ``high`` its 95 % interval.
        """
        return [self.describe(trial) for trial in self.trials]

    def describe(self, trial: Trial) -> dict[str, Any]:
        """Return the row of a candidate."""
        row: dict[str, Any] = {"candidate": trial.name, "samples": len(trial.scores), "mean": None}
        row |= dict.fromkeys(("difference", "low", "high"))
        if len(trial.scores):
            found = self.compare(trial)
            numbers = found.mean, found.mean - found.half, found.mean + found.half
            row |= {"mean": trial.mean} | dict(zip(("difference", "low", "high"), numbers, strict=True))
        return row | {"seconds": trial.seconds, "dropped": trial.dropped}

    def to_json(self) -> str:
        """Write the whole report as JSON."""
        head = {"best": self.best, "verdict": self.verdict, "metric": self.metric, "rungs": self.rungs}
        return json.dumps({**head, "candidates": self.to_rows()}, indent=2)

    def usage(self) -> str:
        """Write Python that compiles a model with the best rules, whose default candidates are calls."""
        if PRESETS.get(self.best) == self.rules:
            return f"fxlrp.compile(model, rules={self.best!r})"
        if self.rules.summary.startswith(CALL):
            return f"{IMPORTS}\nfxlrp.compile(model, rules={self.rules.summary})"
        return "fxlrp.compile(model, rules=report.rules)"

    def table(self) -> Table:
        """Return the report as a rich table."""
        table = Table("candidate", "samples", self.metric, "less the best", "seconds", "", box=None)
        for column in table.columns[1:5]:
            column.justify = "right"
        for row in self.to_rows():
            cells = ["", "", ""]
            if row["samples"]:
                half = (row["high"] - row["low"]) / 2
                less = "" if row["candidate"] == self.best else f"{row['difference']:+.4g} ± {half:.2g}"
                cells = [str(row["samples"]), f"{row['mean']:.4g}", less]
            reason = row["dropped"].partition("\n")[0]
            table.add_row(Text(row["candidate"]), *cells, f"{row['seconds']:.1f}", Text(reason))
        return table

    def __str__(self) -> str:
        return f"{write_table(self.table())}\n{self.verdict}"

    def plot(self, path: str | Path) -> Path:
        """Draw how the mean of each candidate went on from rung to rung, and how far each is from the best.

        Raises:
            FxlrpError: If matplotlib is not installed.
        """
        measured = [trial for trial in self.trials if len(trial.scores)]
        return draw_trials(path, measured, [self.compare(trial) for trial in measured], self.rungs, self.metric)
