"""Write every product with a constant matrix as ``linear(x, weight, bias)``."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.passes.manager import find_input_dependent, insert, shape_of, substitute

aten = torch.ops.aten


def merge_products(graph: fx.Graph) -> int:
    """Write ``addmm(b, x, W)``, ``mm(x, W)`` and ``matmul(x, W)`` with constant ``W`` as ``linear(x, W^T, b)``."""
    dependent = find_input_dependent(graph)
    hits = 0
    for node in list(graph.nodes):
        if (new := write_as_linear(node, dependent)) is not None:
            substitute(node, new)
            dependent.add(new)
            hits += 1
    return hits


def write_as_linear(node: fx.Node, dependent: set[fx.Node]) -> fx.Node | None:
    """Write the node as a linear op; None if it is none."""
    if node.target is aten.addmm.default and not node.kwargs:
        bias, x, w = node.args
    elif node.target in (aten.mm.default, aten.matmul.default):
        bias, (x, w) = None, node.args
    else:
        return None
    assert isinstance(w, fx.Node)
    if x not in dependent or w in dependent or bias in dependent or len(shape_of(w)) != 2:
        return None
    if isinstance(bias, fx.Node) and len(shape_of(bias)) != 1:
        return None
    return insert(node, aten.linear.default, x, insert(node, aten.t.default, w), bias)
