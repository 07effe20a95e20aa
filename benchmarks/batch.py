"""Rows per second of `fxlrp.batch` on two workers beside one: ``python benchmarks/batch.py``.

Each worker has one thread of torch. *Steady* rows are those after the first shard of every worker, so that the start of
Ray and of the workers does not count; *whole* is all of the call. Runs take turns; ratios are those of each round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measure import surroundings
from rich.console import Console
from rich.table import Table
from torch import nn

import fxlrp

COUNTS = (1, 2)
SIZE = 16


def network() -> nn.Module:
    """Wide convolutions of small images: arithmetic dominates, and not memory, which workers share."""
    torch.manual_seed(0)
    widths = (3, 64, 128, 128)
    layers = [
        layer for one, two in itertools.pairwise(widths) for layer in (nn.Conv2d(one, two, 3, padding=1), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()


def rates(folder: Path, out: Path, workers: int, options: argparse.Namespace) -> dict[str, float]:
    """Rows per second of one run, by the times at which its files appeared."""
    start = time.time()
    given = folder / "model.pt2", folder / "rows.parquet", out
    fxlrp.batch(*given, shard=options.shard, workers=workers, threads=1, progress=False)
    whole = time.time() - start
    done = sorted(path.stat().st_mtime for path in out.glob("*.parquet"))
    steady = (len(done) - workers) * options.shard / (done[-1] - done[workers - 1])
    return {"whole": options.rows / whole, "steady": steady}


def check(folder: Path, out: Path, x: np.ndarray[Any, Any]) -> float:
    """Largest difference from the artefact called by itself, relative to the largest entry."""
    found = pq.read_table(out).sort_by("row")
    assert found.column("row").to_pylist() == list(range(len(x)))
    ours = found.column("relevance.input").combine_chunks().flatten().to_numpy().reshape(x.shape)
    artifact, worst = fxlrp.load(folder / "model.pt2"), 0.0
    for first in range(0, len(x), 32):
        expected = artifact(torch.from_numpy(x[first : first + 32])).relevance.numpy()
        worst = max(worst, float(np.abs(ours[first : first + 32] - expected).max() / np.abs(expected).max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12288)
    parser.add_argument("--shard", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write JSON")
    parser.set_defaults(device="cpu")
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to all that runs beside them
    x = np.random.default_rng(0).random((options.rows, 3, SIZE, SIZE)).astype(np.float32)
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in COUNTS}
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fxlrp.compile(network(), dynamic_shapes="auto").save(folder / "model.pt2", torch.from_numpy(x[:2]))
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
        pq.write_table(pa.table({"input": column}), folder / "rows.parquet", row_group_size=128)
        for turn, workers in itertools.product(range(options.repeats), COUNTS):
            out = folder / f"{turn}-{workers}"
            found[workers].append(rates(folder, out, workers, options))
            worst = max(worst, check(folder, out, x)) if turn == 0 else worst
    table = Table("rows per second", *(f"{workers} workers" for workers in COUNTS), "ratio", box=None)
    ratios = {}
    for kind in ("steady", "whole"):
        medians = [statistics.median(run[kind] for run in found[workers]) for workers in COUNTS]
        pairs = zip(*(found[workers] for workers in COUNTS), strict=True)
        ratios[kind] = statistics.median(two[kind] / one[kind] for one, two in pairs)
        table.add_row(kind, *(f"{median:.1f}" for median in medians), f"{ratios[kind]:.2f}")
    about = surroundings(options)
    Console().print(table, about, f"worst difference {worst:.1e}")
    if options.out is not None:
        options.out.write_text(json.dumps({**about, "runs": found, "ratios": ratios, "worst": worst}, indent=1) + "\n")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
