"""Pictures of what candidates reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxlrp.optional import require
from fxlrp.tuning.halving import Trial
from fxlrp.tuning.intervals import Difference

COLOURED = 7
"""Candidates with a colour of their own; those behind them are grey."""


def draw_trials(
    path: str | Path, trials: Sequence[Trial], differences: Sequence[Difference], rungs: Sequence[int], metric: str
) -> Path:
    """Draw means by samples on the left, and differences from the best with their intervals on the right.

    Args:
        path: A file that ends as matplotlib knows it, such as ``.png``.
        trials: The candidates that were measured, the best first.
        differences: Of each from the best.
        rungs: Samples of each rung.
        metric: What was measured.

    Raises:
        FxlrpError: If matplotlib is not installed.
    """
    height = 1.5 + 0.26 * max(8, len(trials))
    figure = require("matplotlib.figure", "demo").Figure(figsize=(12, height), layout="constrained")
    means, less = figure.subplots(1, 2, width_ratios=(2, 1.4))
    colours = [f"C{i}" if i < COLOURED else "0.6" for i in range(len(trials))]
    for trial, colour in reversed(list(zip(trials, colours, strict=True))):
        draw_means(means, trial, rungs, colour)
    means.set(xlabel="samples", ylabel=f"mean of {metric}", xscale="log", xticks=rungs, xticklabels=map(str, rungs))
    means.minorticks_off()
    for place, (found, colour) in enumerate(zip(differences, colours, strict=True)):
        less.errorbar(found.mean, place, xerr=found.half, fmt="o", markersize=4, color=colour)
    less.axvline(0, color="0.8", zorder=0)
    less.set(xlabel="less the best, on the same samples (95 %)", yticks=range(len(trials)), ylim=(len(trials), -1))
    less.set_yticklabels([f"{trial.name}  n={len(trial.scores)}" for trial in trials], fontsize=7)
    less.yaxis.tick_right()
    figure.savefig(path, dpi=150)
    return Path(path)


def draw_means(axes: Any, trial: Trial, rungs: Sequence[int], colour: str) -> None:
    """Draw the mean of a candidate over the samples of each rung that it was in."""
    reached = [count for count in rungs if count <= len(trial.scores)]
    axes.plot(reached, [trial.scores[:n].mean() for n in reached], marker="o", markersize=4, color=colour)
