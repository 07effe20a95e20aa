"""Files that a stranger could have made: ``python benchmarks/hostile.py --mutants 5000 --processes 2``.

Valid artefacts are changed as tests/support/hostile.py says: their members, manifests, graphs, tree specs, sizes,
weights and zip directories; most are sealed anew. Each mutant is loaded, and called if it loads, in a forked process
with canaries: a file in the folder that it is read in, and a record of every file, process, library, socket and module
that is opened.

A mutant is *refused* (`ArtifactError` at loading, an error of fxlrp at the call), *loads*, or asks for more *resources*
at the call than there are. *Bad* is everything else: another exception, a signal, more than ten seconds, a gibibyte at
loading, a canary touched, an input changed. The exit status is then 1. With ``--out`` a run that was cut off goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
import torch._subclasses.schema_check_mode  # noqa: E402  # torch imports it when a call fails
from forked import sweep  # noqa: E402
from hostile import MUTATIONS  # noqa: E402
from hostile_samples import ENDINGS, SAMPLES, save  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import fxlrp  # noqa: E402

TOGETHER = 20
"""Mutants of one process."""
ROUND = 400
"""Mutants between two entries in the account."""
SECONDS = 10.0
"""After which a mutant hangs."""
SPACE = 4 << 30
"""Bytes of address space that a mutant may take."""
TAKEN = 1 << 30
"""Bytes of memory that loading may take."""
WATCHED = (
    "open", "import", "exec", "os.", "subprocess.", "ctypes.", "socket.", "shutil.", "pty.", "mmap.",
    "pickle.find_class", "marshal.", "code.", "urllib.", "webbrowser.", "tempfile.", "glob.", "sqlite3.",
)  # fmt: skip
SHORTAGE = ("not enough memory", "can't allocate", "DefaultCPUAllocator", "bad_alloc", "Failed to allocate")


@dataclass(frozen=True)
class Batch:
    """Some mutants of a format, by their numbers."""

    format: str
    seed: int
    numbers: tuple[int, ...]
    folder: Path

    @property
    def seconds(self) -> float:
        return SECONDS + 2.0 * len(self.numbers)

    def halves(self) -> Sequence[Batch]:
        half = len(self.numbers) // 2
        parts = (self.numbers[:half], self.numbers[half:]) if half else ()
        return [Batch(self.format, self.seed, part, self.folder) for part in parts]

    def mutant(self, number: int) -> tuple[str, str, bytes]:
        """Name of the sample, kind of mutation, and content of a file."""
        rng = random.Random(f"{self.seed}/{self.format}/{number}")
        path = rng.choice(sorted((self.folder / self.format).iterdir()))
        return path.stem, *MUTATIONS[self.format](path.read_bytes(), rng)


class Watch:
    """What Python is told of while a file is read: files, processes, libraries, sockets and modules opened.

    What good files make it open is usual.
    """

    def __init__(self) -> None:
        self.path, self.seen, self.usual = "", list[str](), set[str]()
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.path or not event.startswith(WATCHED):
            return
        first = args[0] if args else ""
        if event == "exec":
            first = getattr(first, "co_filename", "")
        if event in ("open", "os.listdir", "os.scandir") and str(first) == self.path:
            return
        source = event == "open" and str(first).endswith((".py", ".pyc")) and args[1] in ("r", "rb")
        if source or (event == "import" and str(first).startswith("torch.")):  # what torch needs to tell of an error
            return
        told = re.sub(r"\d+", "N", f"{event} {str(first)[:80]}")  # the code that torch.fx writes is numbered
        if told not in self.usual:
            self.seen.append(told)

    @contextmanager
    def on(self, path: Path) -> Iterator[list[str]]:
        """A context in which it listens; only the path itself may be read."""
        self.path, self.seen = str(path), []
        try:
            yield self.seen
        finally:
            self.path = ""


WATCH = Watch()
"""Of this process and of all that are forked from it."""


def work(batch: Batch) -> list[Any]:
    """Verdicts on mutants."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + SPACE, space + SPACE))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "inside"
        inside.mkdir()
        (Path(folder) / "canary").write_text("alive")
        (inside / "canary").write_text("alive")
        os.chdir(inside)
        for number in batch.numbers:
            name, kind, content = batch.mutant(number)
            path = inside / f"mutant{ENDINGS[batch.format]}"
            path.write_bytes(content)
            before = surroundings(Path(folder))
            verdict, what = judged(path, name)
            if surroundings(Path(folder)) != before:
                verdict, what = "bad", "a canary was touched"
            found.append((number, kind, verdict, what))
    return found


def surroundings(folder: Path) -> Any:
    """All files of a folder, and the libraries of the process."""
    files = sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))
    maps = Path("/proc/self/maps").read_text().splitlines()
    return files, {line.split()[-1] for line in maps if " r-xp " in line and "/" in line}


