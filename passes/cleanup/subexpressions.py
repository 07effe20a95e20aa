"""Compute every expression once."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp._torch import OpOverload, tree_flatten
from fxlrp.passes.manager import substitute


def share_subexpressions(graph: fx.Graph) -> int:
    """Replace a call by an earlier one of the same op on the same arguments."""
    seen: dict[Any, fx.Node] = {}
    hits = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or not (is_pure(node.target) or is_certain(node)):
            continue
        leaves, spec = tree_flatten((node.args, node.kwargs))
        key = (node.target, spec, tuple((type(leaf), leaf) for leaf in leaves))
        if key in seen:
            substitute(node, seen[key])
            hits += 1
        else:
            seen[key] = node
    return hits


def is_certain(node: fx.Node) -> bool:
    """Fused attention without dropout, which torch counts among random ops."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.name.startswith("aten::_scaled_dot_product"):
        return False
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    return bool(given.get("dropout_p", 0.0) == 0)


def is_pure(target: object) -> bool:
    """Same arguments, same result; assertions and random numbers are not."""
    if isinstance(target, OpOverload):
        return not (target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags)
    return getattr(target, "__module__", "") in ("_operator", "operator", "math")
