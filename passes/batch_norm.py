"""Fold evaluation-mode batch norm into the neighbouring linear op, or write it as a product and a sum."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxlrp.passes.manager import insert, reaches, shape, substitute

aten = torch.ops.aten

BATCH_NORM = aten._native_batch_norm_legit_no_training.default
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LINEAR = (aten.linear.default, *CONVOLUTIONS, *TRANSPOSED)


def fold(graph: fx.Graph) -> int:
    """``bn(linear(x))`` and ``linear(bn(x))`` become one linear op with weights computed in the graph.

    Without such a neighbour ``bn(x)`` becomes ``x s + t``. A linear op before the norm must feed nothing else. A
    convolution behind the norm must not pad: its zeros would have to be shifted too.
    """
    hits = 0
    dependent = reaches(graph)
    for node in list(graph.nodes):
        if node.target is operator.getitem and node.args[1] == 0 and node.args[0].target is BATCH_NORM:
            norm = node.args[0]
            before(node, norm, dependent) or behind(node, norm, dependent) or alone(node, norm)
            hits += 1
    return hits


def scale_and_shift(at: fx.Node, norm: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The affine map that the norm is: ``s = w / sqrt(var + eps)``, ``t = b - mean * s``."""
    _, weight, bias, mean, var, _, eps = norm.args
    s = insert(at, aten.rsqrt.default, insert(at, aten.add.Scalar, var, eps))
    if weight is not None:
        s = insert(at, aten.mul.Tensor, s, weight)
    t = insert(at, aten.neg.default, insert(at, aten.mul.Tensor, mean, s))
    return s, t if bias is None else insert(at, aten.add.Tensor, t, bias)


def along(at: fx.Node, vector: fx.Node, dim: int, ndim: int) -> fx.Node:
    """View a vector so that it multiplies along one dimension."""
    return insert(at, aten.reshape.default, vector, [-1 if i == dim else 1 for i in range(ndim)])


def linear_args(node: fx.Node) -> list[Any]:
    """Arguments of a linear op, at least ``x, weight, bias``."""
    return [*node.args, None] if len(node.args) < 3 else list(node.args)


def is_linear(node: object, dependent: set[fx.Node]) -> bool:
    """A linear op with constant weight and bias."""
    return isinstance(node, fx.Node) and node.target in LINEAR and not dependent & set(node.all_input_nodes[1:])


def before(norm_out: fx.Node, norm: fx.Node, dependent: set[fx.Node]) -> bool:
    """``bn(linear(x)) -> linear'(x)`` with ``W' = s W`` and ``b' = s b + t``."""
    linear = norm.args[0]
    if not is_linear(linear, dependent) or len(linear.users) != 1:  # type: ignore[union-attr]
        return False
    assert isinstance(linear, fx.Node)
    x, w, b, *rest = linear_args(linear)
    transposed = linear.target in TRANSPOSED
    groups = rest[3] if transposed and len(rest) > 3 else 1
    if groups != 1 or (linear.target is aten.linear.default and len(shape(linear)) != 2):
        return False
    s, t = scale_and_shift(norm_out, norm)
    weight = insert(norm_out, aten.mul.Tensor, w, along(norm_out, s, int(transposed), len(shape(w))))
    bias = t if b is None else insert(norm_out, aten.add.Tensor, insert(norm_out, aten.mul.Tensor, b, s), t)
    new = insert(norm_out, linear.target, x, weight, bias, *rest)
    substitute(norm_out, carry(new, linear))
    new.meta["reads"] = [*linear.meta.pop("reads", []), *new.meta.get("reads", [])]
    dependent.add(new)
    return True


def behind(norm_out: fx.Node, norm: fx.Node, dependent: set[fx.Node]) -> bool:
    """``linear(bn(x)) -> linear'(x)`` with ``W' = W s`` and ``b' = b + W t``."""
    users = list(norm_out.users)
    if not users or not all(is_linear(u, dependent) and u.args[0] is norm_out and foldable(u) for u in users):
        return False
    for user in users:
        _, w, b, *rest = linear_args(user)
        s, t = scale_and_shift(user, norm)
        weight = insert(user, aten.mul.Tensor, w, along(user, s, 1, len(shape(w))))
        moved = insert(user, aten.mul.Tensor, w, along(user, t, 1, len(shape(w))))
        bias = insert(user, aten.sum.dim_IntList, moved, list(range(1, len(shape(w)))))
        if b is not None:
            bias = insert(user, aten.add.Tensor, bias, b)
        new = insert(user, user.target, norm.args[0], weight, bias, *rest)
        substitute(user, carry(new, user))
        dependent.add(new)
    return True


def alone(norm_out: fx.Node, norm: fx.Node) -> bool:
    """``bn(x) -> x s + t``."""
    x, ndim = norm.args[0], len(shape(norm_out))
    s, t = scale_and_shift(norm_out, norm)
    scaled = insert(norm_out, aten.mul.Tensor, x, along(norm_out, s, 1, ndim))
    substitute(norm_out, insert(norm_out, aten.add.Tensor, scaled, along(norm_out, t, 1, ndim)))
    return True


def foldable(linear: fx.Node) -> bool:
    """No padding, one group."""
    if linear.target is aten.linear.default:
        return len(shape(linear)) == 2
    if linear.target in TRANSPOSED:
        return False
    rest = linear_args(linear)[3:]
    padding = rest[1] if len(rest) > 1 else [0]
    groups = rest[3] if len(rest) > 3 else 1
    return groups == 1 and not isinstance(padding, str) and not any(padding)


def carry(new: fx.Node, linear: fx.Node) -> fx.Node:
    """The folded op comes from the linear op, not from the norm."""
    new.meta |= {k: v for k, v in linear.meta.items() if k not in ("val", "tensor_meta", "reads")}
    return new
