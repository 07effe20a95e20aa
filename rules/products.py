"""Products of k operands are homogeneous of degree k, quotients of degree 0."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from fxlrp.numerics import stabilise
from fxlrp.registry import Site, rule

aten = torch.ops.aten


@rule(aten.mul.Tensor, aten.matmul.default, aten.bmm.default, aten.mm.default, aten.mv.default, aten.dot.default)
def product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_i = J_i^T c / k``: each of k live factors takes the same part; one live factor takes all.

    In invariant mode the shares count all factors of a chain of products.
    Source: Achtibat et al. 2024, propositions 3.2 and 3.3; You et al. 2025 on the dependence on association.
    """
    k = len(site.operands)
    shares = site.facts.shares or (1 / k,) * k
    return tuple(part * share for part, share in zip(site.adjoint(c), shares, strict=True))


@rule(aten.addmm.default, aten.baddbmm.default)
def sum_and_product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """A sum of a term (all of its share) and a product (its factors halve theirs)."""
    factors = sum(slot > 0 for slot in site.slots)
    return tuple(p / factors if slot > 0 else p for slot, p in zip(site.slots, site.adjoint(c), strict=True))


@rule(aten.pow.Tensor_Scalar)
def power(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * x^(k-1)``: ``x^k`` is a product of k equal factors; 1 / x^k passes its adjoint on.

    A root (k < 1) is stabilised at 0.
    """
    (x,), k = site.operands, site.arguments["exponent"]
    if k >= 1:
        return (c * x ** (k - 1),)
    return (c / stabilise(x ** (1 - k)),) if k > 0 else site.adjoint(c)


def divisor(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """The divisor is held fixed when the numerator is live."""
    return (1,) if 0 in reached else ()


@rule(aten.div.Tensor, holds=divisor)
def quotient(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_a = c / b``: the numerator takes all; ``const / b`` passes its adjoint on."""
    return site.adjoint(c)


@rule(aten.prod.dim_int, aten.prod.default)
def reduced_product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c / n`` for the product of the n entries along the reduced dimension."""
    (x,) = site.operands
    n = max(x.numel(), 1) // max(site.out.numel(), 1)
    return tuple(part / n for part in site.adjoint(c))
