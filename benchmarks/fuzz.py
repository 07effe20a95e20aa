"""Random small graphs, as many as there is time for: ``python benchmarks/fuzz.py --graphs 50000 --processes 2``.

Each graph must pass the checks of tests/test_properties.py. A graph that fails is made as small as it goes and printed
with the seed of its pack; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from graphs import LEDGERS, build, failures  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

TOGETHER = 25
"""Graphs that are captured as one model."""


def fuzz(given: tuple[str, int, int]) -> list[str]:
    """What fails in a pack of a seed and a size; one pack in so many is traced as well."""
    seed, graphs, traced = given
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    chance = random.Random(seed)
    pack = [build(chance.randrange) for _ in range(graphs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = failures(pack, chance.choice(LEDGERS), chance.randrange(traced) == 0)
    return [f"pack {seed}, {text}" for text in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="the same graphs again; by default others at every run")
    parser.add_argument("--traced", type=int, default=6, help="trace the program of one pack in so many")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    sizes = [min(TOGETHER, options.graphs - at) for at in range(0, options.graphs, TOGETHER)]
    seeds = [f"{seed}/{i}" for i in range(len(sizes))]
    console = Console(stderr=True)
    start = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    failed = 0
    with spawn.Pool(options.processes, maxtasksperchild=100) as pool:
        results = pool.imap_unordered(fuzz, zip(seeds, sizes, [options.traced] * len(sizes), strict=True))
        for found in track(results, "judging", len(sizes), console=console):
            failed += len(found)
            for text in found:
                print(text, flush=True)
    seconds = time.perf_counter() - start
    rate = options.graphs / seconds
    print(f"seed {seed}: {options.graphs} graphs, {failed} failed, {seconds:.0f} s, {rate:.1f} graphs per second")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
