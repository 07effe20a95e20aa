"""What the stages ask of nodes as torch.fx gives them: to be run or copied, and which of them share memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from fxlrp._torch import OpOverload


def call_op(node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Call the op of a node on the values of the nodes that it reads."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def extract(nodes: Iterable[fx.Node], inputs: Iterable[fx.Node], outputs: Any) -> fx.Graph:
    """Copy a part of a graph into a graph of its own.

    Args:
        nodes: What is copied, in order, the inputs left out. What a node reads is before it, or an input.
        inputs: What becomes a placeholder of the part, in order; they may be any nodes of the graph.
        outputs: What the part returns: nodes in containers of any depth.

    Returns:
        The part; every copy has the ``meta`` of its original, and the name if that is free.
    """
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = part.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in (n for n in nodes if n not in copies):
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(fx.map_arg(outputs, copies.__getitem__))
    return part


def find_memory_root(node: fx.Node) -> fx.Node:
    """Follow views back to the node that fills the memory which this one shows."""
    while is_view(node):
        node = node.all_input_nodes[0]
    return node


def is_view(node: fx.Node) -> bool:
    """Return whether a node shows the memory of its first operand."""
    if node.target in (operator.getitem, torch.ops.aten._unsafe_view.default):
        return True
    returns = node.target._schema.returns if isinstance(node.target, OpOverload) else ()
    return any(r.alias_info is not None for r in returns)
