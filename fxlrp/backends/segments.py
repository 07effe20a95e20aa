"""A program as a chain of segments, those of repeated blocks alike.

A model that stacks one block many times has a program that repeats too, forward and in reverse. Cut at the
borders of such blocks, most segments differ in their weights only, and a compiler that takes weights as inputs has to
compile one of each kind.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from torch import Tensor, fx

from fxlrp.backends.constants import make_call_key
from fxlrp.ir.graphs import extract
from fxlrp.ir.provenance import find_modules, find_role

MIN_REPEATS = 3
"""A block is one that occurs so often; two copies are hardly worth a border."""

CONTAINERS = "torch.nn.modules.container."
"""Classes that say nothing of what is in them."""

Calls = list[fx.Node]


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes of a program.

    Attributes:
        nodes: The nodes, in order.
        inputs: What they take from outside: parameters, inputs, results of earlier segments; in order of first use.
        outputs: Those among them that are used outside.
        key: Equal for segments that compute the same function of their inputs.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    key: Hashable


def cut_segments(graph: fx.Graph) -> list[Segment]:
    """Cut the calls of a graph at the borders of its repeated blocks; neighbours that do not repeat stay together."""
    calls = order_calls(graph)
    blocks = find_repeated_blocks(node for node in calls if find_role(node) == "forward")

    def label(node: fx.Node) -> tuple[str, bool]:
        node = find_producer(node)
        return next((path for path in find_modules(node) if path in blocks), ""), find_role(node) == "forward"

    cut = [make_segment(list(run)) for _, run in groupby(calls, label)]
    counts = Counter(part.key for part in cut)
    merged: list[Segment] = []
    for alone, group in groupby(cut, lambda part: counts[part.key] < MIN_REPEATS):
        parts = list(group)
        merged += [make_segment([node for part in parts for node in part.nodes])] if alone else parts
    return merged


def order_calls(graph: fx.Graph) -> Calls:
    """List calls in order, the parts of a result of several tensors right behind it: only tensors cross a border."""
    calls: dict[fx.Node, Calls] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            calls.setdefault(find_producer(node), []).append(node)
    return list(chain.from_iterable(calls.values()))


def find_producer(node: fx.Node) -> fx.Node:
    """Find the call whose result the node is a part of; otherwise the node itself."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node


def find_repeated_blocks(nodes: Iterable[fx.Node]) -> set[str]:
    """Find calls of modules around modules, of classes that occur at least `MIN_REPEATS` times with the same ops."""
    ops: dict[str, list[Any]] = defaultdict(list)
    classes: dict[str, str] = {}
    outer: set[str] = set()
    for node in nodes:
        stack = find_modules(node)
        inner = list(stack)[1:-1]  # less the model itself and the innermost
        outer.update(path for path in inner if not stack[path].startswith(CONTAINERS))
        for path, kind in stack.items():
            ops[path].append(node.target)
            classes[path] = kind
    counts = Counter((classes[path], tuple(ops[path])) for path in outer)
    often = {kind for (kind, _), count in counts.items() if count >= MIN_REPEATS}
    return {path for path in outer if classes[path] in often}


def make_segment(nodes: Calls) -> Segment:
    """Find inputs, outputs and key of consecutive nodes."""
    place = {node: i for i, node in enumerate(nodes)}
    inputs: dict[fx.Node, int] = {}

    def number(node: fx.Node) -> Hashable:
        return ("own", place[node]) if node in place else ("input", inputs.setdefault(node, len(inputs)))

    parts = [make_call_key(node, number) for node in nodes]
    outputs = tuple(node for node in nodes if any(user not in place for user in node.users))
    key = (*parts, tuple(map(describe_value, inputs)), tuple(place[node] for node in outputs))
    return Segment(tuple(nodes), tuple(inputs), outputs, key)


def describe_value(node: fx.Node) -> tuple[Any, ...]:
    """Return what a compiler may specialise on: type, sizes, strides and device of a value."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return value.dtype, str(tuple(value.shape)), str(tuple(value.stride())), value.device
    return (type(value),)


def extract_segment(part: Segment) -> fx.GraphModule:
    """Return a segment as a module of its own: a function of its inputs that returns a tuple of its outputs."""
    graph = extract(part.nodes, part.inputs, part.outputs)
    for node in graph.nodes:  # what else was known of a node is of this segment, and the others are alike
        node.meta = {"val": node.meta["val"]} if node.op == "call_function" else {}
    return fx.GraphModule({}, graph)
