"""What rules with a fixed weight share: which ops have one, sums and adjoints under changed ones, and their names.

An application of the op costs far more than anything else here, so each is used for all that it tells: what pushes an
output up is what pulls it down and ``z``, and their sizes are ``|w| |x|``. A denominator is a sum of sizes, in which no
term cancels another, and gets its stabiliser through the bias. What depends on weights alone stays apart from the
input: it is prepared once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten
from fxlrp.errors import RuleError
from fxlrp.ir.numerics import EPSILON, Relevance, Stabiliser, bound_epsilon
from fxlrp.ir.ops import AFFINE
from fxlrp.ir.program import find_op
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.rules.unchanged import relevance_at_output

aten = torch.ops.aten

WEIGHTED = (
    *AFFINE,
    aten.mm.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.mv.default,
    aten.mul.Tensor,
)
"""Ops of which the second argument is the weight, and the third, if there is one, the bias."""

Bounds = float | Tensor | Sequence[Any]
"""A number, numbers per channel, or numbers for every entry of an input; nested sequences stand for tensors."""


def refuse_unweighted(node: fx.Node, slots: tuple[int, ...]) -> str:
    """Say why an op has no weight that could be split by sign; empty if it has."""
    if find_op(node) not in WEIGHTED or not isinstance(tree_flatten((node.args, node.kwargs))[0][1], fx.Node):
        return "needs a weight, and this op has none; epsilon() is for every op of degree 1"
    if slots != (0,):
        return "needs a fixed weight behind its operand, and here weight or bias depend on the input; use its default"
    return ""


def fixed_weights(site: Site) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear op.

    Raises:
        RuleError: If the weight or bias depends on the input: these rules split a fixed weight by sign.
    """
    if site.slots != (0,):
        raise RuleError(f"{site.op} has a weight or bias that depends on the input; use the default rule for it")
    bias = site.leaves[2] if len(site.leaves) > 2 and isinstance(site.leaves[2], Tensor) else None
    return site.leaves[1], bias


def replace_weights(site: Site, weight: Tensor, bias: Tensor | None = None) -> Site:
    """Return the site with other weights; without a bias it adds none."""
    own = fixed_weights(site)[1]
    if own is None:
        return site.fix({1: weight})
    return site.fix({1: weight, 2: torch.zeros_like(own) if bias is None else bias})


def change_weight(change: Callable[[Tensor], Tensor], weight: Tensor | None) -> Any:
    """Return what a function makes of a weight, and none of none.

    Raises:
        RuleError: If it does not keep the shape.
    """
    changed = None if weight is None else change(weight)
    if weight is not None and (not isinstance(changed, Tensor) or changed.shape != weight.shape):
        got = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
        raise RuleError(
            f"with_weights changed a weight of shape {tuple(weight.shape)} to {got}; it has to keep the shape"
        )
    return changed


def leave_out_bias(site: Site) -> Site:
    """Return the site without its fixed bias, and with its true output, of whose sign nothing is known then."""
    fixed = site.op in AFFINE and 2 not in site.slots and len(site.leaves) > 2 and isinstance(site.leaves[2], Tensor)
    return replace(site.fix({2: None}), facts=replace(site.facts, dead_below=False)) if fixed else site


def sum_sizes(site: Site, weight: Tensor, bias: Tensor | None, x: Tensor, e: float) -> Tensor:
    """Compute ``x weight + bias + e`` of ``x``, ``weight`` and ``bias`` without negative entries: at least ``e``."""
    if bias is None:
        return replace_weights(site, weight)(x) + e  # type: ignore[no-any-return]
    return replace_weights(site, weight, bias + e)(x)  # type: ignore[no-any-return]


def sum_parts(site: Site, above: Tensor, below: Tensor, bias: Tensor | None, e: float) -> Tensor:
    """Compute ``x+ above + x- below + bias + e``, of which no term is negative."""
    (x,) = site.operands
    if site.facts.nonnegative:
        return sum_sizes(site, above, bias, x, e)
    return sum_sizes(site, above, bias, x.clamp(min=0), e) + replace_weights(site, below)(x.clamp(max=0))  # type: ignore[no-any-return]


