"""Rules with a pre-activation of their own, for ops ``(x, weight, bias, ...)``, as closures over their parameters.

With ``z`` the true output, ``z'`` the rule's pre-activation and ``s = c * z / stab(z')``, every one of them is an
adjoint applied to ``s``. Nothing is divided by ``x``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.numerics import EPSILON, Relevance, share
from fxlrp.registry import Parts, Rule, Site

Weights = tuple[Tensor, Tensor | None]


def weights(site: Site) -> Weights:
    """Weight and bias of a linear op.

    Raises:
        RuleError: If the weight or bias depends on the input: these rules split a fixed weight by sign.
    """
    if site.slots != (0,):
        raise RuleError(f"{site.op} has a weight or bias that depends on the input; use the default rule for it")
    bias = site.leaves[2] if len(site.leaves) > 2 and isinstance(site.leaves[2], Tensor) else None
    return site.leaves[1], bias


def with_weights(site: Site, weight: Tensor, bias: Tensor | None) -> Site:
    """The site with other weights; without a bias where it had none."""
    return site.fix({1: weight} if weights(site)[1] is None else {1: weight, 2: bias})


def signed(site: Site, weight: Tensor, bias: Tensor | None, other: Tensor) -> tuple[Site, Site, Tensor]:
    """Sites that serve positive inputs with ``weight`` and negative ones with ``other``, and their joint output."""
    (x,) = site.operands
    above = with_weights(site, weight, bias)
    below = with_weights(site, other, None if bias is None else torch.zeros_like(bias))
    z = above(x.clamp(min=0))
    return above, below, z if site.facts.nonnegative else z + below(x.clamp(max=0))


def pull(site: Site, above: Site, below: Site, s: Tensor) -> Tensor:
    """``1[x > 0] * W1^T s + 1[x < 0] * W2^T s``."""
    (x,) = site.operands
    c = torch.where(x > 0, above.adjoint(s)[0], 0.0)
    return c if site.facts.nonnegative else c + torch.where(x < 0, below.adjoint(s)[0], 0.0)


def epsilon(e: float = EPSILON) -> Rule:
    """Epsilon rule for any op of degree 1: ``s = c * z / (z + e * sgn z)``, ``c_x = J^T s``.

    Source: Bach et al. 2015, eq. 58.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_x = J^T (c * z / (z + e sgn z))``."""
        return site.adjoint(share(c, site.out, site.out, e))

    return Rule(f"epsilon({e:g})", "weighted", apply, limit=epsilon(0.0) if e else None)


def gamma(g: float = 0.25, e: float = EPSILON) -> Rule:
    """Generalised gamma rule: contributions that agree with the sign of the output count ``1 + g`` times.

    For ``z > 0``: ``z' = x+ (w + g w+) + x- (w + g w-) + b + g b+``; for ``z < 0`` with ``w+`` and ``w-`` exchanged
    and ``b + g b-``. Outputs with ``z = 0`` pass nothing on.

    Source: Montavon et al. 2019; Andeol et al. 2021 for negative inputs.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``z' = x+ (w + g w[sgn z]) + x- (w + g w[-sgn z])``, separately for z > 0 and z < 0."""
        w, b = weights(site)
        up, down = w + g * w.clamp(min=0), w + g * w.clamp(max=0)
        b_up, b_down = (None, None) if b is None else (b + g * b.clamp(min=0), b + g * b.clamp(max=0))
        above, below, z = signed(site, up, b_up, down)
        positive = torch.where(site.out > 0, share(c, site.out, z, e), 0.0)
        found = pull(site, above, below, positive)
        if site.facts.dead_below:
            return (found,)
        above, below, z = signed(site, down, b_down, up)
        negative = torch.where(site.out < 0, share(c, site.out, z, e), 0.0)
        return (found + pull(site, above, below, negative),)

    return Rule(f"gamma({g:g})", "weighted", apply, limit=gamma(g, 0.0) if e else None)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, e: float = EPSILON) -> Rule:
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
        w, b = weights(site)
        up, down = w.clamp(min=0), w.clamp(max=0)
        b_up, b_down = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
        above, below, z = signed(site, up, b_up, down)
        found = alpha * pull(site, above, below, share(c, site.out, z, e))
        if beta:
            above, below, z = signed(site, down, b_down, up)
            found = found - beta * pull(site, above, below, share(c, site.out, z, e))
        return (found,)

    return Rule(
        f"alpha_beta({alpha:g}, {beta:g})", "weighted", apply, limit=alpha_beta(alpha, beta, 0.0) if e else None
    )


def z_plus(e: float = EPSILON) -> Rule:
    """z+ rule: positive contributions only; alpha-beta with 1 and 0.

    Source: Montavon et al. 2017, deep Taylor decomposition.
    """
    return Rule("z_plus", "weighted", alpha_beta(1.0, 0.0, e).apply, limit=z_plus(0.0) if e else None)


def flat(e: float = EPSILON) -> Rule:
    """Flat rule, for first layers: each output spreads evenly over its receptive field.

    ``R_i = sum_j R_j / n_j``: weight and input count as 1, no bias.

    Source: Lapuschkin et al. 2019.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``R_x = 1^T (R / (1 * 1))``: even shares of the receptive field."""
        w, b = weights(site)
        ones = with_weights(site, torch.ones_like(w), None if b is None else torch.zeros_like(b))
        return (spread(site, ones, c, e),)

    return Rule("flat", "weighted", apply, limit=flat(0.0) if e else None)


def w_square(e: float = EPSILON) -> Rule:
    """w-square rule, for first layers: shares by squared weights. ``R_i = sum_j w_ij^2 / sum_k w_kj^2 * R_j``.

    Source: Montavon et al. 2017.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``R_x = (w^2)^T (R / (w^2 * 1))``."""
        w, b = weights(site)
        squared = with_weights(site, w.square(), None if b is None else torch.zeros_like(b))
        return (spread(site, squared, c, e),)

    return Rule("w_square", "weighted", apply, limit=w_square(0.0) if e else None)


def spread(site: Site, weighted: Site, c: Tensor, e: float) -> Relevance:
    """Relevance of an input of ones under other weights."""
    (x,) = site.operands
    s = share(c, site.out, weighted(torch.ones_like(x)), e)
    return Relevance(0.0, weighted.adjoint(s)[0])


def z_box(low: float = 0.0, high: float = 1.0, e: float = EPSILON) -> Rule:
    """z-box rule, for first layers with inputs in ``[low, high]``.

    ``z' = x w - low w+ - high w-`` and ``R = x * W^T s - low * W+^T s - high * W-^T s``.

    Source: Montavon et al. 2017.

    Raises:
        ValueError: If ``low`` is not below ``high``.
    """
    if not low < high:
        raise ValueError(f"z_box needs low < high, not {low} and {high}")

    def apply(site: Site, c: Tensor) -> Parts:
        """``R_x = x * W^T s - low * W+^T s - high * W-^T s`` with ``z' = x w - low w+ - high w-``."""
        w, b = weights(site)
        (x,) = site.operands
        up = with_weights(site, w.clamp(min=0), None if b is None else b.clamp(min=0))
        down = with_weights(site, w.clamp(max=0), None if b is None else b.clamp(max=0))
        lows, highs = torch.full_like(x, low), torch.full_like(x, high)
        s = share(c, site.out, site.out - up(lows) - down(highs), e)
        rest = -lows * up.adjoint(s)[0] - highs * down.adjoint(s)[0]
        return (Relevance(site.adjoint(s)[0], rest),)

    return Rule(f"z_box({low:g}, {high:g})", "weighted", apply, limit=z_box(low, high, 0.0) if e else None)
