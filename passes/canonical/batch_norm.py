"""Fold evaluation-mode batch norm into the neighbouring linear op, or write it as a product and a sum."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import AFFINE, TRANSPOSED_CONVOLUTIONS, name_arguments
from fxlrp.ir.program import MergedNorm
from fxlrp.ir.provenance import find_modules, module_path
from fxlrp.passes.manager import META_OF_VALUE, find_input_dependent, insert, shape_of, substitute

aten = torch.ops.aten

BATCH_NORM = aten._native_batch_norm_legit_no_training.default


def fold_batch_norm(graph: fx.Graph) -> int:
    """Fold ``bn(linear(x))`` and ``linear(bn(x))`` into one linear op with weights computed in the graph.

    Without such a neighbour ``bn(x)`` becomes ``x s + t``, and says why in ``meta["apart"]``. A linear op before the
    norm must feed nothing else. A convolution behind the norm must not pad: its zeros would have to be shifted too. The
    norm is along dimension 1, which must be that of the channels: it is not where an image has no batch dimension, nor
    behind a linear layer on sequences.

    What reads, starts or masks relevance at the linear op before the norm means that op's own output, and finds the
    norm in ``meta["merged"]`` of the merged op. A norm before the linear op is in its ``meta["fronted"]``.
    """
    dependent, found = find_input_dependent(graph), list_norms(graph)
    for node, norm in found:
        if not (apart := find_obstacle_before(norm, dependent)):
            merge_before(node, norm, dependent)
        elif not (also := find_obstacle_behind(node, norm, dependent)):
            merge_behind(node, norm, dependent)
        else:
            write_alone(node, norm, f"{apart}; {also}")
    return len(found)


def separate_batch_norm(graph: fx.Graph) -> int:
    """Write every ``bn(x)`` as ``x s + t``, whatever is beside it."""
    found = list_norms(graph)
    for node, norm in found:
        write_alone(node, norm, "the rule set keeps it apart")
    return len(found)


def list_norms(graph: fx.Graph) -> list[tuple[fx.Node, Any]]:
    """List the outputs of norms in evaluation mode, each with its norm."""
    return [
        (node, node.args[0])
        for node in graph.nodes
        if node.target is operator.getitem and node.args[1] == 0 and node.args[0].target is BATCH_NORM
    ]


def find_obstacle_before(norm: fx.Node, dependent: set[fx.Node]) -> str:
    """Say why a norm cannot be merged into what it norms; empty if it can."""
    linear = norm.args[0]
    if dependent.intersection(norm.all_input_nodes[1:]):
        return "its statistics or weights depend on an input"
    if not is_constant_linear(linear, dependent):
        return "no linear op with constant weights is before it"
    assert isinstance(linear, fx.Node)
    if len(linear.users) != 1:
        return f"{linear.name} before it feeds other ops too"
    return "" if has_channels(linear) else f"{linear.name} before it has its channels in another dimension"


def find_obstacle_behind(norm_out: fx.Node, norm: fx.Node, dependent: set[fx.Node]) -> str:
    """Say why a norm cannot be merged into the ops that take its output; empty if it can."""
    users = list(norm_out.users)
    if dependent.intersection(norm.all_input_nodes[1:]):
        return "its statistics or weights depend on an input"
    if not users or not all(is_constant_linear(u, dependent) and name_arguments(u)["input"] is norm_out for u in users):
        return "not only linear ops with constant weights take its output"
    for user in users:
        if is_transposed(user) or has_padding(user):
            return f"{user.name} behind it {'is transposed' if is_transposed(user) else 'pads'}"
        if not has_channels(user):
            return f"{user.name} behind it has its channels in another dimension"
    return ""


def is_constant_linear(node: object, dependent: set[fx.Node]) -> bool:
    """Whether it is a linear op with constant weight and bias."""
    if not isinstance(node, fx.Node) or node.target not in AFFINE:
        return False
    args = name_arguments(node)
    return args["weight"] not in dependent and args["bias"] not in dependent


def has_channels(linear: fx.Node) -> bool:
    """Whether dimension 1 of input and output is that of the channels: they have as many dimensions as the weight."""
    return len(shape_of(linear)) == len(shape_of(name_arguments(linear)["weight"]))


def is_transposed(linear: fx.Node) -> bool:
    """Whether a convolution is transposed, so that its weight has its inputs first."""
    return linear.target in TRANSPOSED_CONVOLUTIONS or bool(name_arguments(linear).get("transposed", False))


def has_padding(linear: fx.Node) -> bool:
    """Whether a convolution adds zeros around its input."""
    args = name_arguments(linear)
    padding: Any = args.get("padding", 0)
    if padding == "same":
        return any(n != 1 for n in shape_of(args["weight"])[2:])
    return padding != "valid" and any([padding] if isinstance(padding, int) else padding)


def insert_scale_and_shift(at: fx.Node, norm: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Insert the norm's affine map, in float32 or better: ``s = w / sqrt(var + eps)``, ``t = b - mean * s``."""
    *tensors, _, eps = norm.args[1:]
    weight, bias, mean, var = (None if x is None else insert_wide(at, x) for x in tensors)
    s = insert(at, aten.rsqrt.default, insert(at, aten.add.Scalar, var, eps))
    if weight is not None:
        s = insert(at, aten.mul.Tensor, s, weight)
    t = insert(at, aten.neg.default, insert(at, aten.mul.Tensor, mean, s))
    return s, t if bias is None else insert(at, aten.add.Tensor, t, bias)


