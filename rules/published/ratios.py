"""DynamicLRP: every op by itself shares relevance by sizes, and parameters take their part.

What the paper's code does and this does not: it multiplies relevance at the logits of any attention by a lower
triangle, halves relevance at products with weights where attention has its rules, and where it has none gives values
one half and nothing to queries and keys; an op that it does not know passes everything to all operands alike, where
here the default table serves it.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxlrp.ir.numerics import Relevance, bound_epsilon, stabilise
from fxlrp.ir.ops import AFFINE, AVERAGE_POOLS, GATES, REDUCTIONS, SOFTMAXES, SUMS
from fxlrp.ir.program import is_floating
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.attention import uniform
from fxlrp.rules.pointwise import SLOPES
from fxlrp.rules.published.arriving import find_arriving

aten = torch.ops.aten

TINY = 1e-11
"""The stabiliser of the paper's code."""


def share_by_size(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_k = |z_k| / (|z_1| + |z_2|) * R`` for the two operands of a sum, a product or a quotient (``z_2 = 1 / b``).

    What is fixed takes its share too, which it absorbs.

    Source: Lee and Arias 2025, add, multiply and divide.
    """
    r, (a, b) = find_arriving(site, c), site.leaves[:2]
    sizes = a.abs(), (1 / b if site.op is aten.div.Tensor else b * site.arguments.get("alpha", 1)).abs()
    r = r / (sizes[0] + sizes[1] + bound_epsilon(TINY, r.dtype))
    return tuple(Relevance(0.0, (sizes[slot] * r).sum_to_size(site.leaves[slot].shape)) for slot in site.slots)


by_size = Rule("by_size", "ratio", share_by_size, takes_relevance=True)


def give_all(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_x = R``: the other operand is a constant of the model, or there is none.

    Source: Lee and Arias 2025, identity.
    """
    r = find_arriving(site, c)
    return tuple(Relevance(0.0, (r / len(site.slots)).sum_to_size(x.shape)) for x in site.operands)


same = Rule("same", "ratio", give_all, takes_relevance=True)


def share_reduction(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_i = |x_i| / sum_j |x_j| * R`` for a sum or a mean.

    Source: Lee and Arias 2025, sum and mean.
    """
    (x,), r = site.operands, find_arriving(site, c)
    (spread,) = site.adjoint(r / (site(x.abs()) + bound_epsilon(TINY, x.dtype)))
    return (Relevance(0.0, x.abs() * spread),)


reduced = Rule("reduced", "ratio", share_reduction, takes_relevance=True)


def share_evenly(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_i = R / n`` for the n entries of a window.

    Source: Lee and Arias 2025, adaptive average pool.
    """
    return tuple(Relevance(0.0, part) for part in site.adjoint(find_arriving(site, c)))


even = Rule("even", "ratio", share_evenly, takes_relevance=True)


def share_affine(site: Site, c: Tensor | Relevance) -> Parts:
    """``c_x = W^T (R |Wx| / (|Wx| + |b|) / Wx)``: first the bias takes its share by size, then epsilon without it.

    Source: Lee and Arias 2025, add and linear.
    """
    r, bias, own = find_arriving(site, c), site.arguments["bias"], site
    if isinstance(bias, Tensor) and 2 not in site.slots:
        own = site.fix({2: torch.zeros_like(bias)})
        z = own(*own.operands)
        r = r * z.abs() / (z.abs() + (site.out - z).abs() + bound_epsilon(TINY, r.dtype))
    else:
        z = site.out
    return own.adjoint(r / stabilise(z, TINY) / max(sum(slot < 2 for slot in site.slots), 1))


split_bias = Rule("split_bias", "ratio", share_affine, takes_relevance=True)


def share_product(site: Site, c: Tensor | Relevance) -> Parts:
    """``c_i = J_i^T (R / z) / k`` for a product of matrices.

    Source: Lee and Arias 2025; Achtibat et al. 2024, proposition 3.3.
    """
    return site.adjoint(find_arriving(site, c) / stabilise(site.out, TINY) / len(site.slots))


bilinear = Rule("bilinear", "ratio", share_product, takes_relevance=True)


def share_softmax(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_x = x (R - s sum(R))``, by first Taylor order; 0 where the logit is masked.

    Source: Lee and Arias 2025; Achtibat et al. 2024, proposition 3.1.
    """
    (x,), r = site.operands, find_arriving(site, c)
    part = r - site.out * r.sum(site.arguments["dim"], keepdim=True)
    return (Relevance(0.0, torch.where(x.isinf(), 0.0, x) * part),)


taylor = Rule("taylor", "ratio", share_softmax, takes_relevance=True)


def share_attention(site: Site, c: Tensor | Relevance) -> Parts:
    """Fused attention as the products and the softmax that it is of: adjoint of ``R / z``, q and k 1/4, v 1/2.

    Source: Lee and Arias 2025; Achtibat et al. 2024, propositions 3.1 and 3.3.
    """
    return uniform(site, find_arriving(site, c) / stabilise(site.out, TINY))


fused = Rule("fused", "ratio", share_attention, takes_relevance=True)


def has_constant(node: fx.Node) -> bool:
    """Say whether one of two operands depends on no parameter and no floating input: a mask, a number, a buffer."""
    return any(not isinstance(x, fx.Node) or not is_learned(x) for x in node.args[:2])


def is_learned(node: fx.Node) -> bool:
    """Whether a gradient of a node would reach a parameter or an input."""
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if is_floating(one) and (one.meta.get("user_input") or one.meta.get("parameter")):
            return True
        new = [n for n in one.all_input_nodes if n not in seen and is_floating(n)]
        seen.update(new)
        waiting += new
    return False


PAIRS = (*SUMS, aten.mul.Tensor, aten.div.Tensor)
IDENTITIES = (
    *GATES,
    *SLOPES,
    aten.relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.mish.default,
    aten.hardswish.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.pow.Tensor_Scalar,
    aten.neg.default,
    aten.add.Scalar,
    aten.sub.Scalar,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.group_norm.default,
    aten.instance_norm.default,
)

DYNAMICLRP = (
    RuleSet(
        "dynamiclrp",
        "DynamicLRP: sums, products and quotients by the sizes of their operands, parameters and biases included, "
        "identity through norms and activations, attention as AttnLRP (Lee and Arias 2025)",
        dict.fromkeys(PAIRS, by_size)
        | dict.fromkeys(IDENTITIES, same)  # type: ignore[arg-type]
        | dict.fromkeys(REDUCTIONS, reduced)
        | dict.fromkeys(AVERAGE_POOLS, even)
        | dict.fromkeys(AFFINE, split_bias)
        | dict.fromkeys((aten.matmul.default, aten.bmm.default), bilinear)
        | dict.fromkeys(SOFTMAXES, taylor)
        | {aten.scaled_dot_product_attention.default: fused},
        freeze=False,
    )
    .where(same, ops=PAIRS, predicate=has_constant)
    .named("dynamiclrp")
    .optional()
)
