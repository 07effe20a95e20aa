"""Element-wise functions with f(0) = 0: relevance passes unchanged, ``c_x = c * f(x) / x`` in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, fx

from fxlrp.ir.numerics import gain, stabilise
from fxlrp.ir.rule import Site, rule
from fxlrp.rules.unchanged import carry_relevance, move_relevance, pass_unchanged

aten = torch.ops.aten


@rule(aten.relu.default, kills_negative=True, takes_relevance=True)
@pass_unchanged
def relu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * 1[x > 0]``."""
    (x,) = site.operands
    return (torch.where(x > 0, c, 0.0),)


@rule(aten.gelu.default, takes_relevance=True)
@pass_unchanged
def gelu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * Phi(x)``, with Phi by erf or by the tanh approximation.

    Source: Hendrycks and Gimpel 2016; Achtibat et al. 2024, eq. 9.
    """
    (x,) = site.operands
    if site.arguments["approximate"] == "tanh":
        return (c * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)),)
    return (c * (0.5 * torch.erfc(x * -math.sqrt(0.5))),)


@rule(aten.silu.default, takes_relevance=True)
@pass_unchanged
def silu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * sigmoid(x)``."""
    (x,) = site.operands
    return (c * torch.sigmoid(x),)


@rule(aten.mish.default, takes_relevance=True)
@pass_unchanged
def mish(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * tanh(softplus(x))``."""
    (x,) = site.operands
    return (c * torch.tanh(torch.nn.functional.softplus(x)),)


@rule(aten.hardswish.default, takes_relevance=True)
@pass_unchanged
def hardswish(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * hardsigmoid(x)``."""
    (x,) = site.operands
    return (c * torch.nn.functional.hardsigmoid(x),)


@rule(aten.leaky_relu.default, takes_relevance=True)
@pass_unchanged
def leaky_relu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * (1 if x > 0 else slope)``."""
    (x,) = site.operands
    return (torch.where(x > 0, c, c * site.arguments["negative_slope"]),)


@rule(aten.prelu.default, aten._prelu_kernel.default)
def prelu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * (1 if x > 0 else w)``: homogeneous of degree 1 in x, so the adjoint."""
    return site.adjoint(c)


def hold_direction(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the operand that gives no more than a sign or a direction."""
    return (1,)


@rule(aten.copysign.Tensor, aten.copysign.Scalar, holds=hold_direction)
def directed(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: the size is that of x; what gives the sign passes nothing on."""
    return site.adjoint(c)


@rule(aten.nextafter.default, holds=hold_direction)
def neighbour(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * 1[x != y]``: the size is that of x; y, which gives the direction, passes nothing on.

    Torch has no derivative of it before 2.13.
    """
    x, y = (site.arguments[name] for name in ("self", "other"))
    return (torch.where(x != y, c, 0.0).sum_to_size(x.shape),)


@rule(aten.frexp.Tensor)
def mantissa(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c / 2^k``: the mantissa with its exponent k fixed."""
    return site.adjoint(c)


@rule(aten.abs.default)
def absolute(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * sgn(x)``; of complex x its conjugate."""
    (x,) = site.operands
    return (c * torch.sgn(x).conj(),)


def pass_clipped(site: Site, r: Tensor) -> tuple[Tensor, ...]:
    """Pass relevance unchanged if 0 stays 0; what is cut off otherwise leaks, as by the adjoint."""
    return (r,) if site.arguments["min_val"] <= 0 <= site.arguments["max_val"] else move_relevance(site, r)


@rule(aten.hardtanh.default, takes_relevance=True)
@partial(carry_relevance, way=pass_clipped)
def hardtanh(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * clamp(x, lo, hi) / x``, which is 1 inside; with 0 outside the range, the adjoint.

    ReLU6 is the case lo = 0, hi = 6.
    """
    (x,) = site.operands
    low, high = site.arguments["min_val"], site.arguments["max_val"]
    if not low <= 0 <= high:
        return site.adjoint(c)
    inside = (x > low) & (x < high)
    return (c * torch.where(inside, 1.0, site.out / torch.where(inside | (x == 0), 1.0, x)),)


@rule(aten.sqrt.default)
def root(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c / sqrt(x)``, stabilised at 0."""
    return (c / stabilise(site.out),)


@rule(aten.elu.default, takes_relevance=True)
@pass_unchanged
def elu(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * f(x) / x``, continued at 0 by the slope of the negative side."""
    (x,), a = site.operands, site.arguments
    return (c * gain(site.out, x, a["alpha"] * a["scale"] * a["input_scale"]),)


SLOPES: dict[Callable[..., object], float] = {
    aten.tanh.default: 1.0,
    aten.erf.default: 2 / math.sqrt(math.pi),
    aten.atan.default: 1.0,
    aten.asin.default: 1.0,
    aten.sin.default: 1.0,
    aten.tan.default: 1.0,
    aten.sinh.default: 1.0,
    aten.asinh.default: 1.0,
    aten.atanh.default: 1.0,
    aten.expm1.default: 1.0,
    aten.log1p.default: 1.0,
    aten.selu.default: 1.0507009873554805 * 1.6732632423543772,
    aten.celu.default: 1.0,
    aten.hardshrink.default: 0.0,
    aten.softshrink.default: 0.0,
    aten.erfinv.default: math.sqrt(math.pi) / 2,
    aten.special_i1.default: 0.5,
    aten.special_i1e.default: 0.5,
}
"""Functions that are accurate near 0, with their slope there."""


@rule(*SLOPES, takes_relevance=True)  # type: ignore[arg-type]
@pass_unchanged
def accurate(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * f(x) / x``, continued at 0 by the slope."""
    (x,) = site.operands
    return (c * gain(site.out, x, SLOPES[site.op]),)