def insert_wide(at: fx.Node, x: Any) -> fx.Node:
    """Insert a cast to float32 or better, as torch computes norms in."""
    return insert_cast(at, x, torch.promote_types(x.meta["val"].dtype, torch.float32))


def insert_cast(at: fx.Node, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    """Insert a cast to a dtype, unless it has it."""
    return x if x.meta["val"].dtype is dtype else insert(at, aten._to_copy.default, x, dtype=dtype)


def insert_channel_view(at: fx.Node, vector: fx.Node, ndim: int) -> fx.Node:
    """View a vector of channels so that it multiplies along dimension 1."""
    return insert(at, aten.reshape.default, vector, [-1 if i == 1 else 1 for i in range(ndim)])


def insert_weight_factor(at: fx.Node, vector: fx.Node, linear: fx.Node, dim: int) -> fx.Node:
    """View a vector of channels so that it multiplies a weight along one of its first two dimensions.

    Dimension 0 of a weight has all channels on its side of the op; dimension 1 has those of one group, of which the
    group is told by the place in dimension 0.
    """
    args = name_arguments(linear)
    rows, columns, *kernel = shape_of(args["weight"])
    groups = args.get("groups", 1)
    if dim == 1 and groups != 1:
        apart = insert(at, aten.reshape.default, vector, [groups, 1, columns])
        vector = insert(at, aten.expand.default, apart, [groups, rows // groups, columns])
    sizes = [-1, 1] if dim == 0 else [1 if groups == 1 else rows, columns]
    return insert(at, aten.reshape.default, vector, [*sizes, *(1 for _ in kernel)])


def merge_before(norm_out: fx.Node, norm: fx.Node, dependent: set[fx.Node]) -> None:
    """Write ``bn(linear(x))`` as ``linear'(x)`` with ``W' = s W`` and ``b' = s b + t``."""
    linear: Any = norm.args[0]
    args = name_arguments(linear)
    s, t = insert_scale_and_shift(norm_out, norm)
    scaled = insert_weight_factor(norm_out, s, linear, int(is_transposed(linear)))
    weight = insert(norm_out, aten.mul.Tensor, insert_wide(norm_out, args["weight"]), scaled)
    bias = t
    if args["bias"] is not None:
        bias = insert(
            norm_out, aten.add.Tensor, insert(norm_out, aten.mul.Tensor, insert_wide(norm_out, args["bias"]), s), t
        )
    new = insert_with_weights(norm_out, linear, args["input"], weight, bias)
    merged = MergedNorm(s, t, tuple(linear.meta.pop("reads", [])), *find_origin(norm))
    substitute(norm_out, new)
    new.meta["merged"] = (*linear.meta.get("merged", ()), merged)
    dependent.add(new)


def merge_behind(norm_out: fx.Node, norm: fx.Node, dependent: set[fx.Node]) -> None:
    """Write ``linear(bn(x))`` as ``linear'(x)`` with ``W' = W s`` and ``b' = b + W t``."""
    reads = tuple(norm_out.meta.get("reads", ()))
    for user in list(norm_out.users):
        args = name_arguments(user)
        s, t = insert_scale_and_shift(user, norm)
        w = insert_wide(user, args["weight"])
        weight = insert(user, aten.mul.Tensor, w, insert_weight_factor(user, s, user, 1))
        moved = insert(user, aten.mul.Tensor, w, insert_weight_factor(user, t, user, 1))
        bias = insert(user, aten.sum.dim_IntList, moved, list(range(1, len(shape_of(w)))))
        if args["bias"] is not None:
            bias = insert(user, aten.add.Tensor, bias, args["bias"])
        new = insert_with_weights(user, user, norm.args[0], weight, bias)
        new.meta["fronted"] = (*user.meta.get("fronted", ()), MergedNorm(s, t, reads, *find_origin(norm)))
        substitute(user, new)
        dependent.add(new)


def write_alone(norm_out: fx.Node, norm: fx.Node, why: str) -> None:
    """Write ``bn(x)`` as ``x s + t``."""
    x, ndim = norm.args[0], len(shape_of(norm_out))
    s, t = insert_scale_and_shift(norm_out, norm)
    scaled = insert(norm_out, aten.mul.Tensor, x, insert_channel_view(norm_out, s, ndim))
    shifted = insert(norm_out, aten.add.Tensor, scaled, insert_channel_view(norm_out, t, ndim))
    new = insert_cast(norm_out, shifted, norm_out.meta["val"].dtype)
    substitute(norm_out, new)
    name = find_origin(norm)[1]
    new.meta["apart"] = (name, why)
    for part in (scaled, shifted, new):
        part.meta["norm"] = name


def insert_with_weights(at: fx.Node, linear: fx.Node, x: Any, weight: fx.Node, bias: fx.Node) -> fx.Node:
    """Insert the linear op with other weights, in their old dtype; it comes from where the op does, not the norm."""
    dtype = name_arguments(linear)["weight"].meta["val"].dtype
    kwargs = {name: arg for name, arg in linear.kwargs.items() if name not in ("input", "weight", "bias")}
    new = insert(
        at, linear.target, x, insert_cast(at, weight, dtype), insert_cast(at, bias, dtype), *linear.args[3:], **kwargs
    )
    new.meta |= {k: v for k, v in linear.meta.items() if k not in META_OF_VALUE}
    for kept in ("merged", "fronted"):
        new.meta |= {kept: linear.meta[kept]} if kept in linear.meta else {}
    return new


def find_origin(norm: fx.Node) -> tuple[frozenset[str], str]:
    """Find the module calls that a norm runs in, and its name."""
    return frozenset(find_modules(norm)), module_path(norm) or norm.name
