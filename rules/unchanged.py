"""Rules that pass relevance on as it is, where an entry of the output has one entry of the input to give it to.

Rules such as flat give relevance to units whose value is 0, where no coefficient stands for it. An element-wise
function hands it to its operand, and a move or a selection to the entry that was moved or selected; a sum has to share
it by what its terms contribute, and does so by a coefficient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten
from fxlrp.ir.closures import recipe_by_name
from fxlrp.ir.numerics import Relevance
from fxlrp.ir.rule import Parts, Rule, Site

Way = Callable[[Site, Tensor], tuple[Tensor, ...]]
Function = Callable[[Site, Tensor], tuple[Tensor, ...]]


def carry_relevance(function: Function, way: Way) -> Callable[[Site, Tensor | Relevance], Parts]:
    """Let the function of a rule take relevance too, which goes its way."""

    @wraps(function)
    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        if not isinstance(c, Relevance):
            return function(site, c)
        rests = way(site, c.rest)
        if not isinstance(c.coefficient, Tensor):
            return tuple(Relevance(c.coefficient, rest) for rest in rests)
        return tuple(Relevance(part, rest) for part, rest in zip(function(site, c.coefficient), rests, strict=True))

    return apply


def move_relevance(site: Site, r: Tensor) -> tuple[Tensor, ...]:
    """Apply the adjoint to relevance; that of complex values is real."""
    return tuple(torch.real(part) for part in site.adjoint(r.to(site.out.dtype)))


def pass_unchanged(function: Function) -> Callable[[Site, Tensor | Relevance], Parts]:
    """Let relevance of the only operand be that of the output, entry by entry."""
    return carry_relevance(function, lambda site, r: (r,))


def pass_moved(function: Function) -> Callable[[Site, Tensor | Relevance], Parts]:
    """Let relevance go where the entry came from, as a coefficient does."""
    return carry_relevance(function, move_relevance)


def relevance_at_output(c: Tensor | Relevance, out: Tensor) -> Tensor:
    """Return relevance at the output, whose value counts as ``out`` where a coefficient stands for relevance."""
    return c.coefficient * out + c.rest if isinstance(c, Relevance) else c * out


def refuse_several(node: fx.Node, slots: tuple[int, ...]) -> str:
    """Say why an op cannot hand relevance to its operand entry by entry; empty if it can."""
    shapes = [n.meta["val"].shape for n in (node, tree_flatten((node.args, node.kwargs))[0][slots[0]])]
    return "" if len(slots) == 1 and shapes[0] == shapes[1] else "hands relevance to one operand, shaped as the output"


def hand_down(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_x = R_y``: relevance goes to the operand as it is, whatever the op does.

    Source: the rule of that name in zennit (Anders et al. 2021).
    """
    return (Relevance(0.0, relevance_at_output(c, site.out)),)


passed = Rule(
    "passed",
    "unchanged",
    hand_down,
    refuses=refuse_several,
    takes_relevance=True,
    recipe=recipe_by_name("fxlrp.rules.unchanged:passed"),
)
"""Hands relevance on unchanged, for element-wise ops that a rule set leaves out of account."""
