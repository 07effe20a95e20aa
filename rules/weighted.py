"""Rules with a pre-activation of their own, for ops ``(x, weight, bias, ...)``, as closures over their parameters.

With ``z`` the true output, ``z'`` the rule's pre-activation and ``s = c * z / stab(z')``, every one of them is an
adjoint applied to ``s``. Nothing is divided by ``x``.

A name tells the numbers that a rule was made with, and its stabiliser where that is not the usual one: a number, or of
some rules a `fxlrp.ir.numerics.Stabiliser`. With ``bias=False`` a rule leaves biases out of ``z'``, so that they take
no share; the output ``z`` stays that of the model. Flat and z-box count none in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fxlrp.ir.closures import by_value
from fxlrp.ir.numerics import EPSILON, Relevance, Stabiliser, bound_epsilon, stabilise
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.rules.unchanged import relevance_at_output
from fxlrp.rules.weights import (
    Bounds,
    change_weight,
    check_box,
    drop_dead,
    fill_bound,
    fixed_weights,
    leave_out_bias,
    make_rule,
    pull_back,
    replace_weights,
    spread_evenly,
    sum_sides,
    sum_sizes,
    write_call,
)


@by_value
def epsilon(e: float | Stabiliser = EPSILON, bias: bool = True) -> Rule:
    """Epsilon rule for any op of degree 1: ``s = c * z / (z + e * sgn z)``, ``c_x = J^T s``.

    Without bias the denominator of a layer is ``x w + e * sgn(x w)``; ops that have none stay as they are.

    Source: Bach et al. 2015, eq. 58.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_x = J^T (c * z / (z + e sgn z))``."""
        z = drop_dead(site)
        if not bias and (plain := leave_out_bias(site)) is not site:
            return site.adjoint(c * z / stabilise(plain(*site.operands), e))
        if isinstance(e, Stabiliser):
            return site.adjoint(c * e.keep(site.out))
        floor = bound_epsilon(e, z.dtype)
        if site.facts.dead_below:
            return site.adjoint(c * z / (z + floor))
        return site.adjoint(c / (1 + floor / z.abs()))  # the same for infinite z too, as masked logits are

    limit, unbiased = epsilon(0.0, bias) if e else None, epsilon(e, False) if bias else None
    return Rule(write_call("epsilon", e, bias=bias), "weighted", apply, limit=limit, unbiased=unbiased)


@by_value
def gamma(g: float = 0.25, e: float = EPSILON, bias: bool = True) -> Rule:
    """Generalised gamma rule: contributions that agree with the sign of the output count ``1 + g`` times.

    For ``z > 0``: ``z' = x+ (w + g w+) + x- (w + g w-) + b + g b+``; for ``z < 0`` with ``w+`` and ``w-`` exchanged
    and ``b + g b-``. Outputs with ``z = 0`` pass nothing on.

    The contributions of either sign are half of ``z +- (|w| |x| + |b|)``, so with ``k = g / (2 + g)`` both cases are
    ``z' = (1 + g / 2) sgn(z) (|z| + k |w| |x| + k |b|)``, of which no term cancels another. Without bias it is
    ``z' = (1 + g / 2) (x w + sgn(z) k |w| |x|)``, where ``x w`` may have the other sign.

    Source: Montavon et al. 2019; Andeol et al. 2021 for negative inputs.
    """
    k = g / (2 + g)

    def apply(site: Site, c: Tensor) -> Parts:
        """``r = z / (|z| + k |w| |x| + k |b|)``, ``c_x = W^T (c |r|) + sgn(x) k |W|^T (c r)``, and 0 at x = 0."""
        w, b = fixed_weights(site)
        (x,) = site.operands
        known, z, v = site.facts, drop_dead(site), k * w.abs()
        floor = bound_epsilon(e, z.dtype) * 2 / (2 + g)
        sizes = x if known.nonnegative else x.abs()
        if not bias and b is not None:
            plain, side = leave_out_bias(site), torch.sign(z)
            even = c * z / stabilise(torch.addcmul(plain(x), side, replace_weights(plain, v)(sizes)), floor)
            odd = side * even
        else:
            rest = sum_sizes(site, v, None if b is None else k * b.abs(), sizes, bound_epsilon(floor, z.dtype))
            if known.dead_below:
                even = odd = c * z / (z + rest)
            else:
                ratio = z / (z.abs() + rest)
                even, odd = c * ratio.abs(), c * ratio
        if known.dead_below and known.nonnegative:
            return (torch.where(x > 0, replace_weights(site, w + v).adjoint(even)[0], 0.0),)
        own, other = site.adjoint(even)[0], replace_weights(site, v).adjoint(odd)[0]
        if known.nonnegative:
            return (torch.where(x > 0, own + other, 0.0),)
        sign = torch.sign(x)
        return (sign * torch.addcmul(other, sign, own),)

    return make_rule(apply, gamma, g, e=e, bias=bias)


@by_value
def alpha_beta(alpha: float = 2.0, beta: float = 1.0, e: float | Stabiliser = EPSILON, bias: bool = True) -> Rule:
    """Alpha-beta rule: positive contributions count ``alpha``, negative ones ``-beta``.

    ``z+ = x+ w+ + x- w- + b+`` and ``z- = x+ w- + x- w+ + b-``; ``R = alpha * share(z+) - beta * share(z-)``.

    Source: Bach et al. 2015, eq. 60.

    Raises:
        ValueError: Unless ``alpha - beta = 1`` and both are at least 0, which conservation asks for.
    """
    if alpha < 0 or beta < 0 or abs(alpha - beta - 1) > 1e-12:
        raise ValueError(f"alpha_beta needs alpha - beta = 1 and both at least 0, not {alpha} and {beta}")

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_x = alpha * share(x+ w+ + x- w-) - beta * share(x+ w- + x- w+)``."""
        site = site if bias else leave_out_bias(site)
        w, b = fixed_weights(site)
        up, down = w.clamp(min=0), w.clamp(max=0)
        ups, downs = sum_sides(site, up, down, b, beta > 0, e)
        r = c * drop_dead(site)
        found = pull_back(site, up, down, r / ups)
        if downs is not None:
            lost = pull_back(site, down, up, r / downs)
            found = torch.add(lost if beta == 1 else beta * lost, found, alpha=alpha)
        return (found,)

    return make_rule(apply, alpha_beta, alpha, beta, e=e, bias=bias)


