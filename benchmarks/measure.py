"""What every benchmark of speed shares: times of calls in turn, bytes of a call, ratios, tables, JSON and plots."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("fxlrp", "torch", "torchvision", "transformers", "zennit", "captum", "lxt", "triton", "ray", "pyarrow")
PAUSE = 0.02
"""Seconds between two calls, in which threads of the call before stop spinning."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Spread:
    """Quartiles of repeated measurements, and the least."""

    median: float
    lower: float
    upper: float
    least: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        lower, median, upper = statistics.quantiles(values, method="inclusive") if len(values) > 1 else 3 * [values[0]]
        return cls(median, lower, upper, min(values), len(values))


def arguments(
    description: str | None,
    models: Sequence[str],
    methods: Sequence[str],
    repeats: int = 11,
) -> argparse.ArgumentParser:
    """A parser of the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(models), help=f"by default {' '.join(models)}")
    parser.add_argument("--methods", nargs="+", default=list(methods), help=f"by default {' '.join(methods)}")
    parser.add_argument("--repeats", type=int, default=repeats, help="calls of each method that count (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where to run: cpu, cuda")
    parser.add_argument("--tiny", action="store_true", help="narrow models, to try out the script")
    parser.add_argument("--out", type=Path, help="write JSON to this file, and a plot beside it")
    return parser


def alternate(timed: Mapping[str, Callable[[], float]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of calls that take turns, so that a slow minute of the machine is shared by all of them.

    Args:
        timed: Calls that return how long they took, by name.
        repeats: How often each is called.
        warmup: Rounds before these that do not count.
    """
    found: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(warmup + repeats):
        for name, call in timed.items():
            time.sleep(PAUSE)
            took = call()
            if turn >= warmup:
                found[name].append(took)
    return found


def ratio(times: Sequence[float], base: Sequence[float]) -> Spread:
    """Quartiles of the ratios of each round."""
    return Spread.of([mine / other for mine, other in zip(times, base, strict=True)])


def peak_bytes(call: Call, device: str = "cpu") -> int:
    """Most bytes that tensors of a call hold at one time beyond those from before it, as torch's allocator counts."""
    if device != "cpu":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=False
    ) as profile:
        call()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    steps = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for step in sorted(steps, key=lambda e: e.start_ns()):
        now += step.nbytes()
        most = max(most, now)
    return most


def peak_resident(call: Call) -> int:
    """Growth of the process's peak of resident memory while a call runs, which counts what kernels allocate too.

    Where the kernel cannot reset the peak, the process must be fresh and the call its largest.
    """
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    call()
    return resident(peak=True) - before


def resident(peak: bool = False) -> int:
    """Bytes of resident memory, now or at most."""
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(key))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the points on logarithmic axes."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sizes, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def distance(mine: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference, relative to the other's."""
    mine, other = mine.double(), other.double()
    return float((mine - other).norm() / other.norm())


def cosine(mine: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of two attributions."""
    return float(torch.nn.functional.cosine_similarity(mine.double().flatten(), other.double().flatten(), 0))


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def surroundings(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and options of a run."""
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": list(os.getloadavg()),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if name in installed},
        "options": {name: v.name if isinstance(v, Path) else v for name, v in vars(options).items() if name != "out"},
    }
    if options.device != "cpu":
        found["machine"]["device"] = torch.cuda.get_device_name(options.device)
    return found


def milliseconds(spread: Spread) -> str:
    return f"{1e3 * spread.median:.1f}"


def times(spread: Spread) -> str:
    """A ratio with its quartiles."""
    return f"{spread.median:.2f} ({spread.lower:.2f} to {spread.upper:.2f})"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], texts: int = 1) -> Table:
    """A table whose first columns are texts and whose others are numbers."""
    shown = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        shown.add_column(name, justify="left" if i < texts else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(str, row))
    return shown


def finish(options: argparse.Namespace, report: dict[str, Any], tables: Iterable[Table]) -> None:
    """Print machine, versions and tables, and write the report if asked to."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    for part in ("machine", "versions"):
        console.print(", ".join(f"{name} {value}" for name, value in report[part].items()), highlight=False)
    for shown in tables:
        console.print(shown)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1, default=asdict) + "\n")


def bars(path: Path, label: str, values: Mapping[str, Mapping[str, Spread]]) -> None:
    """Draw a bar with its quartiles for every name of every group."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = [(f"{group}: {name}", s) for group, found in values.items() for name, s in found.items()]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(rows)), layout="constrained")
    medians = [s.median for _, s in rows]
    errors = [[s.median - s.lower for _, s in rows], [s.upper - s.median for _, s in rows]]
    axes.barh(range(len(rows)), medians, xerr=errors, color="#4878a8", ecolor="#333333")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_xlabel(label)
    figure.savefig(path)
    pyplot.close(figure)


def curves(path: Path, panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> None:
    """Draw lines on logarithmic axes, a panel for each title, two in a row."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = -(-len(panels) // 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(9, 3.6 * rows), layout="constrained", squeeze=False)
    for axis, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        for label, (sizes, values) in lines.items():
            axis.loglog(sizes, values, marker="o", label=f"{label}: exponent {exponent(sizes, values):.2f}")
        ticks = sorted({size for sizes, _ in lines.values() for size in sizes})
        axis.set_xticks(ticks, [f"{size:g}" for size in ticks])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.set_title(name, fontsize="medium")
        axis.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)
