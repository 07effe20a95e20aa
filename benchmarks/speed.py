"""How fast our programs are beside autograd on the same model, taking turns: ``python benchmarks/speed.py``.

Rows are a forward pass, autograd's gradient x input (parameters not requiring gradients), and our rules on each
backend, the first of them also with ``precision="bfloat16"``, whose error is set against float64. ``targets`` explains
many tokens of one sequence at once, beside as many passes of autograd.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from clock import seconds
from compiled import backends, compiled, presets, rules
from measure import (
    Spread,
    alternate,
    arguments,
    bars,
    distance,
    finish,
    milliseconds,
    ratio,
    surroundings,
    table,
    times,
)
from networks import IMAGES, TEXTS, Network, Sizes, build
from torch import Tensor

import fxlrp

Call = Callable[[], Any]
MANY = ("llama", "gpt2")
"""Models whose many targets are tokens of a vocabulary."""
TOGETHER = "targets" in inspect.signature(fxlrp.Attributor.__call__).parameters
"""Whether the installed fxlrp explains many targets with one forward pass."""


def single(network: Network, names: Sequence[str], options: argparse.Namespace) -> dict[str, Call]:
    """What explains one number, by method and backend."""
    calls: dict[str, Call] = {"forward": network.forward, "gradient x input": network.gradient_x_input}
    for name in names:
        for backend in options.backends:
            calls[f"{name}, {backend}"] = compiled(network, name, backend)
    for name, backend in itertools.product(names[:1] if options.bfloat16 else (), options.backends):
        calls[f"{name}, {backend}, bfloat16"] = compiled(network, name, backend, precision="bfloat16")
    return calls


def rounding(network: Network, name: str) -> float:
    """Relative error of rounded products, set against float64."""
    attributor = fxlrp.compile(network.model, rules=rules(name), precision="bfloat16")
    (error,) = attributor.precision_error(*network.args, target=network.call, **network.kwargs).values()
    return error


def tokens(count: int) -> list[tuple[int, int]]:
    """Explained tokens of the last position."""
    return [(-1, 5 + i) for i in range(count)]


def passes(network: Network, count: int) -> Tensor:
    """A forward and a backward pass of autograd for each target."""
    found = []
    for target in tokens(count):
        leaf = network.leaf()
        (gradient,) = torch.autograd.grad(network.run(leaf)[(slice(None), *target)].sum(), leaf)
        found.append(network.relevance(leaf, gradient))
    return torch.stack(found)


def retained(network: Network, count: int) -> Tensor:
    """One forward pass whose graph is kept for all backward passes."""
    leaf = network.leaf()
    output = network.run(leaf)
    found = []
    for target in tokens(count):
        (gradient,) = torch.autograd.grad(output[(slice(None), *target)].sum(), leaf, retain_graph=True)
        found.append(network.relevance(leaf, gradient))
    return torch.stack(found)


def together(network: Network, name: str, backend: str, options: argparse.Namespace) -> Call:
    """All targets by one program."""
    attributor = fxlrp.compile(network.model, rules=name, backend=backend)
    given = {"targets": tokens(options.targets), "chunk": options.chunk}
    return lambda: attributor(*network.args, **given, **network.kwargs).relevance


def many(network: Network, names: Sequence[str], options: argparse.Namespace) -> dict[str, Call]:
    """What explains many tokens of one sequence."""
    calls: dict[str, Call] = {
        f"{options.targets} forward and backward passes": functools.partial(passes, network, options.targets),
        f"forward, {options.targets} retained backward passes": functools.partial(retained, network, options.targets),
    }
    for name in names if TOGETHER else ():
        for backend in options.backends:
            label = f"{name}, {backend}, {options.targets} targets by {options.chunk}"
            calls[label] = together(network, name, backend, options)
    return calls


def measure(model: str, kind: str, calls: dict[str, Call], bases: Sequence[str], options: Any) -> list[dict[str, Any]]:
    """Seconds of all calls in turn, and their ratios to the bases."""
    taken = alternate(
        {name: functools.partial(seconds, c, options.device) for name, c in calls.items()}, options.repeats
    )
    return [
        {
            "model": model,
            "kind": kind,
            "method": name,
            "seconds": Spread.of(found),
            "ratios": {base: ratio(found, taken[base]) for base in bases},
        }
        for name, found in taken.items()
    ]


def check(network: Network) -> float:
    """Difference of our rules for the gradient from autograd, which have to be the same."""
    ours = compiled(network, "gradient", "eager")()
    return distance(ours, network.gradient_x_input())


def shown(rows: Sequence[dict[str, Any]], kind: str) -> Any:
    """The table of one kind of rows."""
    lines, bases = [], []
    for r in (r for r in rows if r["kind"] == kind):
        bases = list(r["ratios"])
        lines.append((r["model"], r["method"], milliseconds(r["seconds"]), *map(times, r["ratios"].values())))
    return table(kind, ("model", "method", "ms", *(f"/ {base}" for base in bases)), lines, texts=2)


def main(arguments_: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if gradient x input disagrees with autograd's."""
    parser = arguments(__doc__, (*IMAGES, *TEXTS), ())
    parser.add_argument("--backends", nargs="+", help="all by default")
    parser.add_argument("--targets", type=int, default=16, help="targets of one sequence (%(default)s)")
    parser.add_argument("--chunk", type=int, default=8, help="targets that are explained together (%(default)s)")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="rounded products too")
    options = parser.parse_args(arguments_)
    options.backends = options.backends or backends(options.device)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    differences, errors = {}, {}
    for model in options.models:
        network = build(model, Sizes(tiny=options.tiny), options.device)
        differences[model] = check(network)
        names = options.methods or presets(model)
        if options.bfloat16:
            errors[f"{model}, {names[0]}"] = rounding(network, names[0])
        rows += measure(model, "one target", single(network, names, options), ["gradient x input"], options)
        if model in MANY and options.targets:
            if TOGETHER:
                ours = together(network, "gradient", "eager", options)()
                differences[f"{model}, many targets"] = distance(ours, passes(network, options.targets))
            calls = many(network, [n for n in names if n in presets(model)][:1], options)
            rows += measure(model, "many targets", calls, list(calls)[:2], options)
        torch.compiler.reset()
    report = surroundings(options) | {"differences": differences, "errors of bfloat16": errors, "rows": rows}
    kinds = dict.fromkeys(r["kind"] for r in rows)
    rounded = table("bfloat16", ("model, rules", "relative error"), [(key, f"{e:.1e}") for key, e in errors.items()])
    finish(options, report, [*(shown(rows, kind) for kind in kinds), *([rounded] if errors else [])])
    if options.out is not None:
        groups: dict[str, dict[str, Spread]] = {}
        for r in rows:
            relative, *_ = r["ratios"].values()
            groups.setdefault(f"{r['model']}, {r['kind']}", {})[r["method"]] = relative
        bars(options.out.with_suffix(".svg"), "time / gradient x input, or many forward and backward passes", groups)
    return int(any(d > 1e-4 for d in differences.values()))


if __name__ == "__main__":
    raise SystemExit(main())
