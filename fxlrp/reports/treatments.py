"""What becomes of gates, routers, divisors, selective scans and initial states, as the plan has it at their nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from fxlrp.ir.ops import AFFINE, MOVES, SOFTMAXES
from fxlrp.ir.program import find_op, is_floating
from fxlrp.passes.analyses.factors import find_kinds
from fxlrp.passes.analyses.liveness import find_dependents
from fxlrp.plan.decide import Plan
from fxlrp.reports.edge_relevance import find_live_operands
from fxlrp.rules.published.recurrent import is_selection

aten = torch.ops.aten

MOVING = (*MOVES, aten._to_copy.default)
SCALING = (*MOVING, *SOFTMAXES, aten.div.Tensor, aten.mul.Tensor, aten.add.Tensor)
"""Ops that leave the weights of chosen experts what they are, where nothing else that is live takes part."""

HELD = {
    "gate": "held fixed, the signal takes all (Arras et al. 2017)",
    "router's weight": "held fixed, the expert takes all (Ali et al. 2022)",
    "router's normaliser": "held fixed, the weights take all",
    "divisor": "held fixed, the numerator takes all",
}
CONSTANT = "constant, takes no relevance"
PUBLISHED = {
    "product": "shares evenly (Achtibat et al. 2024)",
    "taylor_softmax": "first Taylor order, which leaks (Achtibat et al. 2024)",
}
"""What the rules of a publication do, by their names."""


@dataclass(frozen=True)
class Treatment:
    """What becomes of a part of models that publications treat each in its own way.

    Attributes:
        part: The part, such as ``gate``.
        treatment: What its relevance does, and who published that.
        count: At how many nodes.
    """

    part: str
    treatment: str
    count: int

    def __str__(self) -> str:
        return f"{self.part}: {self.treatment} ({self.count})"


def count_treatments(plan: Plan) -> tuple[Treatment, ...]:
    """Count what `describe_treatments` says of the nodes of a plan, in graph order."""
    counts = Counter(describe_treatments(plan).values())
    return tuple(Treatment(part, treatment, count) for (part, treatment), count in counts.items())


def describe_treatments(plan: Plan) -> dict[fx.Node, tuple[str, str]]:
    """Say what a plan does with gates, routers, divisors, selective scans and initial states.

    It is read off the rules at the nodes and the operands that take relevance, whatever the rule set is called.

    Returns:
        Part and treatment of each node that has one, in graph order.
    """
    graph = plan.captured.graph
    starts = {source.node for source in plan.sources}
    dependent = find_dependents(graph, starts)
    gates = {node for node, kind in find_kinds(graph, dependent).items() if kind == "gate"}
    chosen, states = find_chosen_weights(graph, dependent), find_initial_states(graph, gates)
    found: dict[fx.Node, tuple[str, str]] = {}
    for node in graph.nodes:
        operands = [n for n in node.all_input_nodes if n in dependent]
        if node in states:
            found[node] = "initial state", "an input, takes relevance of its own" if node in starts else CONSTANT
        elif is_routing(node, chosen) and operands:
            found[node] = "router's softmax", name_rule(plan, node)
        elif find_op(node) in AFFINE and operands and is_selection(node):
            held = "constant, the signal takes all (Rezaei Jafari et al. 2024)"
            found[node] = "selection of a state space", name_rule(plan, node, held)
        elif node in plan.twins and (pair := find_pair(node, operands, gates, chosen)):
            part, factor = pair
            takes = factor in find_live_operands(node, plan.twins[node])
            found[node] = part, name_rule(plan, node) if takes else HELD[part]
    return found


def name_rule(plan: Plan, node: fx.Node, held: str = CONSTANT) -> str:
    """Say what the rule of a node does; of a node that takes no relevance, what is given for that."""
    if node not in plan.twins:
        return held
    name = plan.twins[node].rule.name
    return PUBLISHED.get(name, f"takes relevance by the rule {name}")


def find_pair(
    node: fx.Node, operands: Sequence[fx.Node], gates: Collection[fx.Node], chosen: Collection[fx.Node]
) -> tuple[str, fx.Node] | None:
    """Find which part of a model a product or quotient of two operands is, and the operand that publications hold."""
    if len(operands) != 2:
        return None
    if find_op(node) is aten.div.Tensor:
        return "router's normaliser" if operands[0] in chosen else "divisor", operands[1]
    for part, factors in (("router's weight", chosen), ("gate", gates)):
        for factor in operands:
            if find_op(node) is aten.mul.Tensor and factor in factors:
                return part, factor
    return None


def is_routing(node: fx.Node, chosen: Collection[fx.Node]) -> bool:
    """Say whether a softmax is one that experts are chosen by, or that weighs those that were."""
    if find_op(node) not in SOFTMAXES:
        return False
    return node in chosen or any(find_op(user) is aten.topk.default for user in node.users)


def find_chosen_weights(graph: fx.Graph, dependent: Collection[fx.Node]) -> set[fx.Node]:
    """Find the scores of what was chosen as the largest few, and what is made of them alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        op, operands = find_op(node), [n for n in node.all_input_nodes if n in dependent]
        alone = len(operands) == 1 or op is aten.div.Tensor
        begins = op is aten.gather.default and find_op(skip_moves(node.args[2])) is aten.topk.default
        if begins or (op in SCALING and alone and operands and operands[0] in found):
            found.add(node)
    return found


def skip_moves(node: fx.Node) -> fx.Node:
    """Return what a value was before it was moved."""
    while (find_op(node) in MOVING or "getitem" in str(node.target)) and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def is_made(node: fx.Node) -> bool:
    """Say whether a node is made of numbers alone, as zeros are."""
    return node.op == "call_function" and is_floating(node) and not any(map(is_floating, node.all_input_nodes))


def find_initial_states(graph: fx.Graph, gates: set[fx.Node]) -> set[fx.Node]:
    """Find what recurrences begin with: zeros that a gate multiplies, and what a weight is applied to the first time.

    The weight is one that is applied again to what comes of that.
    """
    readers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    found = set()
    for node in graph.nodes:
        if find_op(node) in AFFINE:
            readers[node.args[1]].append(node)
        elif find_op(node) is aten.mul.Tensor and not gates.isdisjoint(node.all_input_nodes):
            found |= {n for n in map(skip_moves, node.all_input_nodes) if is_made(n)}
    for first, *others in readers.values():
        start = skip_moves(first.all_input_nodes[0])
        if others and (start.op == "placeholder" or is_made(start)) and leads_to(first, set(others)):
            found.add(start)
    return found


def leads_to(start: fx.Node, ends: Collection[fx.Node]) -> bool:
    """Say whether one of some nodes is computed from another node."""
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if node in ends:
            return True
        waiting += [user for user in node.users if user not in seen]
        seen.update(node.users)
    return False
