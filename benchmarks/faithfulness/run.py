"""Do explanations say what the models do? ``python benchmarks/faithfulness/run.py``.

Every method explains the samples of every task, and the task gives each explanation a number; what the tasks and the
numbers are says README.md beside this file. The account is kept in a file, from which a run that was cut off goes on.
Networks that learn here do so once: their weights are kept in ``$TORCH_HOME/hub/fxlrp`` (``~/.cache/torch/hub``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import characters
import circuits
import digits
import hand_set
import known_signals
import lesions
import photographs
import plots
import recurrent
import sanity
import tetrominoes
import texts
import torch
import vision_transformers
from rich.console import Console
from rich.progress import track
from tasks import Task

from fxlrp.errors import FxlrpError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import table

HERE = Path(__file__).parent
COSTS = "seconds", "judged"
"""Seconds of a core that it took to explain all samples, and to judge what was said of them."""
TASKS: dict[str, Callable[[], Task]] = {
    task: build
    for room in (
        *(photographs, vision_transformers, characters, texts, recurrent, circuits),
        *(digits, hand_set, tetrominoes, lesions, known_signals, sanity),
    )
    for task, build in room.TASKS.items()
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print a table per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[name for name in TASKS if "smoke" not in name])
    parser.add_argument("--methods", nargs="+", help="names of methods (all that a task has)")
    parser.add_argument("--plot", type=Path, help="draw the tasks to this file, such as results.svg")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="the account (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    account: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    titles = {}
    for name in options.tasks:
        try:
            task = TASKS[name]()
        except FxlrpError as error:
            Console(stderr=True).print(f"{name} is left out: {error}", markup=False)
            continue
        titles[name] = task.measure
        done = account.setdefault(name, {})
        missing = [m for m in task.methods if m not in done and (options.methods is None or m in options.methods)]
        for method in track(missing, name, console=Console(stderr=True)):
            start = time.process_time()
            answer = task.methods[method]()
            explained = time.process_time()
            measures = {"scores": task.score, **task.others}
            found = {measure: [round(a, 4) for a in judge(answer)] for measure, judge in measures.items()}
            seconds = {"seconds": explained - start, "judged": time.process_time() - explained}
            done[method] = {**found, **{name: round(took, 2) for name, took in seconds.items()}}
            options.out.write_text(write_account(account))
        Console().print(compare(f"{name}: {task.measure}", done))
    Console().print(summarise({name: account[name] for name in titles}))
    if options.plot is not None and titles:
        plots.draw({name: account[name] for name in titles}, titles, options.plot)
    return 0


def write_account(account: dict[str, Any]) -> str:
    """A line of JSON for each method of each task."""
    tasks = []
    for task, done in account.items():
        lines = [f"  {json.dumps(method)}: {json.dumps(found)}" for method, found in done.items()]
        tasks.append(f" {json.dumps(task)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(tasks) + "\n}\n"


def compare(title: str, done: dict[str, Any]) -> Any:
    """The table of a task: means, and paired differences from the best with their 95 % interval."""
    ordered = sorted(done, key=lambda method: -statistics.mean(done[method]["scores"]))
    best = done[ordered[0]]["scores"]
    others = [measure for measure in done[ordered[0]] if measure not in ("scores", *COSTS)]
    lines = []
    for method in ordered:
        scores = done[method]["scores"]
        means = [f"{statistics.mean(done[method][measure]):.2f}" for measure in others]
        apart = subtract(scores, best)
        lines.append((method, f"{statistics.mean(scores):.2f}", apart, *means, f"{done[method]['seconds']:.1f}"))
    return table(title, ("method", "mean", "less the best", *others, "s of a core"), lines, texts=1)


def subtract(a: list[float], b: list[float]) -> str:
    """The mean of paired differences, and half of its 95 % interval."""
    less = [x - y for x, y in zip(a, b, strict=True)]
    return f"{statistics.mean(less):.2f} ± {plots.measure_half(less):.2f}"


def summarise(account: dict[str, Any]) -> Any:
    """Set the default beside the best of what is not ours, task by task."""
    lines = []
    for task, done in account.items():
        means = {method: statistics.mean(found["scores"]) for method, found in done.items()}
        peers = [method for method in done if plots.find_kind(method) == "peer"]
        if "auto" in done and peers:
            best = max(peers, key=means.__getitem__)
            apart = subtract(done["auto"]["scores"], done[best]["scores"])
            lines.append((task, f"{means['auto']:.2f}", best, f"{means[best]:.2f}", apart))
    return table("auto beside the best peer", ("task", "auto", "peer", "mean", "auto less it"), lines, texts=1)


if __name__ == "__main__":
    raise SystemExit(main())
