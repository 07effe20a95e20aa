"""Floating point numbers that an op makes of whole ones or of nothing, which have the default type of whoever runs it.

In a graph that others run, that type is the one it was traced with.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.ir.ops import name_arguments

aten = torch.ops.aten


def spell_types(graph: fx.Graph) -> int:
    """Write the type into every such op, or convert what it takes; return how many there are."""
    found = [node for node in graph.nodes if has_default_type(node)]
    for node in found:
        dtype = node.meta["val"].dtype
        if "dtype" in name_arguments(node):
            node.update_kwarg("dtype", dtype)
        elif node.target in CONDITIONAL_OPS:
            convert_result(graph, node, dtype)
        else:
            with graph.inserting_before(node):
                for x in node.all_input_nodes:
                    if isinstance(x.meta.get("val"), Tensor):
                        node.replace_input_with(x, graph.call_function(aten._to_copy.default, (x,), {"dtype": dtype}))
    return len(found)


CONDITIONAL_OPS = {aten.where.Scalar}
"""Ops whose tensor is a condition, and stays one."""


def convert_result(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    """Convert the result of an op."""
    with graph.inserting_after(node):
        result = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def has_default_type(node: fx.Node) -> bool:
    """Return whether an op's type is said neither by its operands nor by its arguments."""
    op, value = node.target, node.meta.get("val")
    if not isinstance(op, OpOverload) or op.namespace != "aten" or not has_fractions(value):
        return False
    given = name_arguments(node).get("dtype") is not None
    return not given and not any(has_fractions(x.meta.get("val")) for x in node.all_input_nodes)


def has_fractions(value: object) -> bool:
    """Return whether it is a tensor of numbers with fractions, real or complex."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
