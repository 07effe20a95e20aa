"""How much relevance runs along each edge of the graph, measured for one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from fxlrp.emit.walk import walk_backward, walk_forward
from fxlrp.ir import numerics, targets
from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.program import Captured
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.passes.analyses.liveness import flatten_arguments
from fxlrp.plan.decide import Plan


@dataclass(frozen=True)
class Flow:
    """Relevance by place, summed over the batch.

    Attributes:
        nodes: ``received`` and ``passed`` of each live node, by name.
        edges: Sum of absolute relevance from a node's user to the node, by the names of node and user.
    """

    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    edges: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))


def measure_flow(plan: Plan, tensors: Sequence[Tensor], form: targets.Form, numbers: Sequence[Tensor]) -> Flow:
    """Run both walks on these inputs and note what every rule gives to its operands."""
    captured, found = plan.captured, Flow()
    env = walk_forward(captured.graph, {**captured.constants, **give_inputs(captured, tensors)})
    start = targets.make_seed(form, numerics.widen(env[captured.explained]), numbers)
    twins = {node: replace(twin, rule=watch_rule(node, twin, found)) for node, twin in plan.twins.items()}
    carried = walk_backward(captured.graph, env, twins, {captured.explained: start})
    for node, c in carried.items():
        received = numerics.to_relevance(c, numerics.widen(env[node])).sum()
        found.nodes[node.name] = {"received": to_float(received), **found.nodes.get(node.name, {})}
    return found


def find_live_operands(node: fx.Node, twin: Twin) -> list[fx.Node]:
    """Find the nodes that a live node gives relevance to."""
    given = flatten_arguments(node)
    return [given[i] for i in twin.slots]


def give_inputs(captured: Captured, tensors: Sequence[Tensor]) -> Env:
    """Return the value of each input of a captured model: tensors are given, the rest is as it was captured."""
    given = iter(tensors)
    return {n: next(given) if isinstance(n.meta["val"], Tensor) else n.meta["val"] for n in captured.inputs}


def watch_rule(node: fx.Node, twin: Twin, found: Flow) -> Rule:
    """Let a rule note the relevance of each operand, too."""
    names = [operand.name for operand in find_live_operands(node, twin)]

    def apply(site: Site, c: Tensor) -> Parts:
        parts = twin.rule(site, c)
        given = [numerics.to_relevance(part, x) for part, x in zip(parts, site.operands, strict=True)]
        for name, r in zip(names, given, strict=True):
            found.edges[name, node.name] += float(r.abs().sum())
        found.nodes[node.name] = {"passed": sum(to_float(r.sum()) for r in given)}
        return parts

    return replace(twin.rule, apply=apply)


def to_float(number: Tensor) -> float:
    """Return a number as a float; the relevance of complex values is real in total."""
    return float(torch.real(number))
