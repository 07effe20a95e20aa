"""Propagation of Chefer et al.: z+ without biases, sums whose two sides are normalised, identity for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp._torch import OpOverload
from fxlrp.ir.numerics import Relevance, bound_epsilon, stabilise
from fxlrp.ir.ops import AVERAGE_POOLS, CONVOLUTIONS, GATES, MAX_POOLS, REDUCTIONS, SOFTMAXES, SUMS
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.pointwise import SLOPES
from fxlrp.rules.published.arriving import find_arriving
from fxlrp.rules.published.ratios import has_constant, same
from fxlrp.rules.weights import fixed_weights, pull_back, refuse_unweighted, replace_weights, sum_sides

aten = torch.ops.aten

TINY = 1e-9
"""The stabiliser of the paper's code."""


def share_positive(site: Site, c: Tensor | Relevance) -> Parts:
    """``c_x = 1[x > 0] W+^T s + 1[x < 0] W-^T s`` with ``s = R / (x+ W+ + x- W-)``: z+ for inputs of any sign, no bias.

    Source: Chefer et al. 2021, code. For convolutions their code divides either part by itself, so that both get all
    of the relevance; here both share it.
    """
    w, _ = fixed_weights(site)
    up, down = w.clamp(min=0), w.clamp(max=0)
    whole, _ = sum_sides(site, up, down, None, False, bound_epsilon(TINY, site.out.dtype))
    return (pull_back(site, up, down, find_arriving(site, c) / whole),)


positive = Rule("positive", "weighted", share_positive, refuses=refuse_unweighted, takes_relevance=True)


def share_image(site: Site, c: Tensor | Relevance) -> Parts:
    """z-box rule whose box is the range of each sample: ``z' = x w - low w+ - high w-``, no bias.

    Source: Chefer et al. 2021, code; Montavon et al. 2017.
    """
    w, _ = fixed_weights(site)
    (x,) = site.operands
    dims = list(range(1, x.ndim))
    low, high = (edge(dims, keepdim=True).expand_as(x) for edge in (x.amin, x.amax))
    up, down = (replace_weights(site, part) for part in (w.clamp(min=0), w.clamp(max=0)))
    z = up(x - low) + down(x - high)
    s = find_arriving(site, c) / (z + bound_epsilon(TINY, z.dtype))
    return (Relevance(0.0, (x - low) * up.adjoint(s)[0] - (high - x) * down.adjoint(s)[0]),)


image_range = Rule("image_range", "weighted", share_image, refuses=refuse_unweighted, takes_relevance=True)


def share_adjoint(site: Site, c: Tensor | Relevance) -> Parts:
    """``c_i = J_i^T (R / z) / k`` for k live operands: of products of matrices, pools, reductions, numbers as factors.

    Source: Chefer et al. 2021, code.
    """
    return site.adjoint(find_arriving(site, c) / stabilise(site.out, TINY) / len(site.slots))


simple = Rule("simple", "product", share_adjoint, takes_relevance=True)


def pass_all(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_x = R``: softmax, norms and activations pass relevance entry by entry.

    Source: Chefer et al. 2021, code.
    """
    r = find_arriving(site, c)
    return tuple(
        Relevance(0.0, r if slot == site.slots[0] else torch.zeros_like(site.leaves[slot])) for slot in site.slots
    )


passed = Rule("passed", "unchanged", pass_all, takes_relevance=True)


def share_normalised(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_k = z_k R / z``, scaled to ``|sum R_k| / (|sum R_1| + |sum R_2|)`` of all relevance, sample by sample.

    By the sizes of the totals it is not linear in ``R``: relevance of a contrast is not the difference of two.

    Source: Chefer et al. 2021, code, where sums are over the whole batch; here samples are apart.
    """
    r, a = find_arriving(site, c), site.arguments
    s, dims = r / stabilise(site.out, TINY), list(range(1, r.ndim))
    factor = -a["alpha"] if site.op is aten.sub.Tensor else a["alpha"]
    terms = [a["self"] * s, a["other"] * factor * s]
    sums = [term.sum(dims, keepdim=True) for term in terms]
    whole = r.sum(dims, keepdim=True) / (sums[0].abs() + sums[1].abs() + bound_epsilon(0.0, r.dtype))
    parts = [term * torch.sign(total) * whole for term, total in zip(terms, sums, strict=True)]
    return tuple(Relevance(0.0, parts[slot].sum_to_size(site.leaves[slot].shape)) for slot in site.slots)


normalised = Rule("normalised", "weighted", share_normalised, takes_relevance=True)


def share_attention(site: Site, c: Tensor | Relevance) -> Parts:
    """Fused attention as two products that share and halve, with relevance unchanged through the softmax between.

    Source: Chefer et al. 2021, code.
    """
    r, a = find_arriving(site, c) / stabilise(site.out, TINY), site.arguments
    q, k, v = a["query"], a["key"], a["value"]
    if a["enable_gqa"]:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scale = q.shape[-1] ** -0.5 if a["scale"] is None else a["scale"]
    logits = q @ k.mT * scale
    shown = mask_logits(logits, a["attn_mask"], a["is_causal"])
    weights = aten._safe_softmax.default(shown, -1)  # 0 in rows that are masked wholly
    both = len(site.slots) - (2 in site.slots) > 0
    half = 0.5 if both and 2 in site.slots else 1.0
    of_logits = weights * (r @ v.mT) * half / stabilise(logits, TINY) * scale
    half_scores = 1.0 / max(sum(slot < 2 for slot in site.slots), 1)
    found = {0: of_logits @ k * half_scores, 1: of_logits.mT @ q * half_scores, 2: weights.mT @ r * half}
    return tuple(fold_groups(found[slot], site.leaves[slot]) for slot in site.slots)


attention = Rule("attention", "attention", share_attention, takes_relevance=True)


def mask_logits(logits: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Apply the mask of fused attention."""
    if causal:
        mask = torch.ones_like(logits, dtype=torch.bool).tril()
    if mask is None:
        return logits
    return logits.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else logits + mask


def fold_groups(part: Tensor, x: Tensor) -> Tensor:
    """Sum over the queries that share a key, where heads were repeated."""
    if part.ndim > 2 and part.shape[-3] != x.shape[-3]:
        part = part.reshape(*part.shape[:-3], x.shape[-3], -1, *part.shape[-2:]).sum(-3)
    return part.sum_to_size(x.shape)


PASSED: tuple[OpOverload, ...] = (
    *SOFTMAXES,
    *GATES,
    *SLOPES,  # type: ignore[arg-type]
    aten.relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.group_norm.default,
)
SIMPLE: tuple[OpOverload, ...] = (
    *AVERAGE_POOLS,
    *MAX_POOLS,
    *REDUCTIONS,
    aten.matmul.default,
    aten.bmm.default,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.div.Scalar,
)

CHEFER = (
    RuleSet(
        "chefer",
        "the propagation of Chefer et al. 2021: z+ without biases, normalised additions, identity through softmax, "
        "norms and activations; relevance is then read at attention weights for their maps",
        dict.fromkeys(SIMPLE, simple)
        | dict.fromkeys(PASSED, passed)
        | dict.fromkeys(SUMS, normalised)
        | dict.fromkeys((aten.linear.default, *CONVOLUTIONS), positive)
        | {aten.scaled_dot_product_attention.default: attention},
    )
    .where(image_range, ops=CONVOLUTIONS, position="first")
    .where(same, ops=SUMS, predicate=has_constant)
    .named("chefer")
    .optional()
)
