"""Give every op on the path one tensor output."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxlrp._torch import OpOverload
from fxlrp.ir.ops import name_arguments
from fxlrp.ir.program import OneOutput, is_floating
from fxlrp.passes.canonical.batch_norm import BATCH_NORM
from fxlrp.passes.manager import insert, shape_of, substitute

aten = torch.ops.aten

Opener = Callable[[fx.Node, int, dict[str, Any]], "fx.Node | None"]


def open_piece(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write pieces of ``split`` and ``unbind`` as slices and selections."""
    x, dim = args["self"], args["dim"]
    if node.target in (aten.unbind.int, aten.unbind_copy.int):
        return insert(node, aten.select.int, x, dim, index)
    sizes = [part.shape[dim] for part in node.meta["val"]]
    start = sum(sizes[:index])
    return insert(node, aten.slice.Tensor, x, dim, start, start + sizes[index])


def open_selection(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node | None:
    """Gather the values of ``topk``, ``sort``, ``max`` ... at the winning positions."""
    if index != 0:
        return None
    x, dim, keepdim = args["self"], args["dim"], args.get("keepdim", True)
    positions = insert(node, operator.getitem, node, 1)
    positions.meta["val"] = node.meta["val"][1]
    node.append(positions)
    wide = positions if keepdim else insert_after(positions, aten.unsqueeze.default, positions, dim)
    picked = insert_after(wide, aten.gather.default, x, dim, wide)
    return picked if keepdim else insert_after(picked, aten.squeeze.dims, picked, [dim])


def open_pool(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node | None:
    """Write max pooling of which only the values are wanted."""
    return insert(node, WITHOUT_POSITIONS[node.target], *args.values()) if index == 0 else None


def open_adaptive_pool(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node | None:
    """Gather the values of adaptive max pooling at the winning positions of the flattened plane."""
    if index != 0:
        return None
    x, size = args["self"], args["output_size"]
    positions = insert(node, operator.getitem, node, 1)
    positions.meta["val"] = node.meta["val"][1]
    node.append(positions)
    plane = insert_after(positions, aten.flatten.using_ints, x, -len(size), -1)
    winners = insert_after(plane, aten.flatten.using_ints, positions, -len(size), -1)
    picked = insert_after(winners, aten.gather.default, plane, -1, winners)
    return insert_after(picked, aten.unflatten.int, picked, -1, size)


def insert_after(previous: fx.Node, op: Any, *args: Any) -> fx.Node:
    """Insert a call right behind a node."""
    new = insert(previous, op, *args)
    previous.append(new)
    return new


def open_variance(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write ``var_mean`` as a variance and a mean."""
    if index == 0:
        return insert(
            node,
            aten.var.correction,
            args["self"],
            args["dim"],
            correction=args["correction"],
            keepdim=args["keepdim"],
        )
    return insert(
        node,
        aten.mean.dim,
        args["self"],
        args["dim"] or list(range(len(shape_of(args["self"])))),
        args["keepdim"],
    )


WITHOUT_POSITIONS: dict[Any, Any] = {
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    aten.max_pool3d_with_indices.default: aten.max_pool3d.default,
}


def open_layer_norm(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write the norm itself; its mean and inverse deviation have no derivative in torch."""
    x, dims = args["input"], list(args["normalized_shape"])
    if index == 0:
        return insert(node, aten.layer_norm.default, x, dims, args["weight"], args["bias"], args["eps"])
    return insert(
        node, aten.detach.default, insert_statistic(node, index, x, list(range(-len(dims), 0)), True, args["eps"])
    )


def open_group_norm(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write the norm itself, or its mean or inverse deviation."""
    x, groups = args["input"], args["group"]
    if index == 0:
        return insert(node, aten.group_norm.default, x, groups, args["weight"], args["bias"], args["eps"])
    grouped = insert(node, aten.unflatten.int, x, 1, [groups, -1])
    return insert_statistic(node, index, grouped, list(range(2, len(shape_of(grouped)))), False, args["eps"])


def insert_statistic(node: fx.Node, index: int, x: fx.Node, dims: list[int], keepdim: bool, eps: float) -> fx.Node:
    """Insert the mean (output 1) or inverse deviation (output 2) of a norm."""
    if index == 1:
        return insert(node, aten.mean.dim, x, dims, keepdim)
    variance = insert(node, aten.var.correction, x, dims, correction=0, keepdim=keepdim)
    return insert(node, aten.rsqrt.default, insert(node, aten.add.Scalar, variance, eps))


def open_batch_norm(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node | None:
    """Write the statistics of the batch, empty in evaluation mode; the norm itself is folded later."""
    return None if index == 0 else insert(node, aten.new_zeros.default, args["input"], list(shape_of(node)))


def open_embedding_bag(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write the form of the lookup that has a derivative."""
    args["indices"] = insert(node, aten.repeat.default, args["indices"], [1])  # the op insists on contiguous memory
    return insert(node, OneOutput(aten._embedding_bag.default, index), *args.values())


def open_leaky_relu(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node:
    """Write a randomised ReLU with the mean of its slopes, which is evaluation mode; training is refused later."""
    if args["training"]:
        return insert(node, OneOutput(aten.rrelu_with_noise_functional.default, index), *node.args, **node.kwargs)
    if index == 0:
        return insert(node, aten.leaky_relu.default, args["self"], (args["lower"] + args["upper"]) / 2)
    return args["noise"]  # type: ignore[no-any-return]


def open_other(node: fx.Node, index: int, args: dict[str, Any]) -> fx.Node | None:
    """Write the call of any other op again, with one output."""
    assert isinstance(node.target, OpOverload)
    return insert(node, OneOutput(node.target, index), *node.args, **node.kwargs)


OPENERS: dict[Any, Opener] = {
    aten.split.Tensor: open_piece,
    aten.split_with_sizes.default: open_piece,
    aten.unbind.int: open_piece,
    aten.unbind_copy.int: open_piece,
    aten.topk.default: open_selection,
    aten.sort.default: open_selection,
    aten.sort.stable: open_selection,
    aten.max.dim: open_selection,
    aten.min.dim: open_selection,
    aten.median.dim: open_selection,
    aten.nanmedian.dim: open_selection,
    aten.mode.default: open_selection,
    aten.kthvalue.default: open_selection,
    aten.cummax.default: open_selection,
    aten.cummin.default: open_selection,
    aten.var_mean.correction: open_variance,
    aten.adaptive_max_pool2d.default: open_adaptive_pool,
    aten.adaptive_max_pool3d.default: open_adaptive_pool,
    **dict.fromkeys(WITHOUT_POSITIONS, open_pool),
    aten.native_layer_norm.default: open_layer_norm,
    aten.native_group_norm.default: open_group_norm,
    BATCH_NORM: open_batch_norm,
    aten._embedding_bag_forward_only.default: open_embedding_bag,
    aten.rrelu_with_noise_functional.default: open_leaky_relu,
}


def open_outputs(graph: fx.Graph) -> int:
    """Rewrite ``getitem(op(x), i)`` to an op with one output."""
    hits = 0
    for node in list(graph.nodes):
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or not isinstance(source.target, OpOverload) or not is_floating(node):
            continue
        open_it = OPENERS.get(source.target, open_other)
        new = open_it(source, node.args[1], name_arguments(source))
        if new is not None:
            substitute(node, new)
            hits += 1
    return hits
