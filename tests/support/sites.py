"""Sites as the compiler hands them to rules, and what rules make of them."""

from __future__ import annotations

from typing import Any

import torch
from reference import Call
from torch import Tensor
from torch.utils import _pytree as pytree

from fxlrp.ir import numerics
from fxlrp.ir.rule import Facts, Rule, Site

NOTHING = Facts()


def site(call: Call, facts: Facts = NOTHING, out: Tensor | None = None) -> Site:
    """The call as the compiler hands it to a rule."""
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    wide, result = numerics.widen((tuple(leaves), call.out if out is None else out))
    return Site(call.op, wide, spec, call.live, result, facts)


def seed(out: Tensor, number: int = 0) -> Tensor:
    """A coefficient for the output."""
    generator = torch.Generator().manual_seed(number)
    dtype = torch.complex128 if out.is_complex() else torch.float64
    return torch.randn(out.shape, generator=generator, dtype=dtype)


def numbers(parts: tuple[Any, ...], operands: tuple[Tensor, ...]) -> list[Tensor]:
    """Coefficients, or relevances of rules that know no coefficient."""
    return [
        numerics.to_relevance(part, x) if isinstance(part, numerics.Relevance) else part
        for part, x in zip(parts, operands, strict=True)
    ]


def result(rule: Rule, site: Site, c: Tensor) -> list[Tensor]:
    return numbers(rule(site, c), site.operands)


def agree(found: list[Tensor], wanted: Any, tolerance: float = 1e-10) -> None:
    """Equal within the tolerance, relative to the largest entry."""
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * (1e-30 + float(other.abs().amax())))
