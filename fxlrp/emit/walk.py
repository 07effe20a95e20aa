"""The two walks: the model forward, then its relevance in reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from fxlrp.emit.rule_results import check_parts
from fxlrp.ir.decisions import Env, Twin, build_site
from fxlrp.ir.graphs import call_op
from fxlrp.ir.provenance import mark_origin


def walk_forward(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> Env:
    """Run the graph on the values of its placeholders and return the value of every node."""
    env = dict(values)
    for node in graph.nodes:
        if node.op == "call_function":
            with mark_origin(node, "forward"):
                env[node] = call_op(node, env.__getitem__)
    return env


def walk_backward(graph: fx.Graph, env: Env, twins: Mapping[fx.Node, Twin], seed: Mapping[fx.Node, Any]) -> Env:
    """Walk the graph in reverse and return what arrives at every live node.

    Args:
        graph: The canonical forward graph.
        env: Value of every node.
        twins: Rule and operands of every live node that passes relevance on.
        seed: Coefficient at the nodes where relevance starts, each shaped as its node's value.

    Returns:
        Coefficient (or `fxlrp.ir.numerics.Relevance`) by node, shaped as the node's value.

    Raises:
        RuleError: If a rule does not return one result per operand, each shaped as its operand.
    """
    found: Env = dict(seed)
    for node in reversed(graph.nodes):
        if node in found and node in twins:
            rule = twins[node].rule
            operands, site = build_site(node, env, twins[node])
            with mark_origin(node, rule.name):
                parts = rule(site, found[node])
                check_parts(node, rule, site, parts)
                for operand, part in zip(operands, parts, strict=True):
                    found[operand] = found[operand] + part if operand in found else part
    return found
