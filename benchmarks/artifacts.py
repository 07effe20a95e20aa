"""Every format of artefact beside the program that it was made of: ``python benchmarks/artifacts.py``.

Small models with the classes of their libraries (tests/support/zoo.py) and the CNN of the digits demo, in float32. Each
is saved once per format and run for two inputs, two targets, batches of 1 and 5, and two lengths where it has one.
*Worst* is the largest difference of any relevance from the eager program's, relative in norm; the exit status is 1 if
one is above 1e-5. The last line is how long a new process with torch alone takes to load the digits CNN and call it
once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from measure import surroundings  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402
from zoo import ZOO  # noqa: E402

import fxlrp  # noqa: E402
from fxlrp._torch import tree_map_only  # noqa: E402
from fxlrp.demos import digits  # noqa: E402

MODELS = ("digits", "resnet50", "vit_b_16", "bert", "llama", "flan_t5")
FORMATS = {"pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}
BATCHES, LENGTHS, TARGETS, SEEDS = (1, 5), (7, 11), (1, 2), (0, 1)
LIMIT = 1e-5
FRESH = """
import sys, time
start = time.perf_counter()
import torch
imported = time.perf_counter()
program = torch.export.load(sys.argv[1]).module()
program(torch.rand(1, 1, 8, 8), torch.zeros(1, 1, dtype=torch.int64))
print(imported - start, time.perf_counter() - imported)
"""


def sample(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A model in float32 with inputs for a batch of 2."""
    if name == "digits":
        torch.manual_seed(0)
        return digits.make_network().eval(), (torch.rand(2, 1, 8, 8),), {}
    model, args, kwargs = ZOO[name](2)
    args, kwargs = tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, (args, kwargs))
    return model.float(), args, kwargs


def others(args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Inputs of other batches and lengths."""
    lengths = LENGTHS if any(not t.is_floating_point() for t in (*args, *kwargs.values())) else LENGTHS[:1]
    for seed, batch, length in itertools.product(SEEDS, BATCHES, lengths):
        chance = torch.Generator().manual_seed(seed)

        def drawn(t: Tensor, batch: int = batch, length: int = length, chance: Any = chance) -> Tensor:
            if t.is_floating_point():
                return torch.rand(batch, *t.shape[1:], generator=chance)
            return torch.randint(3, 100, (batch, length), generator=chance)

        named = {k: torch.ones(batch, length).long() if k == "attention_mask" else drawn(t) for k, t in kwargs.items()}
        yield tuple(map(drawn, args)), named


def row(name: str, format: str, folder: Path) -> dict[str, Any]:
    """What became of one model in one format."""
    model, args, kwargs = sample(name)
    attributor = fxlrp.compile(model, args, kwargs, dynamic_shapes="auto")
    start = time.perf_counter()
    path = attributor.save(folder / f"{name}_{format}{FORMATS[format]}", *args, format=format, **kwargs)
    saved = time.perf_counter() - start
    artifact = fxlrp.load(path, allow_native_code=True)
    rank = len(artifact.manifest.explained.shape) - 1
    worst, calls = 0.0, 0
    for other, target in itertools.product(others(args, kwargs), TARGETS):
        wanted = target if rank == 1 else (-1, target)
        values = attributor(*other[0], target=wanted, **other[1]).relevance
        found = artifact(*other[0], target=wanted, **other[1]).relevance
        one, two = (v if isinstance(v, dict) else {"": v} for v in (found, values))
        worst = max(worst, *(float((one[k] - two[k]).norm() / two[k].norm()) for k in two))
        calls += 1
    numbers = sum(p.numel() * p.itemsize for p in model.parameters())
    return {
        "model": name,
        "format": format,
        "calls": calls,
        "worst": worst,
        "bytes": path.stat().st_size,
        "parameter_bytes": numbers,
        "save_seconds": saved,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--formats", nargs="+", default=tuple(FORMATS), choices=tuple(FORMATS))
    parser.add_argument("--out", type=Path, help="write JSON")
    parser.set_defaults(device="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console = Console()
    table = Table("model", "format", "calls", "worst", "kB", "parameters kB", "save s", box=None)
    rows: list[dict[str, Any]] = []
    fresh: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, format in itertools.product(options.models, options.formats):
            try:
                rows.append(row(name, format, Path(folder)))
            except fxlrp.FxlrpError as error:
                rows.append({"model": name, "format": format, "worst": float("inf"), "error": str(error)})
                console.print(f"{name} {format}: {error}", style="red")
                continue
            last = rows[-1]
            sizes = [f"{last[kind] / 1e3:.0f}" for kind in ("bytes", "parameter_bytes")]
            table.add_row(
                name, format, f"{last['calls']}", f"{last['worst']:.1e}", *sizes, f"{last['save_seconds']:.1f}"
            )
        console.print(table)
        if "digits" in options.models and "pt2" in options.formats:
            command = [sys.executable, "-c", FRESH, f"{folder}/digits_pt2.pt2"]
            outputs = [subprocess.check_output(command, text=True) for _ in range(5)]
            fresh = [[float(seconds) for seconds in output.split()] for output in outputs]
            imports, loads = (statistics.median(column) for column in zip(*fresh, strict=True))
            console.print(f"a new process imports torch in {imports:.2f} s, loads digits and calls it in {loads:.2f} s")
    if options.out is not None:
        content = {**surroundings(options), "rows": rows, "fresh_import_and_load_seconds": fresh}
        options.out.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(row["worst"] > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
