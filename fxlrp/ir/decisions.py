"""What the compiler decides before anything is emitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxlrp._torch import tree_flatten
from fxlrp.ir import numerics
from fxlrp.ir.rule import Facts, Rule, Site

Env = dict[fx.Node, Any]
"""What the walks know of each node: its value, or what arrived there."""


@dataclass(frozen=True)
class Twin:
    """What the compiler decided for one live node: its rule, its operands, what is known of them."""

    rule: Rule
    slots: tuple[int, ...]
    facts: Facts


@dataclass(frozen=True)
class Tail:
    """The last nodes of a graph, where each position is computed by itself: heads, norms, residual sums.

    Attributes:
        end: The explained node, of shape ``(batch, positions, ...)``.
        nodes: The live nodes of the tail, ``end`` among them.
        aligned: Nodes of which the tail takes the explained positions: all of the above and what they read.
        columns: Weight and bias of the last linear op, of which the tail takes the explained rows; or none.
    """

    end: fx.Node
    nodes: frozenset[fx.Node]
    aligned: frozenset[fx.Node]
    columns: tuple[fx.Node, ...]


def build_site(node: fx.Node, env: Env, twin: Twin) -> tuple[list[fx.Node], Site]:
    """Return the nodes that the operands of a live node come from, and the node as a site, widened for relevance."""
    nodes, spec = tree_flatten((node.args, node.kwargs))
    values = tuple(env[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in nodes)
    leaves, out = numerics.widen((values, env[node]))
    return [nodes[i] for i in twin.slots], Site(node.target, leaves, spec, twin.slots, out, twin.facts)
