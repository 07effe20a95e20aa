"""Random small graphs, as many as there is time for: ``python benchmarks/fuzz.py --graphs 50000 --processes 2``.

Each graph must pass the checks of tests/whole/test_properties.py, or with ``--judge proofs`` those of
tests/support/proofs.py: with what is proved of signs and dead sides, every preset gives the same relevance as without,
at every node, for a target and for injections and masks at random nodes. A graph that fails is made as small as it goes
and printed with the seed of its pack; the exit status is then 1. With ``--out`` a run that was cut off goes on where it
was.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import proofs  # noqa: E402
import torch  # noqa: E402
from graphs import LEDGERS, build, failures, judged  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

TOGETHER = 100
"""Graphs that are captured as one model: what a capture costs besides is shared."""
JUDGES = {"properties": (build, judged), "proofs": (proofs.signed, proofs.judged)}
"""What draws graphs, and what judges them."""


def fuzz(given: tuple[str, int, int, str]) -> list[str]:
    """What fails in a pack of a seed and a size; one pack in so many is traced as well."""
    seed, graphs, traced, judge = given
    draw, decide = JUDGES[judge]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fresh memory holds NaN, so that reading it shows
    logging.disable(logging.ERROR)
    chance = random.Random(seed)
    pack = [draw(chance.randrange) for _ in range(graphs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = failures(pack, chance.choice(LEDGERS), chance.randrange(traced) == 0, decide)
    return [f"pack {seed}, {text}" for text in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="the same graphs again; by default others at every run")
    parser.add_argument("--out", type=Path, help="keep account in this JSON file, and go on from it")
    parser.add_argument("--traced", type=int, default=6, help="trace the program of one pack in so many")
    parser.add_argument("--judge", choices=list(JUDGES), default="properties", help="what each graph must pass")
    options = parser.parse_args()
    account = {"judge": options.judge, "seed": options.seed, "graphs": 0, "failed": []}
    if options.out is not None and options.out.exists():
        account = {"judge": "properties"} | json.loads(options.out.read_text())
    if account["judge"] != options.judge:
        parser.error(f"{options.out} is an account of {account['judge']}")
    if account["seed"] is None:
        account["seed"] = random.SystemRandom().randrange(10**6)
    starts = range(account["graphs"], options.graphs, TOGETHER)
    packs = [
        (f"{account['seed']}/{at // TOGETHER}", min(TOGETHER, options.graphs - at), options.traced, options.judge)
        for at in starts
    ]
    spawn = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    with spawn.Pool(options.processes, maxtasksperchild=100) as pool:
        judged = zip(packs, pool.imap(fuzz, packs), strict=True)  # in order, so that the account has no holes
        for pack, found in track(judged, "judging", len(packs), console=Console(stderr=True)):
            account["graphs"] += pack[1]
            account["failed"] += found
            print("\n".join(found), end="\n" if found else "", flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(account, indent=1) + "\n")
    rate = sum(size for _, size, *_ in packs) / (time.perf_counter() - start)
    failed = len(account["failed"])
    print(f"seed {account['seed']}: {account['graphs']} graphs, {failed} failed; {rate:.1f} graphs per second")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
