"""First order Taylor: the plain adjoint, for analytic ops with nothing better known."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.registry import Rule, Site, rule

aten = torch.ops.aten


@rule(
    # f(0) is not 0: held fixed as gates inside products
    aten.sigmoid.default,
    aten.softplus.default,
    aten.log_sigmoid.default,
    aten.exp.default,
    aten.exp2.default,
    aten.cos.default,
    aten.cosh.default,
    aten.acos.default,
    aten.acosh.default,
    aten.log.default,
    aten.log2.default,
    aten.log10.default,
    aten.logsumexp.default,
    aten.erfc.default,
    # negative degree: held fixed as statistics inside products
    aten.rsqrt.default,
    aten.reciprocal.default,
    # degree 1 as a whole, smooth in the entries
    aten.linalg_vector_norm.default,
    aten.std.correction,
    aten.var.correction,
    # powers of and by tensors
    aten.pow.Tensor_Tensor,
    aten.pow.Scalar,
    aten.atan2.default,
    aten.xlogy.Tensor,
    aten.remainder.Scalar,
    aten.fmod.Scalar,
    aten._cdist_forward.default,
)
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


def plain_adjoint(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: the ordinary gradient, whatever the op."""
    return site.adjoint(c)


adjoint = Rule("adjoint", "adjoint", plain_adjoint)
