"""What a rule has to return."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxlrp.errors import RuleError
from fxlrp.ir import numerics
from fxlrp.ir.provenance import describe
from fxlrp.ir.rule import Rule, Site


def check_parts(node: fx.Node, rule: Rule, site: Site, parts: object) -> None:
    """Refuse what is not one result per operand, shaped as it."""
    shapes = [describe_shape(part) for part in parts] if isinstance(parts, (tuple, list)) else describe_shape(parts)
    wanted = [describe_shape(x) for x in site.operands]
    if shapes != wanted:
        raise RuleError(
            f"rule {rule} returned shapes {shapes} for operands of shapes {wanted}\n  at {describe(node)}\n"
            "A rule returns a tuple with one coefficient per operand, each shaped as its operand."
        )


def describe_shape(part: object) -> Any:
    """Return the shape of a coefficient; of anything else the name of its type."""
    tensor = part.rest if isinstance(part, numerics.Relevance) else part
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
