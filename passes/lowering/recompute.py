"""Recompute what lies inside segments of the forward walk, and keep what crosses their borders."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import SymInt, Tensor, fx

from fxlrp.ir.graphs import find_memory_root
from fxlrp.ir.ops import is_pure
from fxlrp.ir.provenance import find_role

RECOMPUTED = "recomputed"
"""Role of the copies, where forward nodes have ``forward``."""

SMALL_FACTOR = 256
"""Values so many times smaller than the inside of a segment are kept: statistics of norms and of softmax."""

BUDGETS = 16
"""How many budgets for the inside of a segment are tried, each two thirds of the one before."""


@dataclass
class Memory:
    """A piece of memory that the forward walk fills.

    Attributes:
        size: Bytes.
        birth: Position of the node that fills it.
        death: Position of the last forward node that reads it.
        needed: Something behind the forward walk reads it.
    """

    size: int
    birth: int
    death: int
    needed: bool = False

    def crosses(self, cuts: Sequence[int]) -> bool:
        """Whether it is read on both sides of a cut."""
        following = bisect_right(cuts, self.birth)
        return following < len(cuts) and cuts[following] <= self.death


def recompute(graph: fx.Graph) -> int:
    """Compute values inside a segment again, right before the reverse walk needs them.

    Segments are cut where the least memory crosses, which is between the blocks of a model in layers; as many of them
    as make the kept borders and the largest inside together smallest. The last one is needed at once and is kept.
    """
    # what depends on no input is kept between calls
    dependent = find_following(graph, set(graph.find_nodes(op="placeholder")))
    forward = {n: i for i, n in enumerate(n for n in dependent if is_forward(n))}
    roots = {n: find_memory_root(n) for n in forward}
    memories = measure_lifetimes(forward, roots)
    cuts, inside = find_best_cuts(list(memories.values()), len(forward))
    given = {find_memory_root(n) for n in graph.output_node().all_input_nodes}
    fresh = {
        source
        for source, m in memories.items()
        if is_pure(source) and source not in given and inside < SMALL_FACTOR * m.size and not m.crosses(cuts)
    }
    return insert_copies(graph, {n: i for n, i in forward.items() if cuts and i < cuts[-1] and roots[n] in fresh})


def is_forward(node: fx.Node) -> bool:
    """Whether the forward walk computes the node."""
    return node.op == "call_function" and find_role(node) == "forward"


def find_following(graph: fx.Graph, starts: Collection[fx.Node]) -> dict[fx.Node, None]:
    """Find what is computed from some nodes, in order: those among them that are calls too."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "call_function" and (
            node in starts or any(n in found or n in starts for n in node.all_input_nodes)
        ):
            found[node] = None
    return found


def measure_lifetimes(forward: Mapping[fx.Node, int], roots: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, Memory]:
    """Measure the memory that each forward node fills, by that node."""
    found: dict[fx.Node, Memory] = {}
    for node, position in forward.items():
        source = roots[node]
        if source not in forward:  # an input, or a constant
            continue
        memory = found.setdefault(source, Memory(count_bytes(source.meta.get("val")), position, position))
        for user in node.users:
            memory.death = max(memory.death, forward.get(user, 0))
            memory.needed |= user not in forward
    return found


def count_bytes(val: Any) -> int:
    """Count the bytes of a value; sizes that are symbols count as in the example."""
    if isinstance(val, (tuple, list)):
        return sum(map(count_bytes, val))
    if not isinstance(val, Tensor):
        return 0
    numel: Any = val.numel()
    known = numel.node.hint if isinstance(numel, SymInt) else numel
    return int(known or 0) * val.itemsize


def find_best_cuts(memories: Sequence[Memory], n: int) -> tuple[list[int], int]:
    """Find where segments begin, and the bytes of the largest inside; no position if that saves nothing.

    Args:
        memories: What the forward walk fills.
        n: Number of its nodes.
    """
    needed, crossing = [0] * (n + 1), [0] * (n + 2)
    for m in memories:
        needed[m.birth + 1] += m.size * m.needed
        crossing[m.birth + 1] += m.size
        crossing[m.death + 1] -= m.size
    filled, across = list(accumulate(needed)), list(accumulate(crossing))
    best: list[int] = []
    least, inside = measure_cost(memories, best)
    budget = float(inside)
    for _ in range(BUDGETS):
        budget *= 2 / 3
        cuts = cut_within(budget, filled, across)
        total, largest = measure_cost(memories, cuts)
        if total < least:
            best, least, inside = cuts, total, largest
    return best, inside


def cut_within(budget: float, filled: Sequence[int], across: Sequence[int]) -> list[int]:
    """Cut where little crosses, such that about ``budget`` bytes are inside each segment.

    Args:
        budget: Bytes.
        filled: Bytes that are needed later and filled before each position.
        across: Bytes that cross each position.
    """
    cuts: list[int] = []
    start, best, i = 0, 0, 1
    while i < len(filled):
        inside = filled[i] - filled[start]
        if inside > budget / 2 and (best == start or across[i] <= across[best]):
            best = i
        if inside > budget and best > start:
            cuts.append(best)
            start = i = best
        i += 1
    return cuts


def measure_cost(memories: Iterable[Memory], cuts: Sequence[int]) -> tuple[int, int]:
    """Return the bytes kept at borders together with the largest inside of a segment, and that inside."""
    kept, insides = 0, [0] * (len(cuts) + 1)
    for m in memories:
        if m.crosses(cuts):
            kept += m.size
        elif m.needed:
            insides[bisect_right(cuts, m.birth)] += m.size
    return kept + max(insides), max(insides)


def insert_copies(graph: fx.Graph, fresh: Mapping[fx.Node, int]) -> int:
    """Give what follows the forward walk copies of some of its nodes, each right before its first use.

    Args:
        graph: The program.
        fresh: The nodes to compute again, with their order.
    """
    copies: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if is_forward(node):
            continue
        used = [n for n in node.all_input_nodes if n in fresh]
        with graph.inserting_before(node):
            for source in sorted(find_missing(used, fresh, copies), key=fresh.__getitem__):
                copies[source] = graph.node_copy(source, lambda n: copies.get(n, n))
                copies[source].meta["custom"] = {**source.meta["custom"], "fxlrp": RECOMPUTED}
        for n in used:
            node.replace_input_with(n, copies[n])
    return len(copies)


def find_missing(wanted: Iterable[fx.Node], fresh: Collection[fx.Node], copies: Collection[fx.Node]) -> set[fx.Node]:
    """Find the nodes without a copy that some nodes are computed from, themselves among them."""
    found: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node in fresh and node not in copies and node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return found
