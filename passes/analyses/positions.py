"""Which last part of a graph computes every position by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from fxlrp.ir.decisions import Tail, Twin
from fxlrp.ir.ops import LOG_SOFTMAXES, NORMS, SOFTMAXES, is_elementwise
from fxlrp.ir.rule import Rule
from fxlrp.passes.analyses.liveness import list_operands
from fxlrp.passes.manager import is_same_shape, shape_of

aten = torch.ops.aten


def find_tail(graph: fx.Graph, twins: Mapping[fx.Node, Twin], end: fx.Node, whole: Collection[fx.Node]) -> Tail | None:
    """Find the tail of an explained sequence; None if there is none.

    A node belongs to it if its op treats positions (dimension 1) apart and everything that it takes relevance from
    belongs to it too.

    Args:
        graph: The canonical graph.
        twins: Rule and operands of every live node.
        end: The explained node.
        whole: Nodes that have to be walked for all positions.
    """
    lead = shape_of(end)[:2]
    if len(shape_of(end)) < 3 or is_same_shape(lead[1:], (1,)):
        return None
    receivers: dict[fx.Node, list[fx.Node]] = {}
    taken: dict[fx.Node, set[fx.Node]] = {}
    for node in reversed(graph.nodes):
        if node not in twins:
            continue
        users = receivers.get(node, [])
        own = None if node in whole or not is_own_rule(twins[node].rule) else find_aligned(node, twins[node], lead)
        if own is not None and (users or node is end) and all(user in taken for user in users):
            taken[node] = own
        for operand in list_operands(node, twins[node].slots):
            receivers.setdefault(operand, []).append(node)
    aligned = set(taken).union(*taken.values())
    fixed = {node: set(node.all_input_nodes) - own for node, own in taken.items()}
    if end not in taken or aligned & set().union(*fixed.values()):
        return None
    columns = [arg for arg in end.args[1:] if isinstance(arg, fx.Node)] if end.target is aten.linear.default else []
    shared = any(leaf in columns for node in taken if node is not end for leaf in fixed[node])
    return Tail(end, frozenset(taken), frozenset(aligned), () if shared else tuple(columns))


def is_own_rule(rule: Rule) -> bool:
    """Whether the rule is one of fxlrp's: linear in the coefficient, and apart where its op treats positions apart.

    Nothing is known of others: one that cuts negative coefficients off must see all terms of a target at once.
    """
    return getattr(rule.apply, "__module__", "").startswith("fxlrp.rules.") and not rule.filters


def find_aligned(node: fx.Node, twin: Twin, lead: tuple[Any, ...]) -> set[fx.Node] | None:
    """Find the arguments that an op reads position by position; None if it mixes positions."""
    size, args, op = shape_of(node), tuple[Any, ...](node.args), node.target
    if not is_same_shape(size[:2], lead):
        return None
    found: set[fx.Node] | None = None
    within = op in NORMS and len(args[1]) <= len(size) - 2
    if op is aten.linear.default or within or (op in (*SOFTMAXES, *LOG_SOFTMAXES) and args[1] % len(size) >= 2):
        found = {args[0]}
    elif is_elementwise(op):
        found = find_elementwise_aligned(node, lead)
    plain = found is not None and all(
        n in found and is_same_shape(shape_of(n)[:2], lead) for n in list_operands(node, twin.slots)
    )
    return found if plain else None


def find_elementwise_aligned(node: fx.Node, lead: tuple[Any, ...]) -> set[fx.Node] | None:
    """Find the arguments of an elementwise op that have positions; None if one has them in its first dimension."""
    rank = len(shape_of(node))
    found = set()
    for n in node.all_input_nodes:
        own = shape_of(n)
        if len(own) >= rank - 1 and not is_same_shape(own[-(rank - 1) :][:1], (1,)):
            if len(own) < rank or not is_same_shape(own[1:2], lead[1:]):
                return None
            found.add(n)
    return found
