"""Drop what changes nothing in evaluation mode."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.ir.ops import name_arguments
from fxlrp.ir.stop_gradient import HOLD, STRAIGHT
from fxlrp.passes.manager import Pass, insert, is_same_shape, make_sweep, shape_of

aten = torch.ops.aten


def take_first(node: fx.Node) -> fx.Node:
    """Rewrite ``op(x, ...) -> x``."""
    return node.args[0]  # type: ignore[return-value]


def drop_dropout(node: fx.Node) -> fx.Node | None:
    """Rewrite ``dropout(x, p, train=False) -> x``."""
    return take_first(node) if not node.args[2] else None


def drop_cast(node: fx.Node) -> fx.Node | None:
    """Drop a cast to the same dtype and device."""
    before, after = take_first(node).meta["val"], node.meta["val"]
    return take_first(node) if (before.dtype, before.device) == (after.dtype, after.device) else None


def drop_view(node: fx.Node) -> fx.Node | None:
    """Drop a view, expand or slice that keeps the shape and makes no steps."""
    x, has_steps = take_first(node), name_arguments(node).get("step", 1) != 1
    return x if is_same_shape(shape_of(x), shape_of(node)) and not has_steps else None


def rewrite_view(node: fx.Node) -> fx.Node | None:
    """Let a view be a reshape: without clones the strides are others."""
    return drop_view(node) or insert(node, aten.reshape.default, *node.args)


def rewrite_copy(node: fx.Node) -> fx.Node | None:
    """Rewrite ``copy(a, b) -> b`` in the shape and dtype of ``a``."""
    old, new = node.args[:2]
    assert isinstance(old, fx.Node)
    assert isinstance(new, fx.Node)
    if new.meta["val"].dtype != old.meta["val"].dtype:
        new = insert(node, aten._to_copy.default, new, dtype=old.meta["val"].dtype)
    return (
        new
        if is_same_shape(shape_of(new), shape_of(old))
        else insert(node, aten.expand.default, new, list(shape_of(old)))
    )


def rewrite_hold(node: fx.Node) -> fx.Node:
    """Let the capture's ``hold`` be ``detach``, so that programs contain ATen ops only."""
    return insert(node, aten.detach.default, node.args[0])


def erase_assertions(graph: fx.Graph) -> int:
    """Erase checks of metadata, which capture has done."""
    checks = [n for n in graph.nodes if n.target is aten._assert_tensor_metadata.default]
    for node in checks:
        graph.erase_node(node)
    return len(checks)


ZEROED = {
    aten.empty.memory_format: aten.zeros.default,
    aten.new_empty.default: aten.new_zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
}


def fill_empty(graph: fx.Graph) -> int:
    """Put zeros in memory without content, such as circular padding is written into.

    All of it is overwritten, but an account of relevance multiplies by it what does not arrive, and 0 * NaN is NaN.
    """
    bare = [node for node in graph.nodes if node.target in ZEROED]
    for node in bare:
        if node.target is aten.empty.memory_format:
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
        node.target = ZEROED[node.target]
    return len(bare)


drop_identities: Pass = make_sweep(
    {
        aten.dropout.default: drop_dropout,
        aten.alias.default: take_first,
        aten.clone.default: take_first,
        torch.ops.prims.copy_strided.default: take_first,  # some decompositions give results the strides of an operand
        aten.contiguous.default: take_first,
        aten.lift_fresh_copy.default: take_first,
        aten.positive.default: take_first,
        aten._to_copy.default: drop_cast,
        aten.view.default: rewrite_view,
        aten._unsafe_view.default: rewrite_view,
        aten.view_copy.default: rewrite_view,
        aten.expand.default: drop_view,
        aten.slice.Tensor: drop_view,
        aten.copy.default: rewrite_copy,
        HOLD: rewrite_hold,
    }
)


def free_views(graph: fx.Graph) -> int:
    """Let views copy where strides ask for it: other passes drop ops that laid memory out anew."""
    views = [n for n in graph.nodes if n.target in (aten.view.default, aten._unsafe_view.default)]
    for node in views:
        node.target = aten.reshape.default
    return len(views)


def take_second(node: fx.Node) -> fx.Node:
    """Rewrite ``op(x, value) -> value``."""
    return node.args[1]  # type: ignore[return-value]


drop_detachments: Pass = make_sweep(
    {aten.detach.default: take_first, aten.alias.default: take_first, STRAIGHT: take_second}
)
