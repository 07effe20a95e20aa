"""Every sample of torch's own catalogue of ops against autograd: ``python benchmarks/op_db.py``.

Each entry with a derivative is taken in double precision. Its samples become models, which must pass the gradient
oracle (``rules="gradient"`` is input x gradient, to 1e-9 of the largest entry) and compile strictly with the default
rules to finite relevance. See tests/rules/test_op_db.py for the exceptions and why they are. With ``--out`` a run that
was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import importlib.metadata
import io
import json
import logging
import multiprocessing
import os
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from op_db import ENTRIES, samples, verdicts  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402
from test_op_db import EXCEPTIONS  # noqa: E402

TOGETHER = 16
"""Samples that are captured as one model."""
PASSING = ("passes", "silent", "constant")
OUTSIDE = ("refused", "no reference")
"""What torch cannot export or differentiate, or fxlrp refuses by name."""


@dataclass(frozen=True)
class Entry:
    """What became of one entry.

    Attributes:
        name: Name and variant.
        samples: How many there are.
        passes: How many pass the oracle and compile strictly to finite relevance.
        silent: How many have a derivative of 0 everywhere, and say so.
        constant: How many have no gradient at all.
        outside: How many cannot be exported or differentiated, or are refused, by reason.
        wrong: How many fail, by what is wrong.
        exception: Why, if the entry is an exception.
        seconds: How long it took.
    """

    name: str
    samples: int
    passes: int
    silent: int
    constant: int
    outside: dict[str, int]
    wrong: dict[str, int]
    exception: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every sample that can be exported passes, and there is one."""
        return not self.wrong and self.passes + self.silent > 0


def measure(given: tuple[str, int | None]) -> Entry:
    """All samples of an entry, or the first so many."""
    name, most = given
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    start = time.perf_counter()
    found: list[str] = []
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        calls = samples(name)[:most]
        for i in range(0, len(calls), TOGETHER):
            found += verdicts(calls[i : i + TOGETHER])
    counts = Counter(found)
    rest = {v: n for v, n in counts.items() if v not in PASSING}
    return Entry(
        name=name,
        samples=len(calls),
        passes=counts["passes"],
        silent=counts["silent"],
        constant=counts["constant"],
        outside={v: n for v, n in rest.items() if v.startswith(OUTSIDE)},
        wrong={v: n for v, n in rest.items() if not v.startswith(OUTSIDE)},
        exception=EXCEPTIONS.get(name, ("", ""))[1],
        seconds=round(time.perf_counter() - start, 2),
    )


def summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything that is written."""
    bad = [e for e in entries if not e.good]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "fxlrp")},
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "totals": {
            "entries": len(entries),
            "entries that pass on every sample that can be exported": len(entries) - len(bad),
            "samples": sum(e.samples for e in entries),
            "passes": sum(e.passes for e in entries),
            "silent": sum(e.silent for e in entries),
            "constant": sum(e.constant for e in entries),
            "outside": sum(sum(e.outside.values()) for e in entries),
            "wrong": sum(sum(e.wrong.values()) for e in entries),
            "seconds": round(sum(e.seconds for e in entries)),
        },
        "exceptions": {e.name: e.exception or "not explained" for e in bad},
        "entries": [asdict(e) for e in entries],
    }


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(entries: Sequence[Entry]) -> Table:
    """The entries of which a sample does not pass."""
    shown = Table(title="Entries of op_db with samples that do not pass", title_justify="left")
    for name in ("entry", "samples", "passes", "what else", "why"):
        shown.add_column(name, overflow="fold")
    for e in entries:
        if e.outside or e.wrong or not e.good:
            rest = "\n".join(f"{n} x {v[:100]}" for v, n in {**e.wrong, **e.outside}.items())
            style = "red" if e.wrong else None
            shown.add_row(e.name, str(e.samples), str(e.passes), rest, e.exception, style=style)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="entries to take, such as 'linalg.*'; all by default")
    parser.add_argument("--most", type=int, help="at most so many samples of each")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep the results in this JSON file, and go on from it")
    options = parser.parse_args()
    patterns = options.patterns or ["*"]
    names = [name for name in ENTRIES if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    entries: list[Entry] = []
    if options.out is not None and options.out.exists():
        entries = [Entry(**entry) for entry in json.loads(options.out.read_text())["entries"]]
    done = {entry.name for entry in entries}
    left = [name for name in names if name not in done]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.processes, maxtasksperchild=60) as pool:
        results = pool.imap(measure, [(name, options.most) for name in left])
        for entry in track(results, "comparing", len(left), console=Console(stderr=True)):
            entries.append(entry)
            if options.out is not None:
                options.out.write_text(json.dumps(summary(entries), indent=1) + "\n")
    console = Console()
    console.print(table(entries))
    console.print(summary(entries)["totals"])
    return int(any(e.wrong and not e.exception for e in entries))


if __name__ == "__main__":
    raise SystemExit(main())
