"""What is known of a graph before rules are applied. Every analysis returns a value and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import fx

from fxlrp._torch import tree_flatten
from fxlrp.ir.program import is_floating
from fxlrp.ir.rule import Facts, Rule
from fxlrp.passes.analyses.factors import PROPORTIONAL, is_division_by_number
from fxlrp.passes.analyses.signs import find_nonnegative

aten = torch.ops.aten


def find_dependents(graph: fx.Graph, starts: Iterable[fx.Node]) -> set[fx.Node]:
    """Find the floating nodes with a differentiable path from a source."""
    found = set(starts)
    for node in graph.nodes:
        if node.op == "call_function" and is_floating(node) and any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def find_path(graph: fx.Graph, dependent: Collection[fx.Node], end: fx.Node) -> list[fx.Node]:
    """List the ops on a path from a source to the explained output, whatever their rules do, in graph order."""
    needed = {end}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(n for n in node.all_input_nodes if n in dependent)
    return [node for node in graph.nodes if node in needed and node in dependent and node.op == "call_function"]


Slots = dict[fx.Node, tuple[int, ...]]
Hold = Callable[[fx.Node, tuple[int, ...]], Iterable[int]]


def flatten_arguments(node: fx.Node) -> list[Any]:
    """Flatten the arguments of a node, so that slots are positions among them."""
    return tree_flatten((node.args, node.kwargs))[0]


def find_live(
    graph: fx.Graph, starts: Collection[fx.Node], end: fx.Node, rules: Mapping[fx.Node, Rule], held: Hold
) -> Slots:
    """Find the nodes on a path from a source to the explained output, with the slots of their operands.

    A path ends at an op whose rule passes nothing on, and does not run through an operand that is held fixed.

    Args:
        graph: The canonical graph.
        starts: Nodes where relevance is read.
        end: The explained node.
        rules: Rule by node.
        held: Given a node and the slots that relevance could reach, those to hold fixed.
    """
    slots: Slots = {node: () for node in graph.nodes if node in starts}
    for node in graph.nodes:
        stops = node in rules and rules[node].stops
        if node.op != "call_function" or node in slots or stops or not is_floating(node):
            continue
        reached = tuple(
            i for i, leaf in enumerate(flatten_arguments(node)) if isinstance(leaf, fx.Node) and leaf in slots
        )
        if passed := tuple(i for i in reached if i not in set(held(node, reached))):
            slots[node] = passed
    needed = {end} & slots.keys()
    for node in reversed(graph.nodes):
        if node in needed:
            needed |= set(list_operands(node, slots[node]))
    return {node: slots[node] for node in graph.nodes if node in needed}


def list_operands(node: fx.Node, slots: Iterable[int]) -> list[fx.Node]:
    """List the nodes in some slots of a node, one per slot."""
    given = flatten_arguments(node)
    return [given[slot] for slot in slots]


def make_hold(held_factors: Collection[fx.Node], rules: Mapping[fx.Node, Rule], frozen: bool) -> Hold:
    """Make the choice of what is held fixed: as the node's rule says, and gates and statistics inside products."""

    def held(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
        given, rule = flatten_arguments(node), rules.get(node)
        factors = {i for i in reached if frozen and node.target is aten.mul.Tensor and given[i] in held_factors}
        if len(factors) == len(reached):
            factors = set()
        rest = tuple(i for i in reached if i not in factors)
        return factors.union(rule.holds(node, rest) if rule is not None and rule.holds is not None else ())

    return held


def find_dead_below_zero(slots: Slots, rules: Mapping[fx.Node, Rule], end: fx.Node) -> set[fx.Node]:
    """Find nodes that relevance reaches only through ReLU: the coefficient is 0 where they are negative.

    Not where relevance is injected, see `fxlrp.plan.read_points.drop_broken_facts`.
    """
    found = set()
    for node in slots:
        users = [u for u in node.users if node in list_operands(u, slots.get(u, ()))]
        gated = all(u.target is aten.relu.default and rules[u].kills_negative for u in users)
        if users and gated and node is not end:
            found.add(node)
    return found


def split_chains(slots: Slots) -> dict[fx.Node, tuple[float, ...]]:
    """Split product chains into shares of their factors, so that each factor of a whole chain takes the same part.

    ``(a * b) * c`` gives its left operand 2/3 and its right 1/3; ``a * b`` then halves the 2/3. Views, signs and
    constant factors do not end a chain.
    """
    factors: dict[fx.Node, int] = {}
    found = {}

    def count(node: fx.Node) -> int:
        return factors.get(node, 1) if len(node.users) == 1 else 1

    for node in slots:
        if node.target is aten.mul.Tensor and slots[node]:
            counts = [count(n) for n in list_operands(node, slots[node])]
            factors[node] = sum(counts)
            found[node] = tuple(c / sum(counts) for c in counts)
        elif node.target is aten.pow.Tensor_Scalar and slots[node] and is_whole_number(node.args[1]):
            factors[node] = int(node.args[1]) * count(list_operands(node, slots[node])[0])  # type: ignore[arg-type]
        elif len(slots[node]) == 1 and (node.target in PROPORTIONAL or is_division_by_number(node)):
            factors[node] = count(list_operands(node, slots[node])[0])
    return found


def is_whole_number(number: object) -> bool:
    """Whether it is a positive whole number."""
    return isinstance(number, (int, float)) and number > 0 and number == int(number)


def prove_facts(
    graph: fx.Graph, slots: Slots, rules: Mapping[fx.Node, Rule], end: fx.Node, invariant: bool
) -> dict[fx.Node, Facts]:
    """Prove what can be proved about each live node."""
    positive = find_nonnegative(graph)
    dead = find_dead_below_zero(slots, rules, end)
    shares = split_chains(slots) if invariant else {}
    return {
        node: Facts(all(n in positive for n in list_operands(node, slots[node])), node in dead, shares.get(node))
        for node in slots
    }