def judged(path: Path, name: str) -> tuple[str, str]:
    """Load a file and call it."""
    sample = SAMPLES[name]
    args, target = sample.inputs(), sample.target
    copies = [x.clone() for x in args]
    start, taken = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with WATCH.on(path) as seen:
        verdict, what = tried(path, args, target, taken)
    if seen:
        return "bad", f"{seen[0]} ({len(seen)} events), {verdict}"
    if time.monotonic() - start > SECONDS:
        return "bad", "slow"
    if not all(torch.equal(x, copied) for x, copied in zip(args, copies, strict=True)):
        return "bad", "an input was changed"
    return verdict, what


def tried(path: Path, args: Sequence[Any], target: Any, taken: int) -> tuple[str, str]:
    """What becomes of a file."""
    try:
        artifact = fxlrp.load(path)
    except fxlrp.ArtifactError as error:
        return "refused", str(error)[:100]
    except BaseException as error:
        return "bad", f"at loading {told(error)}"
    finally:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - taken) << 10
    if grown > TAKEN:
        return "bad", f"{grown >> 20} MiB at loading"
    try:
        artifact(*args, target=target)
    except fxlrp.FxlrpError as error:
        return ("resources" if any(word in str(error) for word in SHORTAGE) else "refused"), str(error)[:100]
    except MemoryError:
        return "resources", "MemoryError"
    except BaseException as error:
        short = any(word in str(error) for word in SHORTAGE)
        return ("resources", "memory") if short else ("bad", f"at the call {told(error)}")
    return "loads", ""


def told(error: BaseException) -> str:
    """Type and first words of an error."""
    return f"{type(error).__name__}: {str(error).strip()[:120]}"


def fuzz(format: str, options: argparse.Namespace, account: dict[str, Any], folder: Path) -> None:
    """Judge the mutants of a format that are not yet in the account."""
    entry = account["formats"].setdefault(format, {"mutants": 0, "table": {}, "bad": []})
    while entry["mutants"] < options.mutants:
        end = min(entry["mutants"] + ROUND, options.mutants)
        numbers = tuple(range(entry["mutants"], end))
        packs = [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]
        batches = [Batch(format, account["seed"], pack, folder) for pack in packs]

        def done(batch: Batch, found: list[Any], reason: str) -> None:
            results = found or [(n, batch.mutant(n)[1], "bad", reason) for n in batch.numbers]
            for number, kind, verdict, what in results:
                row = entry["table"].setdefault(kind, {})
                row[verdict] = row.get(verdict, 0) + 1
                if verdict == "bad":
                    entry["bad"].append([number, kind, what])
                    print(f"{format} {number} {kind}: {what}", flush=True)

        sweep(batches, options.processes, work, done)
        entry["mutants"] = end
        if options.out is not None:
            options.out.write_text(json.dumps(account, indent=1) + "\n")


def show(account: dict[str, Any]) -> int:
    """Print a table of verdicts; return how many are bad."""
    table = Table("format", "mutation", "refused", "loads", "resources", "bad", box=None)
    bad = 0
    for format, entry in account["formats"].items():
        for kind, row in sorted(entry["table"].items()):
            table.add_row(format, kind, *(str(row.get(v, 0)) for v in ("refused", "loads", "resources", "bad")))
        total = sum((Counter(row) for row in entry["table"].values()), Counter[str]())
        table.add_row(format, "all", *(str(total[v]) for v in ("refused", "loads", "resources", "bad")), style="bold")
        bad += total["bad"]
    Console().print(table)
    return bad


def warm(folder: Path) -> None:
    """Load and call every sample twice: first to import what it needs, then to learn what is usual."""
    paths = [path for format in ENDINGS if format != "aoti" for path in sorted((folder / format).glob("*.*"))]
    for _ in range(2):
        usual = set[str]()
        for path in paths:
            sample = SAMPLES[path.stem]
            with WATCH.on(path) as seen:
                fxlrp.load(path)(*sample.inputs(), target=sample.target)
            usual.update(seen)
    WATCH.usual = usual


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=500, help="of each format")
    parser.add_argument("--formats", nargs="+", default=list(ENDINGS), choices=list(ENDINGS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, help="keep the valid artefacts in this folder, and take them from it")
    parser.add_argument("--out", type=Path, help="keep account in this JSON file, and go on from it")
    options = parser.parse_args()
    account: dict[str, Any] = {"seed": options.seed, "formats": {}}
    if options.out is not None and options.out.exists():
        account = json.loads(options.out.read_text())
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = options.samples or Path(name)
        missing = [format for format in options.formats if not (folder / format).exists()]
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # what is compiled here would leave threads behind
            pool.starmap(save, [(folder, missing)])
        warm(folder)
        for format in options.formats:
            fuzz(format, options, account, folder)
    return int(show(account) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
