"""Compute only what is selected.

A classifier that reads one token needs the last ops that treat positions apart for that token only. Sizes must be
numbers.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import CUTS, is_elementwise
from fxlrp.passes.cleanup.spans import (
    Span,
    find_selected,
    insert_cut,
    insert_narrowed,
    is_reduced_apart,
    rearrange_span,
)
from fxlrp.passes.manager import insert, shape_of, substitute

aten = torch.ops.aten

REDUCED = (aten.sum.dim_IntList, aten.mean.dim, aten.var.correction)


def lift_selections(graph: fx.Graph) -> int:
    """Compute only what is selected, where every user selects the same."""
    hits = 0
    for node in reversed(list(graph.nodes)):
        users = list(node.users)
        spans = {find_selected(user) if user.target in CUTS else None for user in users}
        span = next(iter(spans), None)
        if node.op != "call_function" or len(spans) > 1 or span is None or span.size == shape_of(node)[span.dim]:
            continue
        if (new := insert_lifted(node, span)) is not None:
            for user in users:
                single = user.target is aten.select.int
                substitute(user, insert(user, aten.select.int, new, span.dim, 0) if single else new)
            erase_with_source(node)  # it would count as a user of its operands
            hits += 1
    return hits


def erase_with_source(node: fx.Node) -> None:
    """Erase a node, and the op of which it is an output."""
    source: Any = node.args[0]
    node.graph.erase_node(node)
    if node.target is operator.getitem:
        node.graph.erase_node(source)


def insert_lifted(node: Any, span: Span) -> fx.Node | None:
    """Insert the node computed for a span of its entries, from that part of its operands."""
    op, sizes = node.target, shape_of(node)
    if is_lone_norm(node) and span.dim < len(sizes) - len(node.args[0].args[1]):
        norm: Any = node.args[0]
        part = insert(node, norm.target, insert_cut(norm.args[0], span, sizes, node), *norm.args[1:])
        return insert(node, operator.getitem, part, 0)
    if op in (aten.mm.default, aten.addmm.default) and span.dim == 0 and not node.kwargs:
        *bias, x, weight = node.args
        if any(len(shape_of(b)) > 1 for b in bias):
            return None
        return insert(node, op, *bias, insert_cut(x, span, (sizes[0], shape_of(x)[1]), node), weight)
    if op in REDUCED and is_reduced_apart(node, span):
        return insert(node, op, insert_cut(node.args[0], span, sizes, node), *node.args[1:], **node.kwargs)
    if is_elementwise(op):
        args = [insert_cut(arg, span, sizes, node) for arg in node.args]
        return insert(node, op, *args, **node.kwargs)
    if (at := rearrange_span(node, span, backwards=True)) is not None:
        return insert_narrowed(node, insert_cut(node.args[0], at, shape_of(node.args[0]), node), span)
    return None


def is_lone_norm(node: Any) -> bool:
    """Whether it is the only used output of a layer norm."""
    norm = node.args[0] if node.target is operator.getitem else None
    return (
        isinstance(norm, fx.Node)
        and norm.target is aten.native_layer_norm.default
        and node.args[1] == 0
        and len(norm.users) == 1
    )
