"""Which nodes of a graph show the same memory."""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxlrp._torch import OpOverload


def find_memory_root(node: fx.Node) -> fx.Node:
    """The node that fills the memory that this one shows."""
    while is_view(node):
        node = node.all_input_nodes[0]
    return node


def is_view(node: fx.Node) -> bool:
    """Whether a node shows the memory of its first operand."""
    if node.target in (operator.getitem, torch.ops.aten._unsafe_view.default):
        return True
    returns = node.target._schema.returns if isinstance(node.target, OpOverload) else ()
    return any(r.alias_info is not None for r in returns)
