"""What a canonical graph is."""

from __future__ import annotations

from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.ir.ops import is_mutable, is_random
from fxlrp.ir.program import find_op, is_floating
from fxlrp.ir.provenance import describe
from fxlrp.ir.rule import RULES
from fxlrp.passes.manager import find_input_dependent


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
        if is_mutable(node.target):
            raise CaptureError(f"an in-place op survived decomposition: {describe(node)}")
        given = [n for n in node.all_input_nodes if n in dependent and is_floating(n)]
        if given and is_random(node) and not ignores_operands(node):
            raise CaptureError(
                f"random numbers are drawn for the input: {describe(node)}\n"
                "Another call would differ. Call model.eval(), use the mean, or add noise of torch.randn_like."
            )
    return 0


def ignores_operands(node: fx.Node) -> bool:
    """Whether an op makes no use of the values of its operands, as noise in the shape of an input does not."""
    rule = RULES.get(find_op(node))
    return rule is not None and rule.stops
