"""Are the places that an explanation names those that the model uses? ``python benchmarks/faithfulness/run.py``.

Patches are replaced by a blur of 15 pixels, the most relevant first and the least relevant first; what is measured is
the mean over all steps of the difference of the predicted class' logit (area between the curves; larger is better).
The account is kept in a file, from which a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from methods import METHODS
from rich.console import Console
from rich.progress import track
from scipy.stats import t as student
from tasks import TASKS

from fxlrp.evaluate.flipping import flip_patches

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import table

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print a table per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[name for name in TASKS if name != "smoke"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="the account (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    account: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.tasks:
        done = account.setdefault(name, {})
        missing = [method for method in options.methods if method not in done]
        task = TASKS[name]() if missing else None
        for method in track(missing, name, console=Console(stderr=True)):
            start = time.process_time()
            relevance = METHODS[method](task)
            took = time.process_time() - start
            curves = flip_patches(
                task.model, task.inputs, relevance, task.target, patch=task.patch, per_step=task.per_step, batch=12
            )
            done[method] = {"abpc": [round(float(a), 4) for a in curves.abpc], "seconds": round(took, 2)}
            options.out.write_text(json.dumps(account, indent=1) + "\n")
        Console().print(compare(name, {method: done[method] for method in options.methods}))
    return 0


def compare(name: str, done: dict[str, Any]) -> Any:
    """The table of a task: means, and paired differences from the best with their 95 % interval."""
    ordered = sorted(done, key=lambda method: -statistics.mean(done[method]["abpc"]))
    best = done[ordered[0]]["abpc"]
    lines = []
    for method in ordered:
        areas = done[method]["abpc"]
        less = [a - b for a, b in zip(areas, best, strict=True)]
        half = student.ppf(0.975, len(less) - 1) * statistics.stdev(less) / len(less) ** 0.5
        mean = statistics.mean(less)
        lines.append(
            (method, f"{statistics.mean(areas):.2f}", f"{mean:.2f} ± {half:.2f}", f"{done[method]['seconds']:.1f}")
        )
    return table(name, ("method", "area", "less the best", "s of a core"), lines, texts=1)


if __name__ == "__main__":
    raise SystemExit(main())
