"""First order Taylor: the plain adjoint, for analytic ops with nothing better known."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp._torch import CHOLESKY, OpOverload
from fxlrp.ir.ops import GATES
from fxlrp.ir.rule import Rule, Site, rule

aten = torch.ops.aten


REASONS: dict[str, tuple[OpOverload, ...]] = {
    "not 0 at 0, and the value there belongs to no operand; held fixed where it is a gate": (
        *GATES,
        aten.log_sigmoid.default,
        aten.acos.default,
        aten.i0.default,
        aten.special_i0e.default,
        aten.special_erfcx.default,
        aten.special_log_ndtr.default,
        aten.linalg_matrix_exp.default,
    ),
    "no finite value at 0 to measure shares from": (
        aten.acosh.default,
        aten.log.default,
        aten.log2.default,
        aten.log10.default,
        aten.lgamma.default,
        aten.digamma.default,
        aten.polygamma.default,
        aten.special_ndtri.default,
        aten._linalg_slogdet.default,
    ),
    "a logarithm of a sum: the value for equal entries belongs to none of them": (
        aten.logsumexp.default,
        aten.logcumsumexp.default,
    ),
    "negative degree, so that equal shares of it would turn signs; held fixed where it is a statistic": (
        aten.rsqrt.default,
        aten.reciprocal.default,
        aten.linalg_inv_ex.default,
        aten.linalg_pinv.atol_rtol_tensor,
        aten.cholesky_inverse.default,
    ),
    "degree 1 (variance 2) as a whole, which conserves, but smooth in the entries": (
        aten.linalg_vector_norm.default,
        aten.hypot.default,
        aten.std.correction,
        aten.var.correction,
        aten.dist.default,
        aten._cdist_forward.default,
        aten._pdist_forward.default,
    ),
    "a matrix decomposition: its outputs are of different degrees and each depends on every entry": (
        *CHOLESKY,
        aten.linalg_cholesky_ex.default,
        aten.linalg_lu.default,
        aten.linalg_lu_factor_ex.default,
        aten.lu_unpack.default,
        aten.linalg_qr.default,
        aten.linalg_householder_product.default,
        aten.ormqr.default,
        aten._linalg_svd.default,
        aten._linalg_eigh.default,
        aten.linalg_eig.default,
    ),
    "an angle is no amount: it stays when the operands are scaled": (
        aten.angle.default,
        aten.atan2.default,
    ),
    "operands in different roles, such as base and exponent": (
        aten.pow.Tensor_Tensor,
        aten.pow.Scalar,
        aten.xlogy.Tensor,
    ),
    "a saw tooth: the whole part of the quotient is fixed, as steps carry nothing": (
        aten.remainder.Scalar,
        aten.remainder.Tensor,
        aten.fmod.Scalar,
        aten.fmod.Tensor,
    ),
}
"""Ops that pass their ordinary gradient on, by why nothing better is known."""
EXACT = (aten.hardsigmoid.default, aten.hypot.default, aten.cholesky_inverse.default)
"""Those of them whose gradient torch does not compute to the last digit, or not right everywhere."""


@rule(*(op for ops in REASONS.values() for op in ops if op not in EXACT))
def taylor(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: first order Taylor; conserves only what is homogeneous of degree 1."""
    return site.adjoint(c)


@rule(aten.hardsigmoid.default)
def hard_sigmoid(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c / 6`` for -3 < x < 3: the adjoint, which torch computes with a single precision 1/6."""
    (x,) = site.operands
    return (torch.where(x.abs() < 3, c / 6, 0.0),)


@rule(aten.hypot.default)
def hypotenuse(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_a = c * a / h``, and 0 at the origin: degree 1 as a whole."""
    s = c / torch.where(site.out == 0, 1.0, site.out)
    return tuple((s * x).sum_to_size(x.shape) for x in site.operands)


@rule(aten.cholesky_inverse.default)
def from_factor(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_L = J^T c`` in the triangle that is read, and 0 in the other."""
    half = torch.triu if site.arguments["upper"] else torch.tril
    return tuple(half(part) for part in site.adjoint(c))


def plain_adjoint(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: the ordinary gradient, whatever the op."""
    return site.adjoint(c)


adjoint = Rule("adjoint", "adjoint", plain_adjoint, kills_negative=True)
