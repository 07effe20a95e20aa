"""How long it takes to make a program: ``python benchmarks/compile_time.py``.

``capture`` sets capture and the eager program against torch.export and its decompositions alone, on a model of the
zoo of the tests; ``inductor`` compares cold compilations of a shallow and a deep transformer, each in a process of its
own with empty caches.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from clock import seconds
from compiled import compiled
from measure import Spread, alternate, arguments, bars, finish, ratio, surroundings, table, times
from networks import Sizes, build
from zoo import ZOO

import fxlrp
from fxlrp.capture.decompositions import make_decompositions

METHODS = ("capture", "inductor")
LARGEST = "flan_t5"
"""The model of the zoo with the most ops."""
LAYERS = (6, 24)
BASE = "export, our decompositions"


def exported(model: str, table_: Mapping[Any, Any] | None) -> None:
    """What torch does alone."""
    module, args, kwargs = ZOO[model](2)
    torch.export.export(module, args, kwargs, strict=False).run_decompositions(table_ and dict(table_))


def ours(model: str) -> None:
    """Capture, plan and generate the eager program."""
    module, args, kwargs = ZOO[model](2)
    fxlrp.compile(module, args, kwargs)


def capture(model: str, repeats: int) -> dict[str, Any]:
    """Seconds of both in turn."""
    calls = {
        BASE: functools.partial(exported, model, make_decompositions()),
        "export, core ATen": functools.partial(exported, model, None),
        "fxlrp.compile": functools.partial(ours, model),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = alternate({name: functools.partial(seconds, call) for name, call in calls.items()}, repeats)
    module, args, kwargs = ZOO[model](2)
    attributor = fxlrp.compile(module, args, kwargs)
    nodes = sum(node.op == "call_function" for node in attributor.program.module.graph.nodes)
    return {
        "model": model,
        "nodes": nodes,
        "seconds": {name: Spread.of(found) for name, found in taken.items()},
        "ratios": {name: ratio(found, taken[BASE]) for name, found in taken.items()},
    }


def cold(layers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the first call with Inductor beyond those of the eager program, in a process of its own."""
    script = [sys.executable, __file__, "--child", "--layers", str(layers), "--threads", str(options.threads)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "OMP_NUM_THREADS": str(options.threads),
        }
        given = ["--device", options.device, *(["--tiny"] if options.tiny else [])]
        done = subprocess.run([*script, *given], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1])) | {"layers": layers}


def child(layers: int, options: argparse.Namespace) -> dict[str, float]:
    """Compile in this process: a first small model loads what Inductor needs."""
    torch.set_num_threads(options.threads)
    warm = build("bert", Sizes(tiny=True, layers=1, tokens=8), options.device)
    network = build("llama", Sizes(tiny=options.tiny, layers=layers, tokens=32, width=64), options.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(warm, "attnlrp", "inductor")()
        return {name: seconds(compiled(network, "attnlrp", name), options.device) for name in ("eager", "inductor")}


def shown(captured: Sequence[dict[str, Any]], compilations: Sequence[dict[str, Any]]) -> list[Any]:
    """The tables."""
    lines = [
        (r["model"], name, f"{s.median:.2f}", times(r["ratios"][name]))
        for r in captured
        for name, s in r["seconds"].items()
    ]
    tables = [table("Capture and eager program", ("model", "what", "s", f"/ {BASE}"), lines, texts=2)] if lines else []
    if compilations:
        base = compilations[0]["inductor"]
        cold_ = [
            (r["layers"], f"{r['eager']:.1f}", f"{r['inductor']:.1f}", f"{r['inductor'] / base:.2f}")
            for r in compilations
        ]
        tables.append(table("First call, cold", ("layers", "eager s", "inductor s", "/ first row"), cold_))
    return tables


def main(arguments_: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments(__doc__, [LARGEST], METHODS)
    parser.add_argument("--layers", nargs="+", type=int, default=list(LAYERS), help="depths for Inductor")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments_)
    if options.child:
        print(json.dumps(child(options.layers[0], options)))
        return 0
    torch.set_num_threads(options.threads)
    captured = [capture(model, options.repeats) for model in options.models if "capture" in options.methods]
    compilations = [cold(layers, options) for layers in options.layers if "inductor" in options.methods]
    report = surroundings(options) | {"capture": captured, "inductor": compilations}
    finish(options, report, shown(captured, compilations))
    if options.out is not None:
        groups = {r["model"]: r["ratios"] for r in captured}
        groups |= {
            "cold first call": {
                f"{r['layers']} layers / {compilations[0]['layers']}": Spread.of(
                    [r["inductor"] / compilations[0]["inductor"]]
                )
                for r in compilations
            }
        }
        bars(options.out.with_suffix(".svg"), "time / torch.export and decompositions, or / the first depth", groups)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
