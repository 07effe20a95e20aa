"""What a canonical graph is."""

from __future__ import annotations

from torch import fx

from fxlrp._torch import OpOverload
from fxlrp.errors import CaptureError
from fxlrp.provenance import describe


def verify(graph: fx.Graph) -> int:
    """Refuse mutation, control flow and random numbers: relevance of these has no meaning here.

    Raises:
        CaptureError: Naming the first such node.
    """
    for node in graph.nodes:
        if node.op not in ("placeholder", "call_function", "output"):
            raise CaptureError(
                f"{node.op} nodes, such as the branches of control flow, are not supported: "
                f"{describe(next(iter(node.users), node))}\n"
                "Export the branch that is taken, or use torch.where."
            )
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            raise CaptureError(f"an in-place op survived decomposition: {describe(node)}")
        if "dropout" in str(node.target):
            raise CaptureError(f"dropout is active: {describe(node)}\nExport the model after model.eval().")
    return 0
