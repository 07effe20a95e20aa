"""Compute every expression once."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxlrp._torch import tree_flatten
from fxlrp.ir.ops import is_pure
from fxlrp.passes.manager import substitute


def share_subexpressions(graph: fx.Graph) -> int:
    """Replace a call by an earlier one of the same op on the same arguments."""
    seen: dict[Any, fx.Node] = {}
    hits = 0
    for node in list(graph.nodes):
        if not is_pure(node):
            continue
        leaves, spec = tree_flatten((node.args, node.kwargs))
        key = (node.target, spec, tuple((type(leaf), leaf) for leaf in leaves))
        if key in seen:
            substitute(node, seen[key])
            hits += 1
        else:
            seen[key] = node
    return hits
