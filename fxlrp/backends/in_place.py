"""Write results over operands that nobody needs any more, where programs run op by op.

A new tensor of some megabytes costs as much as an elementwise op itself: the C library gives memory back to the system
between ops, which has to clear it again.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.ir.graphs import find_memory_root
from fxlrp.ir.ops import AFFINE, VIEWS, is_mutable

aten = torch.ops.aten

COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)
OWN_MEMORY_OPS = (*AFFINE, aten.matmul.default)
"""Composite ops that return memory of their own all the same."""
WRITABLE_VIEWS = (*VIEWS, aten.view.default, aten._unsafe_view.default, aten.detach.default, operator.getitem)
"""Views that are written through: in others, such as ``expand``, entries may share a place."""


def write_in_place(graph: fx.Graph) -> int:
    """Replace ops by their forms in place, where the first operand is fresh memory that dies there.

    Values stay the same to the last bit. The graph is no longer functional: nothing that rewrites graphs may follow.
    """
    index = {node: i for i, node in enumerate(graph.nodes)}
    owner = {node: find_memory_root(node) for node in graph.nodes}
    shown: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    last: dict[fx.Node, int] = defaultdict(int)  # where each memory is read last
    for node, source in owner.items():
        shown[source].append(node)
        last[source] = max([last[source], *(index[user] for user in node.users)])

    def dies(operand: fx.Node, node: fx.Node) -> bool:
        """Whether nothing behind the node, and nothing else at it, reads the memory."""
        rest = [n for n in node.all_input_nodes if n is not operand]
        return last[owner[operand]] <= index[node] and all(owner[n] is not owner[operand] for n in rest)

    hits = 0
    for node in graph.nodes:
        op = find_in_place_form(node.target)
        if op is None:
            continue
        args = list(node.args)
        if not is_writable(args[0], node, owner) or not dies(args[0], node):
            other = args[1] if node.target in COMMUTATIVE and not node.kwargs else None
            if not is_writable(other, node, owner) or not dies(other, node):  # type: ignore[arg-type]
                continue
            args[:2] = reversed(args[:2])
        source = owner[args[0]]
        node.target, node.args = op, tuple(args)
        for alias in shown.pop(node):
            owner[alias] = source
            shown[source].append(alias)
        last[source] = max(last[source], last[node])
        hits += 1
    return hits


def find_in_place_form(op: object) -> OpOverload | None:
    """Find the form in place of an elementwise op."""
    if not isinstance(op, OpOverload) or torch.Tag.pointwise not in op.tags or op.namespace != "aten":
        return None
    packet = getattr(aten, f"{op._schema.name.removeprefix('aten::')}_", None)
    return getattr(packet, op._overloadname, None) if packet is not None else None


def is_writable(operand: object, node: fx.Node, owner: dict[fx.Node, fx.Node]) -> bool:
    """Whether an operand is like the result, and its memory was filled by an op of the program."""
    if not isinstance(operand, fx.Node) or not returns_own_memory(owner[operand]):
        return False
    x, y = operand.meta.get("val"), node.meta.get("val")
    while operand is not owner[operand] and operand.target in WRITABLE_VIEWS:
        operand = operand.all_input_nodes[0]
    # what was written in place is like its operand, and goes on as it
    own = operand is owner[operand] or is_mutable(operand.target)
    return own and isinstance(x, Tensor) and isinstance(y, Tensor) and is_same_size(x, y)


def returns_own_memory(node: fx.Node) -> bool:
    """Whether an op returns memory of its own; composite ones may return their operand."""
    op: Any = node.target
    return isinstance(op, OpOverload) and (op in OWN_MEMORY_OPS or not op._can_decompose())


def is_same_size(x: Tensor, y: Tensor) -> bool:
    """Whether the one can be written over the other."""
    return x.dtype is y.dtype and x.device == y.device and x.shape == y.shape
