"""Drop what changes nothing in evaluation mode."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.ir.stop_gradient import HOLD, STRAIGHT
from fxlrp.passes.manager import Pass, insert, same, shape, sweep

aten = torch.ops.aten


def first(node: fx.Node) -> fx.Node:
    """``op(x, ...) -> x``."""
    return node.args[0]  # type: ignore[return-value]


def dropout(node: fx.Node) -> fx.Node | None:
    """``dropout(x, p, train=False) -> x``."""
    return first(node) if not node.args[2] else None


def cast(node: fx.Node) -> fx.Node | None:
    """A cast to the same dtype and device."""
    before, after = first(node).meta["val"], node.meta["val"]
    return first(node) if (before.dtype, before.device) == (after.dtype, after.device) else None


def reshape(node: fx.Node) -> fx.Node | None:
    """A view, expand or slice that keeps the shape and starts at the first entry."""
    starts_elsewhere = node.target is aten.slice.Tensor and len(node.args) > 4 and node.args[4] != 1
    return first(node) if same(shape(first(node)), shape(node)) and not starts_elsewhere else None


def view(node: fx.Node) -> fx.Node | None:
    """A view becomes a reshape: without clones the strides are others."""
    return reshape(node) or insert(node, aten.reshape.default, *node.args)


def copy(node: fx.Node) -> fx.Node | None:
    """``copy(a, b) -> b`` in the shape and dtype of ``a``."""
    old, new = node.args[:2]
    assert isinstance(old, fx.Node)
    assert isinstance(new, fx.Node)
    if new.meta["val"].dtype != old.meta["val"].dtype:
        new = insert(node, aten._to_copy.default, new, dtype=old.meta["val"].dtype)
    return new if same(shape(new), shape(old)) else insert(node, aten.expand.default, new, list(shape(old)))


def held(node: fx.Node) -> fx.Node:
    """The capture's ``hold`` becomes ``detach``, so that programs contain ATen ops only."""
    return insert(node, aten.detach.default, node.args[0])


def assertion(graph: fx.Graph) -> int:
    """Erase checks of metadata, which capture has done."""
    checks = [n for n in graph.nodes if n.target is aten._assert_tensor_metadata.default]
    for node in checks:
        graph.erase_node(node)
    return len(checks)


FILLED = {
    aten.empty.memory_format: aten.zeros.default,
    aten.new_empty.default: aten.new_zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
}


def fill(graph: fx.Graph) -> int:
    """Zeros for memory without content, such as circular padding is written into.

    All of it is overwritten, but an account of relevance multiplies by it what does not arrive, and 0 * NaN is NaN.
    """
    bare = [node for node in graph.nodes if node.target in FILLED]
    for node in bare:
        if node.target is aten.empty.memory_format:
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
        node.target = FILLED[node.target]
    return len(bare)


drop: Pass = sweep(
    {
        aten.dropout.default: dropout,
        aten.alias.default: first,
        aten.clone.default: first,
        torch.ops.prims.copy_strided.default: first,  # some decompositions give results the strides of an operand
        aten.contiguous.default: first,
        aten.lift_fresh_copy.default: first,
        aten.positive.default: first,
        aten._to_copy.default: cast,
        aten.view.default: view,
        aten._unsafe_view.default: view,
        aten.view_copy.default: view,
        aten.expand.default: reshape,
        aten.slice.Tensor: reshape,
        aten.copy.default: copy,
        HOLD: held,
    }
)


def free_views(graph: fx.Graph) -> int:
    """Let views copy where strides ask for it: other passes drop ops that laid memory out anew."""
    views = [n for n in graph.nodes if n.target in (aten.view.default, aten._unsafe_view.default)]
    for node in views:
        node.target = aten.reshape.default
    return len(views)


def second(node: fx.Node) -> fx.Node:
    """``op(x, value) -> value``."""
    return node.args[1]  # type: ignore[return-value]


undetach: Pass = sweep({aten.detach.default: first, aten.alias.default: first, STRAIGHT: second})