@by_value
def z_plus(e: float | Stabiliser = EPSILON, bias: bool = True) -> Rule:
    """z+ rule: positive contributions only; alpha-beta with 1 and 0.

    Source: Montavon et al. 2017, deep Taylor decomposition.
    """
    return make_rule(alpha_beta(1.0, 0.0, e, bias).apply, z_plus, e=e, bias=bias)


@by_value
def with_weights(change: Callable[[Tensor], Tensor], e: float | Stabiliser = EPSILON, bias: bool = True) -> Rule:
    """Rule of one's own: shares as if weight and bias were what ``change`` makes of them.

    ``z' = x f(w) + f(b)`` and ``c_x = f(W)^T (c * z / stab(z'))``: ``R_i = x_i sum_j f(w_ij) R_j / stab(z'_j)``.
    With ``f(w) = w + g max(w, 0)`` it is the gamma rule for inputs that are not negative, with ``f(w) = max(w, 0)`` z+.

    Args:
        change: A pure function of a tensor that keeps its shape. Rules of the same function are equal; they pickle if
            it does, which one with a name in a module does.
        e: The stabiliser.
        bias: Whether biases take a share.

    Source: Montavon et al. 2019, the generic rule.

    Raises:
        RuleError: When a model is compiled, if the function changes a shape.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_x = f(W)^T (c * z / stab(x f(w) + f(b)))``."""
        w, b = fixed_weights(site)
        changed = replace_weights(site, change_weight(change, w), change_weight(change, b) if bias else None)
        return changed.adjoint(c * drop_dead(site) / stabilise(changed(*site.operands), e))

    return make_rule(apply, with_weights, change, e=e, bias=bias)


@by_value
def flat(e: float = EPSILON) -> Rule:
    """Flat rule, for first layers: each output spreads evenly over its receptive field.

    ``R_i = sum_j R_j / n_j``: weight and input count as 1, no bias.

    Source: Lapuschkin et al. 2019.
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = 1^T (R / (1 * 1))``: even shares of the receptive field."""
        return (spread_evenly(site, torch.ones_like(fixed_weights(site)[0]), None, c, e),)

    return replace(make_rule(apply, flat, e=e), takes_relevance=True)


@by_value
def w_square(e: float = EPSILON, bias: bool = True) -> Rule:
    """w-square rule, for first layers: shares by squares. ``R_i = sum_j w_ij^2 / (sum_k w_kj^2 + b_j^2) * R_j``.

    Source: Montavon et al. 2017, where no layer has a bias; here, as in zennit, it keeps the share of its square.
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = (w^2)^T (R / (w^2 * 1 + b^2))``."""
        w, b = fixed_weights(site)
        return (spread_evenly(site, w.square(), b.square() if bias and b is not None else None, c, e),)

    return replace(make_rule(apply, w_square, e=e, bias=bias), takes_relevance=True)


@by_value
def z_box(low: Bounds = 0.0, high: Bounds = 1.0, e: float | Stabiliser = EPSILON) -> Rule:
    """z-box rule, for first layers with inputs in ``[low, high]``: numbers, one per channel, or tensors like an input.

    ``z' = x w - low w+ - high w-`` and ``R = x * W^T s - low * W+^T s - high * W-^T s``, of which the terms of either
    sign of ``w`` are taken together: none is negative inside the box, so that none cancels another.

    A list of numbers, or a tensor with one dimension, has one per channel (per input of a dense layer); other tensors
    are broadcast to the input, as ``(3, 1, 1)`` and ``(3, 224, 224)`` are to images.

    Source: Montavon et al. 2017.

    Raises:
        ValueError: Unless ``low`` is below ``high`` everywhere.
        RuleError: When a model is compiled, if bounds have no shape that fits the input of the layer.
    """
    check_box(low, high)

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = (x - low) * W+^T s - (high - x) * W-^T s`` with ``z' = x w - low w+ - high w-``."""
        w, b = fixed_weights(site)
        (x,) = site.operands
        least, most = fill_bound(site, low), fill_bound(site, high)
        up = replace_weights(site, w.clamp(min=0), None if b is None else b.clamp(min=0))
        down = replace_weights(site, w.clamp(max=0), None if b is None else b.clamp(max=0))
        s = relevance_at_output(c, drop_dead(site)) / stabilise(site.out - (up(least) + down(most)), e)
        return (Relevance(0.0, (x - least) * up.adjoint(s)[0] - (most - x) * down.adjoint(s)[0]),)

    return replace(make_rule(apply, z_box, low, high, e=e), takes_relevance=True)


def normalised_z_box(mean: Bounds, std: Bounds, e: float | Stabiliser = EPSILON) -> Rule:
    """z-box rule for images in ``[0, 1]`` of which a mean was subtracted, and which were divided by a deviation.

    That is ``z_box(-mean / std, (1 - mean) / std)``. Mean and deviation are numbers, or one per channel.

    Source: Montavon et al. 2017.
    """
    m, s = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))
    return z_box(-m / s, (1 - m) / s, e)