def sum_sides(
    site: Site, up: Tensor, down: Tensor, bias: Tensor | None, both: bool, e: float | Stabiliser
) -> tuple[Tensor, Tensor | None]:
    """Sum what pushes outputs up and, if asked for, what pulls them down, each stabilised.

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
    if isinstance(e, Stabiliser):  # it may measure the sums, of outputs below 0 too
        every = replace(site, facts=replace(site.facts, dead_below=False))
        ups, downs = sum_sides(every, up, down, bias, both, 0.0)
        return e(ups), None if downs is None else e(downs)
    e = bound_epsilon(e, site.out.dtype)
    above, below = (None, None) if bias is None else (bias.clamp(min=0), (-bias).clamp(min=0))
    if not both:
        return sum_parts(site, up, down, above, e), None
    downs = sum_parts(site, -down, -up, below, e)
    if site.facts.dead_below:  # the output is computed anyway, though in half precision not finely enough
        return torch.relu(site(*site.operands)) + downs, downs
    return sum_parts(site, up, down, above, e), downs


def drop_dead(site: Site) -> Tensor:
    """Return the output, 0 where its coefficient is known to be 0."""
    return torch.relu(site.out) if site.facts.dead_below else site.out


def pull_back(site: Site, above: Tensor, below: Tensor, s: Tensor) -> Tensor:
    """Compute ``1[x > 0] * above^T s + 1[x < 0] * below^T s`` for two weights."""
    (x,) = site.operands
    c = torch.where(x > 0, replace_weights(site, above).adjoint(s)[0], 0.0)
    return c if site.facts.nonnegative else c + torch.where(-x > 0, replace_weights(site, below).adjoint(s)[0], 0.0)


def spread_evenly(site: Site, weight: Tensor, bias: Tensor | None, c: Tensor | Relevance, e: float) -> Relevance:
    """Return relevance of an input of ones under another weight and bias, of which no entry is negative."""
    (x,) = site.operands
    whole = sum_sizes(site, weight, bias, fill_like(x, 1.0), bound_epsilon(e, x.dtype))
    return Relevance(0.0, replace_weights(site, weight).adjoint(relevance_at_output(c, drop_dead(site)) / whole)[0])


def check_box(low: Bounds, high: Bounds) -> None:
    """Refuse bounds that are not finite, or of which one is not below the other."""
    try:
        least, most = (torch.as_tensor(v, dtype=torch.float64) for v in (low, high))
        below = least < most
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"z_box needs bounds that are numbers, in shapes that fit each other: {error}") from error
    if not all(bool(fine.all()) for fine in (below, least.isfinite(), most.isfinite())):
        raise ValueError(f"z_box needs finite low < high, not {write_number(low)} and {write_number(high)}")


def fill_bound(site: Site, bound: Bounds) -> Tensor:
    """Fill a tensor in the shape of the input with a bound: a number, one per channel, or what broadcasts to it.

    Raises:
        RuleError: If it does not.
    """
    (x,) = site.operands
    if isinstance(bound, (int, float)):
        return fill_like(x, bound)
    value = torch.tensor(bound, dtype=x.dtype, device=x.device)
    if value.ndim == 1 and site.op in AFFINE:
        value = value.reshape(-1, *[1] * (site.leaves[1].ndim - 2))
    try:
        return value.expand(x.shape)
    except RuntimeError as error:
        raise RuleError(
            f"z_box has bounds of shape {tuple(value.shape)}, which do not fit inputs of shape {tuple(x.shape)}; give "
            "a number, one per channel, or a tensor that can be broadcast to the input"
        ) from error


def fill_like(x: Tensor, value: float) -> Tensor:
    """Fill a tensor in the shape of the input with a number, whatever the input is."""
    return torch.full(x.shape, value, dtype=x.dtype, device=x.device)


def make_rule(
    apply: Callable[[Site, Any], Parts],
    make: Callable[..., Rule],
    *numbers: Any,
    e: float | Stabiliser,
    bias: bool | None = None,
) -> Rule:
    """Make the rule of a function, named as the call that makes it, for ops with a fixed weight.

    Args:
        apply: The function.
        make: What makes the rule of the numbers, a stabiliser, and whether biases count.
        numbers: What it was made of.
        e: The stabiliser.
        bias: Whether biases count; None if they do not for any rule of the kind.
    """
    name = write_call(make.__name__, *numbers, *([] if e == EPSILON else [e]), bias=bias)
    rest = () if bias is None else (bias,)
    limit = make(*numbers, 0.0, *rest) if e else None
    unbiased = make(*numbers, e, False) if bias else None
    return Rule(name, "weighted", apply, limit=limit, refuses=refuse_unweighted, unbiased=unbiased)


def write_call(name: str, *numbers: Any, bias: bool | None = None) -> str:
    """Write a call with numbers as short as they are exact, such as ``gamma(0.25)``; without any only the name."""
    shown = [write_number(number) for number in numbers] + ["bias=False"] * (bias is False)
    return f"{name}({', '.join(shown)})" if shown else name


def write_number(number: Any) -> str:
    """Write a number as short as it is exact, up to eight in a row, and of more their shape and range.

    Of a function it is the name.
    """
    if isinstance(number, Stabiliser):
        return repr(number)
    if callable(number):
        return getattr(number, "__name__", type(number).__name__)
    if isinstance(number, (int, float)):
        return repr(float(number)).removesuffix(".0")
    if len(number) <= 8 and all(isinstance(n, (int, float)) for n in number):
        return f"({', '.join(map(write_number, number))})"
    values = torch.as_tensor(number, dtype=torch.float64)
    return f"<{'x'.join(map(str, values.shape))} from {values.min():g} to {values.max():g}>"
