"""Rules with a pre-activation of their own, for ops ``(x, weight, bias, ...)``, as closures over their parameters.

With ``z`` the true output, ``z'`` the rule's pre-activation and ``s = c * z / stab(z')``, every one of them is an
adjoint applied to ``s``. Nothing is divided by ``x``.

An application of the op costs far more than anything else here, so each is used for all that it tells: what pushes an
output up is what pulls it down and ``z``, and their sizes are ``|w| |x|``. A denominator is a sum of sizes, in which no
term cancels another, and gets its stabiliser through the bias. What depends on weights alone stays apart from the
input: it is prepared once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.ir.closures import by_value
from fxlrp.ir.numerics import EPSILON, Relevance, bound_epsilon, stabilise
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.rules.unchanged import relevance_at_output
from fxlrp.rules.weights import refuse_unweighted

Weights = tuple[Tensor, Tensor | None]


def fixed_weights(site: Site) -> Weights:
    """Weight and bias of a linear op.

    Raises:
        RuleError: If the weight or bias depends on the input: these rules split a fixed weight by sign.
    """
    if site.slots != (0,):
        raise RuleError(f"{site.op} has a weight or bias that depends on the input; use the default rule for it")
    bias = site.leaves[2] if len(site.leaves) > 2 and isinstance(site.leaves[2], Tensor) else None
    return site.leaves[1], bias


def replace_weights(site: Site, weight: Tensor, bias: Tensor | None = None) -> Site:
    """The site with other weights; without a bias it adds none."""
    own = fixed_weights(site)[1]
    if own is None:
        return site.fix({1: weight})
    return site.fix({1: weight, 2: torch.zeros_like(own) if bias is None else bias})


def sum_sizes(site: Site, weight: Tensor, bias: Tensor | None, x: Tensor, e: float) -> Tensor:
    """``x weight + bias + e`` for ``x``, ``weight`` and ``bias`` without negative entries: at least ``e``."""
    if bias is None:
        return replace_weights(site, weight)(x) + e  # type: ignore[no-any-return]
    return replace_weights(site, weight, bias + e)(x)  # type: ignore[no-any-return]


def sum_parts(site: Site, above: Tensor, below: Tensor, bias: Tensor | None, e: float) -> Tensor:
    """``x+ above + x- below + bias + e``, of which no term is negative."""
    (x,) = site.operands
    if site.facts.nonnegative:
        return sum_sizes(site, above, bias, x, e)
    return sum_sizes(site, above, bias, x.clamp(min=0), e) + replace_weights(site, below)(x.clamp(max=0))  # type: ignore[no-any-return]


def sum_sides(
    site: Site, up: Tensor, down: Tensor, bias: Tensor | None, both: bool, e: float
) -> tuple[Tensor, Tensor | None]:
    """What pushes outputs up and, if asked for, what pulls them down, each with ``e`` added.

    Both are sums without a negative term. A difference is never taken: of a small side it would leave rounding errors.
    Where only outputs above 0 matter, the lower side is the small one, and the upper is that plus the output.

    Args:
        site: The application.
        up: Positive part of the weight.
        down: Its negative part.
        bias: The bias.
        both: Whether the lower side is asked for.
        e: The stabiliser.
    """
    above, below = (None, None) if bias is None else (bias.clamp(min=0), (-bias).clamp(min=0))
    if not both:
        return sum_parts(site, up, down, above, e), None
    downs = sum_parts(site, -down, -up, below, e)
    if site.facts.dead_below:  # the output is computed anyway, though in half precision not finely enough
        return torch.relu(site(*site.operands)) + downs, downs
    return sum_parts(site, up, down, above, e), downs


def drop_dead(site: Site) -> Tensor:
    """The output wherever its coefficient is not known to be 0."""
    return torch.relu(site.out) if site.facts.dead_below else site.out


def pull_back(site: Site, above: Tensor, below: Tensor, s: Tensor) -> Tensor:
    """``1[x > 0] * above^T s + 1[x < 0] * below^T s`` for two weights."""
    (x,) = site.operands
    c = torch.where(x > 0, replace_weights(site, above).adjoint(s)[0], 0.0)
    return c if site.facts.nonnegative else c + torch.where(-x > 0, replace_weights(site, below).adjoint(s)[0], 0.0)


@by_value
def epsilon(e: float = EPSILON) -> Rule:
    """Epsilon rule for any op of degree 1: ``s = c * z / (z + e * sgn z)``, ``c_x = J^T s``.

    Source: Bach et al. 2015, eq. 58.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_x = J^T (c * z / (z + e sgn z))``."""
        z, floor = drop_dead(site), bound_epsilon(e, site.out.dtype)
        if site.facts.dead_below:
            return site.adjoint(c * z / (z + floor))
        return site.adjoint(c / (1 + floor / z.abs()))  # the same for infinite z too, as masked logits are

    return Rule(f"epsilon({e:g})", "weighted", apply, limit=epsilon(0.0) if e else None)


@by_value
def gamma(g: float = 0.25, e: float = EPSILON) -> Rule:
    """Generalised gamma rule: contributions that agree with the sign of the output count ``1 + g`` times.

    For ``z > 0``: ``z' = x+ (w + g w+) + x- (w + g w-) + b + g b+``; for ``z < 0`` with ``w+`` and ``w-`` exchanged
    and ``b + g b-``. Outputs with ``z = 0`` pass nothing on.

    The contributions of either sign are half of ``z +- (|w| |x| + |b|)``, so with ``k = g / (2 + g)`` both cases are
    ``z' = (1 + g / 2) sgn(z) (|z| + k |w| |x| + k |b|)``, of which no term cancels another.

    Source: Montavon et al. 2019; Andeol et al. 2021 for negative inputs.
    """
    k = g / (2 + g)

    def apply(site: Site, c: Tensor) -> Parts:
        """``r = z / (|z| + k |w| |x| + k |b|)``, ``c_x = W^T (c |r|) + sgn(x) k |W|^T (c r)``, and 0 at x = 0."""
        w, b = fixed_weights(site)
        (x,) = site.operands
        known, z, v = site.facts, drop_dead(site), k * w.abs()
        bias = None if b is None else k * b.abs()
        rest = sum_sizes(site, v, bias, x if known.nonnegative else x.abs(), bound_epsilon(e * 2 / (2 + g), z.dtype))
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

    return Rule(f"gamma({g:g})", "weighted", apply, limit=gamma(g, 0.0) if e else None, refuses=refuse_unweighted)


@by_value
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
        w, b = fixed_weights(site)
        up, down = w.clamp(min=0), w.clamp(max=0)
        ups, downs = sum_sides(site, up, down, b, beta > 0, bound_epsilon(e, site.out.dtype))
        r = c * drop_dead(site)
        found = pull_back(site, up, down, r / ups)
        if downs is not None:
            lost = pull_back(site, down, up, r / downs)
            found = torch.add(lost if beta == 1 else beta * lost, found, alpha=alpha)
        return (found,)

    limit = alpha_beta(alpha, beta, 0.0) if e else None
    return Rule(f"alpha_beta({alpha:g}, {beta:g})", "weighted", apply, limit=limit, refuses=refuse_unweighted)


@by_value
def z_plus(e: float = EPSILON) -> Rule:
    """z+ rule: positive contributions only; alpha-beta with 1 and 0.

    Source: Montavon et al. 2017, deep Taylor decomposition.
    """
    made, limit = alpha_beta(1.0, 0.0, e), z_plus(0.0) if e else None
    return Rule("z_plus", "weighted", made.apply, limit=limit, refuses=refuse_unweighted)


@by_value
def flat(e: float = EPSILON) -> Rule:
    """Flat rule, for first layers: each output spreads evenly over its receptive field.

    ``R_i = sum_j R_j / n_j``: weight and input count as 1, no bias.

    Source: Lapuschkin et al. 2019.
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = 1^T (R / (1 * 1))``: even shares of the receptive field."""
        return (spread_evenly(site, torch.ones_like(fixed_weights(site)[0]), None, c, e),)

    return Rule(
        "flat", "weighted", apply, limit=flat(0.0) if e else None, refuses=refuse_unweighted, takes_relevance=True
    )


@by_value
def w_square(e: float = EPSILON) -> Rule:
    """w-square rule, for first layers: shares by squares. ``R_i = sum_j w_ij^2 / (sum_k w_kj^2 + b_j^2) * R_j``.

    Source: Montavon et al. 2017, where no layer has a bias; here, as in zennit, it keeps the share of its square.
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = (w^2)^T (R / (w^2 * 1 + b^2))``."""
        w, b = fixed_weights(site)
        return (spread_evenly(site, w.square(), None if b is None else b.square(), c, e),)

    return Rule(
        "w_square",
        "weighted",
        apply,
        limit=w_square(0.0) if e else None,
        refuses=refuse_unweighted,
        takes_relevance=True,
    )


def spread_evenly(site: Site, weight: Tensor, bias: Tensor | None, c: Tensor | Relevance, e: float) -> Relevance:
    """Relevance of an input of ones under another weight and bias, of which no entry is negative."""
    (x,) = site.operands
    whole = sum_sizes(site, weight, bias, fill_like(x, 1.0), bound_epsilon(e, x.dtype))
    return Relevance(0.0, replace_weights(site, weight).adjoint(relevance_at_output(c, drop_dead(site)) / whole)[0])


def fill_like(x: Tensor, value: float) -> Tensor:
    """A number in the shape of the input, whatever the input is."""
    return torch.full(x.shape, value, dtype=x.dtype, device=x.device)


@by_value
def z_box(low: float = 0.0, high: float = 1.0, e: float = EPSILON) -> Rule:
    """z-box rule, for first layers with inputs in ``[low, high]``.

    ``z' = x w - low w+ - high w-`` and ``R = x * W^T s - low * W+^T s - high * W-^T s``, of which the terms of either
    sign of ``w`` are taken together: none is negative inside the box, so that none cancels another.

    Source: Montavon et al. 2017.

    Raises:
        ValueError: If ``low`` is not below ``high``.
    """
    if not low < high:
        raise ValueError(f"z_box needs low < high, not {low} and {high}")

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = (x - low) * W+^T s - (high - x) * W-^T s`` with ``z' = x w - low w+ - high w-``."""
        w, b = fixed_weights(site)
        (x,) = site.operands
        up = replace_weights(site, w.clamp(min=0), None if b is None else b.clamp(min=0))
        down = replace_weights(site, w.clamp(max=0), None if b is None else b.clamp(max=0))
        corner = up(fill_like(x, low)) + down(fill_like(x, high))
        s = relevance_at_output(c, drop_dead(site)) / stabilise(site.out - corner, e)
        return (Relevance(0.0, (x - low) * up.adjoint(s)[0] - (high - x) * down.adjoint(s)[0]),)

    limit = z_box(low, high, 0.0) if e else None
    name = f"z_box({low:g}, {high:g})"
    return Rule(name, "weighted", apply, limit=limit, refuses=refuse_unweighted, takes_relevance=True)
