"""Put nodes where memory is let go early; what they compute stays the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import fx

from fxlrp.ir.provenance import find_role
from fxlrp.passes.lowering.recompute import find_following, recompute
from fxlrp.passes.manager import Pass


def unpack_early(graph: fx.Graph) -> int:
    """Take the outputs of an op apart at once, so that those that nobody needs any more are let go."""
    index = {node: i for i, node in enumerate(graph.nodes)}
    place = dict(index)
    for node in index:
        if node.target is operator.getitem:
            (source,) = node.all_input_nodes
            place[node] = index[source]
            node.meta["custom"] = source.meta.get("custom")  # part of that walk, whoever asked for it
    return arrange(graph, lambda n: (place[n], index[n]))


def read_early(graph: fx.Graph) -> int:
    """Read relevance where it arrives, so that value and coefficient are let go."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    index = dict(place)
    calls = [node for node in graph.nodes if node.op == "call_function"]
    results = find_following(graph, {node for node in calls if find_role(node) not in ("", "forward")})
    loose: dict[fx.Node, int] = {}  # results wait for no other node than these do
    for node in calls:
        inputs = [loose.get(n, place[n]) for n in node.all_input_nodes]
        if not find_role(node) and node in results:
            place[node] = max(inputs)
        elif not find_role(node):
            loose[node] = max(inputs, default=0)
    for node in reversed(calls):
        for n in node.all_input_nodes:
            if n in loose:
                place[n] = min(place[n], place[node])
    return arrange(graph, lambda n: (place[n], index[n]))


def arrange(graph: fx.Graph, key: Callable[[fx.Node], Any]) -> int:
    """Bring nodes into the order of a key, and return the number of those that have another one before them."""
    hits = 0
    for previous, node in pairwise(sorted(graph.nodes, key=key)):
        if node.prev is not previous:
            previous.append(node)
            hits += 1
    return hits


EARLY: tuple[tuple[str, Pass], ...] = (("take outputs apart", unpack_early), ("read early", read_early))

MEMORY: Mapping[str, Sequence[tuple[str, Pass]]] = {
    "normal": EARLY,
    "low": (*EARLY, ("recompute segments", recompute)),
}
"""What is done to save memory, by the name of the option."""
