"""Negative filtering: gradients that a ReLU lets through where they are positive, and relevance by positive weights.

In coefficient form a modified gradient is what is carried, so that the relevance of an input is that times the input.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.ir.closures import by_value
from fxlrp.ir.ops import AFFINE, AVERAGE_POOLS, CONVOLUTIONS, REDUCTIONS, SUMS, name_arguments
from fxlrp.ir.rule import Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.taylor import adjoint
from fxlrp.rules.weighted import epsilon, z_box, z_plus
from fxlrp.rules.weights import Bounds

aten = torch.ops.aten


@by_value
def guided() -> Rule:
    """Guided backpropagation at a ReLU: what is positive goes on to units that are. Serves all element-wise functions.

    Source: Springenberg et al. 2015, figure 1.
    """

    def apply(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c * 1[c > 0] * f'(x)``, which for a ReLU is ``1[x > 0]``."""
        return (torch.where(c > 0, site.adjoint(c)[0], 0.0),)

    return Rule("guided", "filtering", apply, filters=True, kills_negative=True)


@by_value
def deconvolved() -> Rule:
    """Deconvolution at a ReLU: what is positive goes on, to all units.

    Source: Zeiler and Fergus 2014, section 2.1.
    """

    def apply(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c * 1[c > 0]``."""
        return (c.clamp(min=0),)

    return Rule("deconvolved", "filtering", apply, filters=True)


@by_value
def smoothed(beta: float = 10.0) -> Rule:
    """Gradient of a softplus in the place of that of a ReLU.

    Source: Dombrowski et al. 2019, for ``softplus(x) = log(1 + exp(beta x)) / beta``.

    Raises:
        ValueError: Unless ``beta`` is above 0.
    """
    if not beta > 0:
        raise ValueError(f"smoothed needs beta above 0, not {beta}")

    def apply(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c * sigmoid(beta x)``, less ``c * sigmoid(beta (x - b))`` for a ReLU cut off at ``b``."""
        (x,), bound = site.operands, find_bound(site)
        slope = torch.sigmoid(beta * x)
        return (c * (slope if bound is None else slope - torch.sigmoid(beta * (x - bound))),)

    return Rule(f"smoothed({beta:g})", "filtering", apply)


@by_value
def rectified(percentile: float = 98.0) -> Rule:
    """Rectified gradient at a ReLU with output ``a``: what is above a percentile of ``a c`` in its sample goes on.

    The first dimension is that of the samples. What is above an interpolated percentile is what is above the entry
    below it. The nearest entry, which the authors take, is the largest of a small layer, and lets nothing through.

    Source: Kim et al. 2019, section 3, where the percentile is 98.

    Raises:
        ValueError: Unless the percentile is from 0 to 100.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"rectified needs a percentile from 0 to 100, not {percentile}")

    def apply(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c * 1[a c > t]`` with ``t`` a percentile of ``a c`` over all units of the sample."""
        r = (site.out * c).reshape(site.out.shape[0] if site.out.ndim > 1 else 1, -1)
        t = r.topk(count_from(r.shape[1], percentile), 1, sorted=False).values.amin(1, keepdim=True)
        return (torch.where((r > t).reshape(c.shape), drop_above_bound(site, c), 0.0),)

    return Rule(f"rectified({percentile:g})", "filtering", apply, filters=True)


@by_value
def rectified_above(threshold: float = 0.0) -> Rule:
    """Rectified gradient with a fixed threshold, of which 0 makes guided backpropagation.

    Source: Kim et al. 2019, section 3.

    Raises:
        ValueError: If the threshold is below 0, where units that are off would take relevance.
    """
    if not threshold >= 0:
        raise ValueError(f"rectified_above needs a threshold of at least 0, not {threshold}")

    def apply(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c * 1[a c > t]`` with ``a`` the output."""
        return (torch.where(site.out * c > threshold, drop_above_bound(site, c), 0.0),)

    return Rule(f"rectified_above({threshold:g})", "filtering", apply, filters=True, kills_negative=True)


def count_from(n: Any, percentile: float) -> Any:
    """Count, of ``n`` sorted entries, the last one that is not above a percentile and all behind it."""
    part = Fraction(str(percentile)) / 100
    return n - part.numerator * (n - 1) // part.denominator


def find_bound(site: Site) -> float | None:
    """Return where a ReLU is cut off, as a ReLU6 is; None if it is not."""
    bound: float | None = site.arguments.get("max_val")
    return bound


def drop_above_bound(site: Site, c: Tensor) -> Tensor:
    """Set coefficients to 0 where a ReLU is cut off."""
    bound = find_bound(site)
    return c if bound is None else torch.where(site.operands[0] < bound, c, 0.0)


def is_bounded_relu(node: fx.Node) -> bool:
    """Whether a node is a ReLU that is cut off above, such as ReLU6."""
    return bool(name_arguments(node)["min_val"] == 0)


def change_relu(name: str, summary: str, rule: Rule) -> RuleSet:
    """Return input x gradient with a rule of its own for every ReLU, cut off above or not."""
    own = RuleSet(name, summary, {aten.relu.default: rule}, default=adjoint, freeze=False)
    return own.where(rule, ops=aten.hardtanh.default, predicate=is_bounded_relu, missing="ignore").named(name)


def rectgrad(percentile: float = 98.0, threshold: float | None = None) -> RuleSet:
    """Return the preset ``rectgrad`` for a percentile, or for a threshold that is the same in all layers."""
    if threshold is not None:
        return change_relu("rectgrad", f"{_RECTGRAD} above {threshold:g}", rectified_above(threshold))
    return change_relu("rectgrad", f"{_RECTGRAD} above percentile {percentile:g} of its sample", rectified(percentile))


def beta_smooth(beta: float = 10.0) -> RuleSet:
    """Return the preset ``beta_smooth`` for a sharpness of the softplus."""
    summary = f"input x gradient with that of a softplus, beta = {beta:g}, at every ReLU (Dombrowski et al. 2019)"
    return change_relu("beta_smooth", summary, smoothed(beta))


def dtd(low: Bounds = -3.0, high: Bounds = 3.0) -> RuleSet:
    """Return the preset ``dtd`` for inputs in ``[low, high]``, as `z_box` takes them."""
    box = z_box(low, high)
    return (
        RuleSet(
            "dtd",
            f"deep Taylor decomposition: {box} first, for the range of the inputs, z+ without biases on all other "
            "layers, pools and sums by their shares (Montavon et al. 2017)",
            share_sums(z_plus(bias=False)),
        )
        .where(box, ops=(*CONVOLUTIONS, aten.linear.default), position="first")
        .named("dtd")
    )


def share_sums(layer: Rule) -> dict[OpOverload, Rule]:
    """Map all layers to one rule, and sums and average pools to epsilon."""
    return dict.fromkeys(AFFINE, layer) | dict.fromkeys((*SUMS, *REDUCTIONS, *AVERAGE_POOLS), epsilon())


_RECTGRAD = "RectGrad: input x gradient, which a ReLU lets through where output x gradient is (Kim et al. 2019),"

FILTERING: tuple[RuleSet, ...] = (
    change_relu(
        "guided_backprop",
        "guided backpropagation: input x gradient, of which a ReLU lets only positive entries through "
        "(Springenberg et al. 2015)",
        guided(),
    ),
    change_relu(
        "deconvnet",
        "deconvolution: input x gradient, with positive entries instead of active units at every ReLU "
        "(Zeiler and Fergus 2014)",
        deconvolved(),
    ),
    rectgrad(),
    beta_smooth(),
    RuleSet(
        "excitation_backprop",
        "excitation backprop: z+ on all layers, pools and sums by their shares (Zhang et al. 2016); biases count as in "
        "zennit's composite of that name, batch norm merged",
        share_sums(z_plus()),
    ),
    dtd(),
)
"""Every preset of this module."""
