"""Weights in the order in which the processor multiplies by them.

A product of two matrices begins by copying both into such an order; the copy of a weight can be made once.
oneDNN multiplies by such copies with the widest instructions of every processor, which MKL, torch's choice for plain
weights, does on processors of one maker only.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.backends.constants import HINT_ARGUMENTS, find_constant_nodes
from fxlrp.backends.geometry import has_several_rows

aten = torch.ops.aten

torch.library.define("fxlrp::pack", "(Tensor weight, int rows) -> Tensor")
torch.library.define("fxlrp::packed_product", "(Tensor x, Tensor packed, Tensor? bias=None) -> Tensor")
PACK = torch.ops.fxlrp.pack.default
PRODUCT = torch.ops.fxlrp.packed_product.default
HINT_ARGUMENTS[PACK] = 1  # rows: oneDNN reads any packing right, and reorders one that suits it less


@torch.library.impl("fxlrp::pack", "cpu")
def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """Pack a weight as products with so many rows need it: a tensor that only `multiply_packed` can read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.t(), rows)
    return packed


@torch.library.impl("fxlrp::packed_product", ("cpu", "MkldnnCPU"))
def multiply_packed(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight + bias``."""
    if bias is not None:
        bias = bias.contiguous()  # oneDNN reads it as if it were
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


@torch.library.register_fake("fxlrp::packed_product")  # type: ignore[untyped-decorator]
def _(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


class PackedWeights:
    """The packed weights of a graph, each made once.

    Attributes:
        fixed: What is the same at every call.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.fixed = find_constant_nodes(graph)
        self._made: dict[Hashable, fx.Node] = {}

    def __call__(self, pack: OpOverload, weight: fx.Node, *layout: Any) -> fx.Node:
        """Return the weight packed by an op for a layout."""
        key = pack, weight, repr(layout)
        if key not in self._made:
            with weight.graph.inserting_after(weight):
                self._made[key] = weight.graph.call_function(pack, (weight, *layout))
            self._made[key].meta = dict(weight.meta)
        return self._made[key]


def replace_call(node: fx.Node, op: OpOverload, args: tuple[Any, ...]) -> None:
    """Call another op in the place of a node."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(op, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def pack_weights(graph: fx.Graph) -> int:
    """Multiply by packed weights where a product on the CPU has one; return how many there are."""
    packed = PackedWeights(graph)
    products = [
        n for op in (aten.mm.default, aten.addmm.default) for n in graph.find_nodes(op="call_function", target=op)
    ]
    suitable = [node for node in products if is_suitable(node, packed.fixed)]
    for node in suitable:
        *bias, x, weight = node.all_input_nodes
        replace_call(node, PRODUCT, (x, packed(PACK, weight, x.meta["val"].shape[0]), *bias))
    return len(suitable)


def is_suitable(node: fx.Node, fixed: Container[fx.Node]) -> bool:
    """Whether it is a product of several rows with a weight, on the CPU."""
    operands = node.all_input_nodes
    if len(operands) != len(node.args) or node.kwargs or operands[-1] not in fixed or operands[-2] in fixed:
        return False
    values = [operand.meta["val"] for operand in operands]
    *bias, x, weight = values
    return (
        is_packable(values) and has_several_rows(x.shape[0], weight) and all(v.shape == weight.shape[1:] for v in bias)
    )


def is_packable(values: Sequence[Tensor]) -> bool:
    """Whether oneDNN packs such operands: all of float32, or of bfloat16 where the processor has it, on an x86 CPU."""
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")  # others were not measured
    if not x86 or any(v.device.type != "cpu" for v in values) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    dtypes = {v.dtype for v in values}
    return dtypes == {torch.float32} or (dtypes == {torch.bfloat16} and torch.ops.mkldnn._is_mkldnn_bf16_supported())
