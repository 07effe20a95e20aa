"""Ops with a weight, which rules with a pre-activation of their own can serve."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp._torch import tree_flatten
from fxlrp.ir.ops import AFFINE
from fxlrp.ir.program import find_op

aten = torch.ops.aten

WEIGHTED = (
    *AFFINE,
    aten.mm.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.mv.default,
    aten.mul.Tensor,
)
"""Ops of which the second argument is the weight, and the third, if there is one, the bias."""


def refuse_unweighted(node: fx.Node, slots: tuple[int, ...]) -> str:
    """Why an op has no weight that could be split by sign; empty if it has."""
    if find_op(node) not in WEIGHTED or not isinstance(tree_flatten((node.args, node.kwargs))[0][1], fx.Node):
        return "needs a weight, and this op has none; epsilon() is for every op of degree 1"
    if slots != (0,):
        return "needs a fixed weight behind its operand, and here weight or bias depend on the input; use its default"
    return ""
