"""Other implementations of LRP beside ours, taking turns: ``python benchmarks/peers.py --setup`` and then without it.

Every peer runs in a virtual environment of its own, at its own best settings, on the same weights and inputs. Where
the method is the same the results are compared first. One process runs at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from compiled import backends
from environments import CACHE, REQUIREMENTS, public, setup
from measure import (
    Spread,
    alternate,
    arguments,
    bars,
    cosine,
    distance,
    finish,
    milliseconds,
    ratio,
    surroundings,
    table,
    times,
)
from networks import IMAGES, TEXTS, Sizes
from rich.console import Console

BASE = ("forward", "gradient_x_input")
TOLERANCE = 1e-4


class PeerError(Exception):
    """What a worker could not do."""


@dataclass(frozen=True)
class Pair:
    """Two methods that explain the same number.

    Attributes:
        model: Name of the network.
        peer: Whose method it is.
        method: The peer's name of it.
        ours: Rules of ours for the same purpose.
        same: Whether the formulas are the same, so that results must agree.
    """

    model: str
    peer: str
    method: str
    ours: str
    same: bool = True


COMPOSITES = ("epsilon_gamma_box", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")
PAIRS = (
    *(Pair(model, "zennit", name, name) for model in ("vgg16", "resnet50") for name in COMPOSITES),
    *(Pair(model, "captum", "default", "captum", same=False) for model in ("vgg16", "resnet50")),
    Pair("llama", "lxt", "attnlrp", "attnlrp"),
    Pair("gpt2", "lxt", "attnlrp", "attnlrp"),
    Pair("bert", "lxt", "attnlrp", "attnlrp"),
    Pair("vit_b_16", "lxt", "cp_lrp", "cp_lrp"),
    Pair("vgg16", "dynamiclrp", "epsilon", "epsilon", same=False),
    Pair("vgg16", "dynamiclrp", "gamma", "gamma", same=False),
    *(Pair(model, "dynamiclrp", "attnlrp", "attnlrp", same=False) for model in ("vit_b_16", "gpt2", "bert")),
)


class Worker:
    """A process that runs methods of one side on one model when asked."""

    def __init__(self, python: Path, side: str, model: str, options: dict[str, Any], log: Path) -> None:
        script = Path(__file__).with_name("worker.py")
        threads = str(options["threads"])
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                [python, script, side, model, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        self._log = log
        try:
            self.versions: dict[str, str] = self._answer()
        except PeerError:
            self.close()
            raise

    def ask(self, do: str, **command: Any) -> Any:
        """Have something done, and wait for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says that the process ended
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text().strip().splitlines()[-1:]
            raise PeerError(f"the process ended: {' '.join(last)}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def workers(sides: Sequence[str], model: str, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A worker of every side with the same weights, or the error with which it did not start."""
    settings = {
        "threads": options.threads,
        "device": options.device,
        "sizes": asdict(Sizes(tiny=options.tiny, layers=options.layers, tokens=options.tokens)),
        "folder": str(options.dynamiclrp) if options.dynamiclrp else None,
    }
    found: dict[str, Any] = {}
    weights = str(folder / f"{model}.pt")
    try:
        for side in sides:
            here = options.here or side == "fxlrp"
            python = Path(sys.executable) if here else options.cache / side / "bin" / "python"
            try:
                found[side] = worker = Worker(python, side, model, settings, folder / f"{side}.log")
                if worker.versions["torch"].partition("+")[0] != public("torch"):
                    raise PeerError(f"torch {worker.versions['torch']}, not {public('torch')}: run --setup")
                worker.ask("save" if side == "fxlrp" else "load", path=weights)
            except (PeerError, OSError) as error:
                if side in found:
                    found[side].close()
                found[side] = str(error)
        yield found
    finally:
        for worker in found.values():
            if isinstance(worker, Worker):
                worker.close()


def prepare(found: dict[str, Any], side: str, method: str) -> str | None:
    """Compile a method; the error if that fails."""
    if isinstance(found[side], str):
        return str(found[side])
    try:
        found[side].ask("prepare", method=method)
    except PeerError as error:
        return str(error)
    return None


def compare(pairs: Sequence[Pair], options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time all methods on one model in turn."""
    model = pairs[0].model
    sides = list(dict.fromkeys(["fxlrp", *(pair.peer for pair in pairs)]))
    with workers(sides, model, options, folder) as found:
        ours = [f"{pair.ours}:{backend}" for pair in pairs for backend in options.backends]
        wanted = [("fxlrp", name) for name in dict.fromkeys([*BASE, *ours])] + [(p.peer, p.method) for p in pairs]
        errors = {key: prepare(found, *key) for key in wanted}
        ready = [key for key in wanted if errors[key] is None]
        results = {}
        for side, method in ready:
            path = folder / "result.pt"
            found[side].ask("result", method=method, path=str(path))
            results[side, method] = torch.load(path, weights_only=True)
        timed = {key: functools.partial(found[key[0]].ask, "time", method=key[1]) for key in ready}
        taken = alternate(timed, options.repeats)
        versions = {side: worker.versions for side, worker in found.items() if isinstance(worker, Worker)}
    chosen = [(pair, f"{pair.ours}:{backend}") for pair in pairs for backend in options.backends]
    return [row(*key, taken, results, errors) | {"versions": versions.get(key[0].peer, {})} for key in chosen]


def row(pair: Pair, ours: str, taken: dict[Any, list[float]], results: dict[Any, Any], errors: Any) -> dict[str, Any]:
    """What is known of a pair."""
    mine, other = ("fxlrp", ours), (pair.peer, pair.method)
    found: dict[str, Any] = asdict(pair) | {"ours": ours}
    failed = [errors[key] for key in (mine, other) if errors[key] is not None]
    for name, key in [(base, ("fxlrp", base)) for base in BASE] + [("fxlrp", mine), (pair.peer, other)]:
        if key in taken:
            found.setdefault("seconds", {})[name] = Spread.of(taken[key])
    if failed:
        return found | {"error": failed[0]}
    relative = distance(results[mine], results[other])
    return found | {
        "faster": ratio(taken[other], taken[mine]),
        "over_gradient_x_input": ratio(taken[mine], taken["fxlrp", "gradient_x_input"]),
        "difference": relative,
        "cosine": cosine(results[mine], results[other]),
        "agrees": relative <= TOLERANCE if pair.same else None,
    }


def shown(rows: Sequence[dict[str, Any]]) -> Any:
    """The table."""
    lines = []
    for r in rows:
        names = (r["model"], r["peer"], r["method"], r["ours"].partition(":")[2])
        if "error" in r:
            lines.append((*names, "", "", "", "", "", r["error"].splitlines()[0][:60]))
            continue
        taken = [milliseconds(r["seconds"][name]) for name in (*BASE, r["peer"], "fxlrp")]
        agrees = {None: f"cosine {r['cosine']:.2f}", True: f"{r['difference']:.0e}"}
        lines.append((*names, *taken, times(r["faster"]), agrees.get(r["agrees"], f"DIFFERS: {r['difference']:.0e}")))
    columns = (
        "model",
        "peer",
        "method",
        "backend",
        "forward",
        "grad x input",
        "peer",
        "ours",
        "peer / ours",
        "results",
    )
    return table("Milliseconds, taking turns", columns, lines, texts=4)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The plot."""
    groups: dict[str, dict[str, Spread]] = {}
    for r in (r for r in rows if "faster" in r):
        name = f"{r['peer']} {r['method']}, {r['ours'].partition(':')[2]}"
        groups.setdefault(r["model"], {})[name] = r["faster"]
    bars(path, "time of the peer / ours", groups)


def main(arguments_: Sequence[str] | None = None) -> int:
    """Compare and print; 1 if results that must agree do not, or could not be compared."""
    parser = arguments(__doc__, (*IMAGES, *TEXTS), list(REQUIREMENTS))
    parser.add_argument("--setup", action="store_true", help="only make the environments")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the environments (%(default)s)")
    parser.add_argument("--here", action="store_true", help="run the peers in this environment instead")
    parser.add_argument("--dynamiclrp", type=Path, help="a checkout of DynamicLRP; without it that peer is left out")
    parser.add_argument("--layers", type=int, help="depth of transformers, if not as published")
    parser.add_argument("--tokens", type=int, default=128, help="length of texts (%(default)s)")
    parser.add_argument("--backends", nargs="+", help="of ours; all by default")
    options = parser.parse_args(arguments_)
    options.backends = options.backends or backends(options.device)
    peers = [p for p in options.methods if p != "dynamiclrp" or options.dynamiclrp]
    if not options.here:
        setup(options.cache, peers)
    if options.setup:
        return 0
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            pairs = [pair for pair in PAIRS if pair.model == model and pair.peer in peers]
            if pairs:
                Console(stderr=True).print(f"{model}: {', '.join(f'{p.peer} {p.method}' for p in pairs)}")
                rows += compare(pairs, options, Path(folder))
    finish(options, surroundings(options) | {"tolerance": TOLERANCE, "rows": rows}, [shown(rows)])
    if options.out is not None:
        draw(rows, options.out.with_suffix(".svg"))
    return int(any(r["same"] and not r.get("agrees") for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
