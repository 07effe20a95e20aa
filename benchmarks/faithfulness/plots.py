"""The account as a picture: a panel for each task, with means and their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import t as student

import fxlrp

PANELS = 3
"""In a row."""
COLOURS = {"auto": "tab:red", "preset": "tab:blue", "peer": "0.55"}


def draw(account: Mapping[str, Any], titles: Mapping[str, str], path: Path) -> None:
    """Draw the mean score of every method, the best above.

    Args:
        account: Scores by task and method.
        titles: What the numbers of each task are.
        path: Where to write; the suffix says the format.
    """
    rows = math.ceil(len(account) / PANELS)
    most = max(map(len, account.values()))
    figure = Figure(figsize=(4.2 * PANELS, (0.6 + 0.16 * most) * rows), layout="constrained")
    for ax, (task, done) in zip(figure.subplots(rows, PANELS, squeeze=False).flat, account.items(), strict=False):
        ordered = sorted(done, key=lambda method: mean(done[method]["scores"]))
        scores = [done[method]["scores"] for method in ordered]
        ax.barh(
            ordered,
            list(map(mean, scores)),
            xerr=list(map(measure_half, scores)),
            color=[COLOURS[find_kind(method)] for method in ordered],
            error_kw={"lw": 0.7},
        )
        ax.set_title(f"{task}\n{titles[task]}", fontsize=8)
        ax.tick_params(labelsize=6)
        ax.margins(y=0.01)
        ax.axvline(0, color="0.2", lw=0.6)
    for ax in figure.axes[len(account) :]:
        ax.set_axis_off()
    with rc_context({"svg.fonttype": "none"}):  # text that can be read and searched
        figure.savefig(path)


def measure_half(scores: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean."""
    return float(student.ppf(0.975, len(scores) - 1)) * stdev(scores) / len(scores) ** 0.5


def find_kind(method: str) -> str:
    """Say whether a method is the default, another of ours (a preset, the default smoothed), or a peer."""
    if method == "auto":
        return method
    return "preset" if method in fxlrp.presets() or "auto" in method.split() else "peer"
