"""Peak memory of one call, each in a process of its own: ``python benchmarks/memory.py``.

*Allocated* is the most that tensors made by the call hold at one time, exactly, as torch's allocator counts; on a CPU
that leaves out what kernels take behind its back. *Resident* is the growth of the process's peak, which has that too,
rounded by what the C library keeps. *Kept* is what a program holds between calls beside the model, such as folded
weights. *Time* is taken of all methods in turn, in one more process, whose C library keeps freed blocks as by default.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from clock import seconds
from compiled import compiled
from measure import (
    Spread,
    alternate,
    arguments,
    bars,
    finish,
    peak_bytes,
    peak_resident,
    ratio,
    surroundings,
    table,
    times,
)
from networks import Network, Sizes, build

import fxlrp
from fxlrp.datasets.ray_workers import silence_stderr

BASE = "gradient_x_input"
METHODS = ("forward", BASE, "attnlrp:eager", "attnlrp:eager:low")
MODELS = ("llama", "bert", "vit_b_16", "vgg16")
LAYERS, TOKENS = 24, 512
SHALLOW = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Have the C library give freed blocks back, so that resident memory follows what is allocated."""


def available(method: str) -> bool:
    """Whether the installed fxlrp has what a method asks for."""
    return not method.endswith(":low") or "memory" in inspect.signature(fxlrp.compile).parameters


def call_of(network: Network, method: str) -> Callable[[], Any]:
    """What is measured: ``forward``, ``gradient_x_input``, or rules, backend and use of memory after colons."""
    if method in ("forward", BASE):
        return {"forward": network.forward, BASE: network.gradient_x_input}[method]
    name, backend, *memory = method.split(":")
    return compiled(network, name, backend, **({"memory": memory[0]} if memory else {}))


def held(device: str) -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    if device != "cpu":
        return torch.cuda.memory_allocated(device)
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    packed = [t for t in tensors if t.layout is torch._mkldnn]  # weights in an order of oneDNN, which has no storage
    storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu" and t.layout is torch.strided]
    return sum(t.nbytes for t in packed) + sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def sizes_in_bytes(network: Network, method: str, options: argparse.Namespace) -> dict[str, int]:
    """Peak of one method in this process, which must be fresh."""
    before = held(options.device)
    call = call_of(network, method)
    call()
    kept = held(options.device) - before
    growth = peak_resident(call)
    with silence_stderr():
        most = peak_bytes(call, options.device)
    return {"allocated": most, "resident": growth, "kept": kept}


def child(options: argparse.Namespace) -> Any:
    """What this process was started for: the bytes of one method, or the seconds of all."""
    (model,) = options.models
    sizes = Sizes(tiny=options.tiny, layers=depth(model, options), tokens=options.tokens)
    network = build(model, sizes, options.device)
    if options.child == "bytes":
        return sizes_in_bytes(network, options.methods[0], options)
    calls = {method: call_of(network, method) for method in options.methods}
    return alternate({name: partial(seconds, call, options.device) for name, call in calls.items()}, options.repeats)


def depth(model: str, options: argparse.Namespace) -> int | None:
    """Layers of a transformer of text; images are explained by the published models."""
    return None if model in ("vgg16", "resnet50", "vit_b_16") else options.layers


def measure(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Bytes of every method in a process of its own, and seconds of all in one."""
    taken = fresh(model, options.methods, "seconds", {}, options)
    found = [(method, fresh(model, [method], "bytes", SHALLOW, options)) for method in options.methods]
    return [{"model": model, "method": m, **peak, "seconds": taken[m]} for m, peak in found]


def fresh(model: str, methods: Sequence[str], what: str, settings: dict[str, str], options: argparse.Namespace) -> Any:
    """What a new process finds."""
    script = [sys.executable, __file__, "--models", model, "--methods", *methods, "--child", what]
    numbers = ("repeats", "threads", "device", "layers", "tokens")
    given = [part for name in numbers for part in (f"--{name}", str(getattr(options, name)))]
    done = subprocess.run(
        [*script, *given, *(["--tiny"] if options.tiny else [])],
        env=os.environ | settings | {"OMP_NUM_THREADS": str(options.threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def shown(rows: Sequence[dict[str, Any]]) -> Any:
    """The table, with ratios to autograd's gradient x input."""
    lines = []
    for r in rows:
        base = next((b for b in rows if b["model"] == r["model"] and b["method"] == BASE), r)
        sizes = [f"{r[name] / 2**20:.1f}" for name in ("allocated", "resident", "kept")]
        ratios = [f"{r[name] / max(base[name], 1):.2f}" for name in ("allocated", "resident")]
        lines.append((r["model"], r["method"], *sizes, *ratios, times(ratio(r["seconds"], base["seconds"]))))
    columns = ("model", "method", "allocated MiB", "resident MiB", "kept MiB", "allocated", "resident", "time")
    return table("Peak of one call; ratios to gradient x input", columns, lines, texts=2)


def main(arguments_: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments(__doc__, MODELS, [m for m in METHODS if available(m)], repeats=5)
    parser.add_argument("--layers", type=int, default=LAYERS, help="depth of transformers of text (%(default)s)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="length of texts (%(default)s)")
    parser.add_argument("--child", choices=("bytes", "seconds"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments_)
    torch.set_num_threads(options.threads)
    if options.child:
        warnings.simplefilter("ignore")
        print(json.dumps(child(options)))
        return 0
    rows = [row for model in options.models for row in measure(model, options)]
    finish(options, surroundings(options) | {"rows": rows}, [shown(rows)])
    if options.out is not None:
        groups: dict[str, dict[str, Spread]] = {}
        for r in rows:
            base = next((b for b in rows if b["model"] == r["model"] and b["method"] == BASE), r)
            groups.setdefault(r["model"], {})[r["method"]] = Spread.of([r["allocated"] / base["allocated"]])
        bars(options.out.with_suffix(".svg"), "allocated / gradient x input", groups)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
