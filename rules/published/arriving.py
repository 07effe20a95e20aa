"""Relevance that arrives at an op, for rules that share it without a coefficient."""

from __future__ import annotations

from torch import Tensor

from fxlrp.ir.numerics import Relevance, to_relevance
from fxlrp.ir.rule import Site


def find_arriving(site: Site, c: Tensor | Relevance) -> Tensor:
    """Return the relevance of the output; 0 where that is infinite, as masked logits are, and has a coefficient."""
    if isinstance(c, Relevance) and not isinstance(c.coefficient, Tensor) and c.coefficient == 0:
        return c.rest
    return to_relevance(c, site.out)
