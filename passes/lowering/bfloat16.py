"""Matrix products of the relevance pass on bfloat16 numbers, which many processors multiply several times as fast."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload, tree_map_only
from fxlrp.ir.provenance import find_role
from fxlrp.passes.manager import Pass

aten = torch.ops.aten

PRODUCTS: frozenset[OpOverload] = frozenset(
    {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.convolution.default, aten.convolution_backward.default}
)


def round_products(graph: fx.Graph) -> int:
    """Round the float32 operands of products outside the forward pass; all other arithmetic stays in float32.

    Processors add such products up in float32 and round the sum. Weights are rounded once and not at each call.
    """
    rounded: dict[fx.Node, fx.Node] = {}
    hits = 0
    for node in list(graph.nodes):
        if node.target in PRODUCTS and find_role(node) not in ("", "forward") and is_single(node):
            for operand in node.all_input_nodes:
                if operand not in rounded:
                    rounded[operand] = narrow_operand(operand, node)
                node.replace_input_with(operand, rounded[operand])
            widen_result(node)
            hits += 1
    return hits


def is_single(node: fx.Node) -> bool:
    """Whether all operands are of float32."""
    tensors = [n.meta["val"] for n in node.all_input_nodes]
    return all(isinstance(t, Tensor) and t.dtype is torch.float32 for t in tensors)


def narrow_operand(operand: fx.Node, before: fx.Node) -> fx.Node:
    """Return the operand in bfloat16: what it was widened from, or a copy."""
    origin = operand.args[0] if operand.target is aten._to_copy.default else None
    if isinstance(origin, fx.Node) and origin.meta["val"].dtype is torch.bfloat16:
        return origin
    with before.graph.inserting_before(before):
        return insert_cast(operand, torch.bfloat16, before)


def widen_result(node: fx.Node) -> None:
    """Give what uses the result of a rounded product that result in float32."""
    node.meta["val"] = tree_map_only(Tensor, lambda t: cast_fake(t, torch.bfloat16), node.meta["val"])
    for value in [user for user in node.users if user.target is operator.getitem] or [node]:
        value.meta["val"] = cast_fake(value.meta["val"], torch.bfloat16)
        users = list(value.users)
        with node.graph.inserting_after(value):
            wide = insert_cast(value, torch.float32, node)
        for user in users:
            user.replace_input_with(value, wide)


def insert_cast(x: fx.Node, dtype: torch.dtype, origin: fx.Node) -> fx.Node:
    """Insert a copy in another dtype, which comes from where ``origin`` comes from."""
    new = x.graph.call_function(aten._to_copy.default, (x,), {"dtype": dtype})
    new.meta = {k: v for k, v in origin.meta.items() if k not in ("val", "tensor_meta", "reads")}
    new.meta["val"] = cast_fake(x.meta["val"], dtype)
    return new


def cast_fake(fake: Any, dtype: torch.dtype) -> Any:
    """Cast a fake tensor to another dtype."""
    with fake.fake_mode:
        return fake.to(dtype)


PRECISION: Mapping[str | None, Sequence[tuple[str, Pass]]] = {
    None: (),
    "bfloat16": (("round products", round_products),),
}
"""What is done to the products of the relevance pass, by the name of the option."""
