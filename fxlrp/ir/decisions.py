"""What the compiler decides before anything is emitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxlrp.ir.rule import Facts, Rule

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
