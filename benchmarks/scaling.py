"""How time and memory grow with a model and its input: ``python benchmarks/scaling.py``.

One size at a time is changed on a narrow Llama. The exponent is the slope of a line through the measurements on
logarithmic axes: 1 is linear. Compilation is measured with depth, and against the number of ops.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from clock import seconds
from compiled import rules
from measure import Spread, alternate, arguments, curves, exponent, finish, peak_bytes, surroundings, table
from networks import Network, Sizes, build
from speed import TOGETHER, retained, tokens

import fxlrp
from fxlrp.datasets.ray_workers import silence_stderr

GROWTH: dict[str, list[int]] = {
    "layers": [2, 4, 8, 16, 32],
    "tokens": [64, 128, 256, 512],
    "batch": [1, 2, 4, 8, 16],
    "targets": [1, 2, 4, 8, 16],
}
USUAL = {"layers": 4, "tokens": 128, "batch": 1}
WIDTH = 256

Point = dict[str, Any]


def network(quantity: str, size: int, options: argparse.Namespace) -> Network:
    """The model with one size changed."""
    sizes = USUAL | ({quantity: size} if quantity in USUAL else {})
    return build(options.models[0], Sizes(tiny=options.tiny, width=options.width, **sizes), options.device)


def contender(net: Network, quantity: str, size: int, method: str) -> tuple[Callable[[], Any], fxlrp.Attributor | None]:
    """A method, and its attributor if it is ours."""
    if method == "gradient_x_input":
        return (functools.partial(retained, net, size) if quantity == "targets" else net.gradient_x_input), None
    name, _, backend = method.partition(":")
    attributor = fxlrp.compile(net.model, rules=rules(name), backend=backend or "eager")
    target: dict[str, Any] = {"target": net.call}
    if quantity == "targets":
        target = {"targets": tokens(size)}
    return lambda: attributor(*net.args, **target, **net.kwargs), attributor


def measure(quantity: str, sizes: Sequence[int], options: argparse.Namespace) -> list[Point]:
    """Time and peak of every method at every size."""
    points = []
    for size in sizes:
        net = network(quantity, size, options)
        made = {method: contender(net, quantity, size, method) for method in options.methods}
        first = {method: seconds(call, options.device) for method, (call, _) in made.items()}
        timed = {method: functools.partial(seconds, call, options.device) for method, (call, _) in made.items()}
        taken = alternate(timed, options.repeats)
        for method, (call, attributor) in made.items():
            with silence_stderr():
                peak = peak_bytes(call, options.device)
            point = {"quantity": quantity, "size": size, "method": method, "seconds": Spread.of(taken[method])}
            found: Point = {"allocated": peak, "first": first[method]}
            if attributor is not None:
                graph = attributor.program.module.graph
                found["nodes"] = sum(node.op == "call_function" for node in graph.nodes)
            points.append(point | found)
        torch.compiler.reset()
    return points


def lines(points: Sequence[Point], quantity: str, method: str) -> dict[str, tuple[list[float], list[float]]]:
    """What is fitted: sizes and values by what was measured."""
    chosen = [p for p in points if (p["quantity"], p["method"]) == (quantity, method)]
    sizes = [p["size"] for p in chosen]
    found = {
        # the least of the repeats says what a call needs, the rest is the machine
        "time": (sizes, [p["seconds"].least for p in chosen]),
        "memory": (sizes, [p["allocated"] for p in chosen]),
    }
    if quantity == "layers" and all("nodes" in p for p in chosen):
        nodes = [p["nodes"] for p in chosen]
        found["compilation"] = (sizes, [p["first"] for p in chosen])
        found["time by ops"] = (nodes, [p["seconds"].least for p in chosen])
        found["compilation by ops"] = (nodes, [p["first"] for p in chosen])
    return found


def fits(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Exponents of everything that was measured at two sizes or more."""
    keys = dict.fromkeys((p["quantity"], p["method"]) for p in points)
    return [
        {"quantity": quantity, "method": method, "of": name, "exponent": exponent(*line)}
        for quantity, method in keys
        for name, line in lines(points, quantity, method).items()
        if len(line[0]) > 1
    ]


def shown(points: Sequence[Point], exponents: Sequence[dict[str, Any]]) -> list[Any]:
    """The tables."""
    measured = [
        (
            p["quantity"],
            p["method"],
            p["size"],
            f"{1e3 * p['seconds'].median:.1f}",
            f"{p['allocated'] / 2**20:.1f}",
            f"{p['first']:.2f}",
            p.get("nodes", ""),
        )
        for p in points
    ]
    columns = ("what grows", "method", "size", "ms", "peak MiB", "first call s", "ops")
    fitted = [(f["quantity"], f["method"], f["of"], f"{f['exponent']:.2f}") for f in exponents]
    return [
        table("Measurements", columns, measured, texts=2),
        table("Exponents", ("what grows", "method", "of", "exponent"), fitted, texts=3),
    ]


def main(arguments_: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments(__doc__, ["llama"], ["gradient_x_input", "attnlrp:eager"], repeats=5)
    for quantity, sizes in GROWTH.items():
        given = sizes if TOGETHER or quantity != "targets" else []
        parser.add_argument(f"--{quantity}", nargs="*", type=int, default=given, help="sizes (%(default)s)")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the hidden states (%(default)s)")
    options = parser.parse_args(arguments_)
    torch.set_num_threads(options.threads)
    points = [
        point
        for quantity in GROWTH
        if getattr(options, quantity)
        for point in measure(quantity, getattr(options, quantity), options)
    ]
    exponents = fits(points)
    report = surroundings(options) | {"usual": USUAL, "points": points, "exponents": exponents}
    finish(options, report, shown(points, exponents))
    if options.out is not None:
        panels = {
            f"{label} against {quantity}": {
                method: lines(points, quantity, method)[name]
                for method in options.methods
                if name in lines(points, quantity, method)
            }
            for quantity in dict.fromkeys(p["quantity"] for p in points)
            for name, label in (("time", "seconds"), ("memory", "bytes"))
        }
        curves(options.out.with_suffix(".svg"), panels)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
