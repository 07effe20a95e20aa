"""Filters of convolutions in the order in which oneDNN multiplies by them, and images with channels last.

A convolution of images on the CPU begins by copying its operands into such orders, and ends by copying its
result back. The copy of the filters can be made once, and images can stay as they are from one op to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.backends.constants import HINT_ARGUMENTS
from fxlrp.backends.geometry import Sizes, is_ordinary
from fxlrp.backends.packed_weights import PackedWeights, is_packable, replace_call

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
CHANNELS_LAST = torch.channels_last

LAYOUT_SCHEMA = "int[] stride, int[] padding, int[] dilation, int groups"
torch.library.define("fxlrp::pack_filters", f"(Tensor weight, int[] size, {LAYOUT_SCHEMA}) -> Tensor")
torch.library.define("fxlrp::pack_adjoint", f"(Tensor weight, int[] size, {LAYOUT_SCHEMA}) -> Tensor")
torch.library.define("fxlrp::convolution", f"(Tensor x, Tensor packed, Tensor? bias, {LAYOUT_SCHEMA}) -> Tensor")
torch.library.define("fxlrp::convolution_adjoint", f"(Tensor c, Tensor x, Tensor packed, {LAYOUT_SCHEMA}) -> Tensor")
PACK, PACK_ADJOINT = torch.ops.fxlrp.pack_filters.default, torch.ops.fxlrp.pack_adjoint.default
HINT_ARGUMENTS.update({PACK: 1, PACK_ADJOINT: 1})  # sizes of images
CONVOLUTION, ADJOINT = torch.ops.fxlrp.convolution.default, torch.ops.fxlrp.convolution_adjoint.default


@torch.library.impl("fxlrp::pack_filters", "cpu")
def pack_filters(weight: Tensor, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
    """Pack filters as images of a size need them: a tensor that only `convolve_packed` can read."""
    packed: Tensor = mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, size)
    return packed


@torch.library.impl("fxlrp::pack_adjoint", "cpu")
def pack_adjoint(weight: Tensor, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
    """Pack filters as coefficients of a size need them: a tensor that only `apply_packed_adjoint` can read."""
    packed: Tensor = mkldnn._reorder_convolution_transpose_weight(
        weight, padding, [0, 0], stride, dilation, groups, size
    )
    return packed


@torch.library.impl("fxlrp::convolution", ("cpu", "MkldnnCPU"))
def convolve_packed(
    x: Tensor, packed: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Convolve images."""
    x = x.contiguous(memory_format=CHANNELS_LAST)
    if bias is not None:
        bias = bias.contiguous()  # oneDNN reads it as if it were
    y: Tensor = mkldnn._convolution_pointwise(x, packed, bias, padding, stride, dilation, groups, "none", [], "")
    return y


@torch.library.impl("fxlrp::convolution_adjoint", ("cpu", "MkldnnCPU"))
def apply_packed_adjoint(
    c: Tensor, x: Tensor, packed: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Return its vector-Jacobian product with respect to ``x``, of which only the shape counts."""
    c = c.contiguous(memory_format=CHANNELS_LAST)
    reached = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(c.shape[2:], stride, padding, dilation, packed.shape[2:], strict=True)
    ]
    rest = [n - m for n, m in zip(x.shape[2:], reached, strict=True)]
    y: Tensor = mkldnn._convolution_transpose_pointwise(
        c, packed, None, padding, rest, stride, dilation, groups, "none", [], ""
    )
    return y


@torch.library.register_fake("fxlrp::convolution")  # type: ignore[untyped-decorator]
def _(
    x: Tensor, packed: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    y: Tensor = aten.convolution.default(x, packed, bias, stride, padding, dilation, False, [0, 0], groups)
    return y.contiguous(memory_format=CHANNELS_LAST)


@torch.library.register_fake("fxlrp::convolution_adjoint")  # type: ignore[untyped-decorator]
def _(c: Tensor, x: Tensor, packed: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Tensor:
    return torch.empty_like(x, memory_format=CHANNELS_LAST)


def pack_convolutions(graph: fx.Graph) -> int:
    """Use packed filters in convolutions and their adjoints where they are weights; return how many those are."""
    packed = PackedWeights(graph)
    hits = replace_convolutions(graph, packed) + replace_adjoints(graph, packed)
    if hits:
        return_contiguous(graph)
    return hits


def pack_if_suitable(
    packed: PackedWeights, pack: OpOverload, weight: fx.Node, x: fx.Node, y: fx.Node, rest: Sequence[Any]
) -> Any:
    """Pack filters as the convolution of ``x`` to ``y``, or its adjoint, needs them; return its layout, too.

    None if they are no weights, or the convolution is not one for packed kernels.
    """
    stride, padding, dilation, transposed, _, groups = rest
    before, after, own = (node.meta["val"] for node in (x, y, weight))
    suitable = not transposed and is_ordinary(before, after, own, stride, padding, dilation)
    if weight not in packed.fixed or not suitable or not is_packable([before, after, own]):
        return None
    layout = stride, padding, dilation, groups
    size = (before if pack is PACK else after).shape
    return packed(pack, weight, list(size), *layout), *layout


def replace_convolutions(graph: fx.Graph, packed: PackedWeights) -> int:
    """Convolve with packed filters."""
    hits = 0
    for node in graph.find_nodes(op="call_function", target=aten.convolution.default):
        x, weight, bias, *rest = node.args
        if found := pack_if_suitable(packed, PACK, weight, x, node, rest):
            own, *layout = found
            replace_call(node, CONVOLUTION, (x, own, bias, *layout))
            hits += 1
    return hits


def replace_adjoints(graph: fx.Graph, packed: PackedWeights) -> int:
    """Take the adjoint with packed filters, where it is of the image alone."""
    hits = 0
    for node in graph.find_nodes(op="call_function", target=aten.convolution_backward.default):
        c, x, weight, _, *rest, mask = node.args
        if list(mask) == [True, False, False] and (found := pack_if_suitable(packed, PACK_ADJOINT, weight, x, c, rest)):
            own, *layout = found
            for part in list(node.users):
                replace_call(part, ADJOINT, (c, x, own, *layout))
            graph.erase_node(node)
            hits += 1
    return hits


def return_contiguous(graph: fx.Graph) -> None:
    """Return values in the order of memory that the model would."""
    end = graph.output_node()
    for node in end.all_input_nodes:
        x = node.meta["val"]
        static = isinstance(x, Tensor) and all(isinstance(n, int) for n in x.shape)
        if static and x.ndim > 1 and x.is_contiguous():
            with graph.inserting_before(end):
                copy = graph.call_function(aten.contiguous.default, (node,))
            copy.meta = dict(node.meta)
            end.replace_input_with(node, copy)
