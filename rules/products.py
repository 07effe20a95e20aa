"""Products of k operands are homogeneous of degree k, quotients of degree 0."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten
from fxlrp.ir.closures import recipe_by_name
from fxlrp.ir.numerics import stabilise
from fxlrp.ir.program import find_op
from fxlrp.ir.rule import Rule, Site, rule

aten = torch.ops.aten


@rule(
    aten.mul.Tensor,
    aten.matmul.default,
    aten.bmm.default,
    aten.mm.default,
    aten.mv.default,
    aten.dot.default,
    aten._trilinear.default,
)
def product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_i = J_i^T c / k``: each of k live factors takes the same part; one live factor takes all.

    In invariant mode the shares count all factors of a chain of products.
    Source: Achtibat et al. 2024, propositions 3.2 and 3.3; You et al. 2025 on the dependence on association.
    """
    k = len(site.operands)
    if site.facts.shares is None:
        return site.adjoint(c / k)
    return tuple(part * share for part, share in zip(site.adjoint(c), site.facts.shares, strict=True))


@rule(aten.addmm.default, aten.baddbmm.default, aten.addmv.default, aten.addbmm.default)
def sum_and_product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_i = J_i^T c / k`` for each of k live factors of the product; a term takes all of its share."""
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


def hold_divisor(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the divisor fixed when the numerator is live."""
    return (1,) if 0 in reached else ()


@rule(aten.div.Tensor, holds=hold_divisor)
def quotient(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_a = c / b``: the numerator takes all; ``const / b`` passes its adjoint on."""
    return site.adjoint(c)


@rule(aten.prod.dim_int, aten.prod.default)
def reduced_product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c / n`` for the product of the n entries along the reduced dimension."""
    (x,) = site.operands
    n = max(x.numel(), 1) // max(site.out.numel(), 1)
    return tuple(part / n for part in site.adjoint(c))


@rule(aten.cumprod.default)
def running_product(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T (c / i)``: entry number i is a product of i entries."""
    dim = site.arguments["dim"]
    if not site.out.ndim:
        return site.adjoint(c)
    n = site.out.shape[dim]
    along = [n if d == dim % site.out.ndim else 1 for d in range(site.out.ndim)]
    return site.adjoint(c / torch.arange(1, n + 1, device=c.device).reshape(along))


@rule(aten._linalg_det.default)
def determinant(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_A = J^T c / n``: a determinant is a sum of products of n entries, as the product of a diagonal is."""
    (a,) = site.operands
    return tuple(part / max(a.shape[-1], 1) for part in site.adjoint(c))


def hold_gate(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the second operand fixed when the first is live."""
    return (1,) if 0 in reached else ()


@rule(aten.polar.default, holds=hold_gate)
def gated(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: ``x * exp(i a)`` belongs to x, the angle is a gate; with x fixed it passes its adjoint on."""
    return site.adjoint(c)


@rule(aten.ldexp.Tensor, holds=hold_gate)
def shifted(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * 2^k``: the power is a gate; with x fixed it passes its adjoint on.

    Torch's own adjoint loses negative whole exponents.
    """
    if site.slots != (0,):
        return site.adjoint(c)
    return (torch.ldexp(c, site.arguments["other"]).sum_to_size(site.operands[0].shape),)


RIGHT_SIDES: dict[object, int] = {
    aten._linalg_solve_ex.default: 1,
    aten.linalg_solve_triangular.default: 1,
    aten.linalg_lu_solve.default: 2,
    aten.triangular_solve.default: 0,
    aten.cholesky_solve.default: 0,
}
"""Position of the right-hand side among the arguments of a solver."""


def hold_matrix(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the matrix fixed when the right-hand side is live."""
    right = RIGHT_SIDES[find_op(node)]
    return [slot for slot in reached if slot != right] if right in reached else ()


@rule(*RIGHT_SIDES, holds=hold_matrix)  # type: ignore[arg-type]
def solution(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_b = A^-T c``: the right-hand side takes all, as a numerator does; ``A^-1 const`` passes its adjoint on.

    Of a Cholesky factor that is the triangle that is read.
    """
    if site.op is aten.cholesky_solve.default and site.slots == (1,):
        half = torch.triu if site.arguments["upper"] else torch.tril
        return tuple(half(part) for part in site.adjoint(c))
    return site.adjoint(c)


ACTIVATIONS = (aten.silu.default, aten.gelu.default, aten.relu.default)


def hold_activated(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the operands of a product that come out of an activation function, unless all do."""
    leaves = tree_flatten((node.args, node.kwargs))[0]
    held = [slot for slot in reached if leaves[slot].target in ACTIVATIONS]
    return held if len(held) < len(reached) else ()


signal_takes_all = Rule(
    "signal_takes_all",
    "product",
    product.apply,
    holds=hold_activated,
    recipe=recipe_by_name("fxlrp.rules.products:signal_takes_all"),
)
"""Activated gates are constants, so that what they multiply takes all (Ali et al. 2022)."""
