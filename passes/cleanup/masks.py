"""Drop masks that a factor repeats, and make one op of those that stay."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.ir.ops import SUMS
from fxlrp.passes.manager import Pass, insert, is_same_shape, make_sweep, shape_of

aten = torch.ops.aten

POOL_BACKWARD = aten.max_pool2d_with_indices_backward.default


def drop_repeated_masks(graph: fx.Graph) -> int:
    """Leave only ``c * relu(z)`` of ``where(z > 0, c, 0) * relu(z)``: the factor is 0 where the mask is.

    Masks are found behind sums and the adjoint of max pooling too. What they hide is finite.
    """
    hits = 0
    for node in list(graph.nodes):
        if node.target is aten.mul.Tensor:
            for c, factor in (node.args, node.args[::-1]):
                if isinstance(factor, fx.Node) and factor.target is aten.relu.default:
                    hits += strip_masks(node, c, {factor, factor.args[0]})
    return hits


def strip_masks(user: fx.Node, value: object, nought: set[object]) -> int:
    """Drop masks from a value of which only entries count where the nodes in ``nought`` are positive."""
    hits, todo = 0, [(user, value, nought)]
    while todo:
        user, value, nought = todo.pop()
        while isinstance(value, fx.Node) and find_masked(value) in nought:
            mask, value = value, value.args[1]
            user.replace_input_with(mask, value)  # type: ignore[arg-type]
            if not mask.users:  # it would count as a user of what it hid
                mask.graph.erase_node(mask)
            hits += 1
        if not isinstance(value, fx.Node) or len(value.users) > 1:
            continue
        if value.target in SUMS:
            terms = [n for n in value.all_input_nodes if is_same_shape(shape_of(n), shape_of(value))]
            todo += [(value, term, nought) for term in terms]
        elif value.target is POOL_BACKWARD and value.args[1] in nought:
            pooled = value.args[-1].args[0]  # type: ignore[union-attr]
            todo.append((value, value.args[0], {n for n in pooled.users if n.args[1] == 0}))  # type: ignore[union-attr]
    return hits


def find_masked(node: fx.Node) -> object:
    """Find the tensor of whose positive entries the node is a mask, ``where(z > 0, c, 0)``; None if it is no mask."""
    if node.target is not aten.where.self:
        return None
    condition, c, other = node.args
    assert isinstance(condition, fx.Node)
    zero = isinstance(other, fx.Node) and other.target is aten.scalar_tensor.default and other.args[0] == 0
    positive = condition.target is aten.gt.Scalar and condition.args[1] == 0
    if not zero or not positive or not isinstance(c, fx.Node) or not is_same_shape(shape_of(c), shape_of(condition)):
        return None
    return condition.args[0] if c.meta["val"].dtype is node.meta["val"].dtype else None


def fuse_mask(node: fx.Node) -> fx.Node | None:
    """Rewrite ``where(z > 0, c, 0) -> threshold_backward(c, relu(z), 0)``, which makes no mask in memory.

    The relu is kept for the next op anyway; without one it is ``z``.
    """
    z = find_masked(node)
    if not isinstance(z, fx.Node) or z.meta["val"].dtype is not node.meta["val"].dtype:
        return None
    rectified = (user for user in z.users if user.target is aten.relu.default and user < node)
    return insert(node, aten.threshold_backward.default, node.args[1], next(rectified, z), 0)


fuse_masks: Pass = make_sweep({aten.where.self: fuse_mask})
