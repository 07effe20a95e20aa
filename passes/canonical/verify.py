"""What a canonical graph is."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp._torch import OpOverload
from fxlrp.errors import CaptureError
from fxlrp.ir.program import find_op, is_floating
from fxlrp.ir.provenance import describe
from fxlrp.ir.rule import RULES
from fxlrp.passes.manager import find_input_dependent

aten = torch.ops.aten


def verify_graph(graph: fx.Graph) -> int:
    """Refuse mutation, control flow and random numbers: relevance of these has no meaning here.

    Raises:
        CaptureError: Naming the first such node.
    """
    dependent = find_input_dependent(graph)
    for node in graph.nodes:
        if node.op not in ("placeholder", "call_function", "output"):
            place = next(iter(node.users), node) if node.op == "get_attr" else node
            raise CaptureError(
                f"{node.op} nodes, such as the branches of control flow, are not supported: {describe(place)}\n"
                "Export the branch that is taken, or use torch.where."
            )
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            raise CaptureError(f"an in-place op survived decomposition: {describe(node)}")
        if is_random(node) and any(n in dependent and is_floating(n) for n in node.all_input_nodes):
            raise CaptureError(
                f"random numbers are drawn for the input: {describe(node)}\n"
                "Another call would differ. Call model.eval(), use the mean, or add noise of torch.randn_like."
            )
    return 0


def is_random(node: fx.Node) -> bool:
    """An op that draws random numbers and has no rule of its own, or attention with dropout."""
    op = find_op(node)
    if op is aten.scaled_dot_product_attention.default:
        dropout: Any = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return bool(dropout > 0)
    return isinstance(op, OpOverload) and torch.Tag.nondeterministic_seeded in op.tags and op not in RULES
