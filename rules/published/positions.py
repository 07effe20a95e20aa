"""Positions beside tokens: what rotations, position tables and biases of scores take, and the read-outs of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.ir.closures import recipe_by_name
from fxlrp.ir.numerics import to_relevance
from fxlrp.ir.ops import SUMS
from fxlrp.ir.rule import Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.attention import uniform
from fxlrp.rules.linear import linear
from fxlrp.rules.products import sum_and_product
from fxlrp.rules.published.positional import (
    adds_positions,
    adds_to_scores,
    has_bias,
    is_rotation,
    multiplies_and_adds,
)

aten = torch.ops.aten


def share_rotation(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c / 2``: of a rotation the value takes half, and positions the other.

    Source: Bakish et al. 2025, lemma 3.2 and eq. 7-10, divided by the operand.
    """
    return site.adjoint(c / 2)


def take_half(site: Site, c: Tensor) -> Tensor:
    """Return what a rotation takes, in front of the sum over heads."""
    return sum_over_heads(to_relevance(c, site.out) / 2, find_constant(site))


def take_term(site: Site, c: Tensor) -> Tensor:
    """``R_P = P c``: what is added takes what it adds, as every term of a sum does (Bakish et al. 2025, eq. 5)."""
    constant = find_constant(site)
    return sum_over_heads(to_relevance(add_sign(site, c), constant.expand_as(site.out)), constant)


def take_bias(site: Site, c: Tensor) -> Tensor:
    """Return ``R_B = B c`` by key; features are those of queries and heads. Ours: the paper has no biases of scores."""
    return list_keys(to_relevance(add_sign(site, c), find_constant(site).expand_as(site.out)))


def take_mask(site: Site, c: Tensor) -> Tensor:
    """Return `take_bias` of fused attention, whose scores get half of what its output passes on."""
    q, k, mask = (site.leaves[i] for i in (0, 1, 3))
    whole = mask.expand(*q.shape[:-1], k.shape[-2])
    (part,) = replace(site.fix({3: whole}), slots=(3,)).adjoint(c / 2)
    return list_keys(to_relevance(part, whole))


def find_constant(site: Site) -> Tensor:
    """Return the term or factor that is held fixed."""
    first = site.leaves[0] if "batch1" in site.arguments or 0 not in site.slots else site.leaves[1]
    assert isinstance(first, Tensor)
    return first


def add_sign(site: Site, c: Tensor) -> Tensor:
    """Return the coefficient of the term that is held fixed."""
    a = site.arguments
    if "batch1" in a:
        return torch.mul(c, a["beta"])
    second = 1 not in site.slots
    factor = -a["alpha"] if site.op is aten.sub.Tensor else a["alpha"]
    return c * factor if second else c


def sum_over_heads(r: Tensor, constant: Tensor) -> Tensor:
    """Sum where a constant was repeated, samples and features apart: ``(samples, positions, features)``."""
    sizes = [1] * (r.ndim - constant.ndim) + list(constant.shape)
    return r.sum_to_size([r.shape[0], *sizes[1:-1], r.shape[-1]]).reshape(r.shape[0], -1, r.shape[-1])


def list_keys(r: Tensor) -> Tensor:
    """Lay out relevance of scores, queries last but one, as ``(samples, keys, heads and queries)``."""
    return r.movedim(-1, 1).flatten(2)


def place(name: str, kind: str, own: Rule, positions: Callable[[Site, Tensor], Tensor]) -> Rule:
    """Make the rule of a place where positions enter, which passes on what ``own`` does."""
    recipe = recipe_by_name(f"fxlrp.rules.published.positions:{name}")
    return Rule(name, kind, own.apply, positions=positions, recipe=recipe)


rotation = Rule("rotation", "positions", share_rotation, positions=take_half)
table = place("table", "positions", linear, take_term)
score_bias = place("score_bias", "linear", linear, take_bias)
product_bias = place("product_bias", "products", sum_and_product, take_bias)
attention_bias = place("attention_bias", "attention", uniform, take_mask)

PA_LRP = (
    RuleSet(
        "pa_lrp",
        "PA-LRP: AttnLRP where rotations keep half for positions; read='*:positions' shows what positions take "
        "(Bakish et al. 2025)",
    )
    .where(attention_bias, ops=aten.scaled_dot_product_attention.default, predicate=has_bias)
    .where(product_bias, ops=aten.baddbmm.default, predicate=multiplies_and_adds)
    .where(table, ops=SUMS, predicate=adds_positions)
    .where(score_bias, ops=SUMS, predicate=adds_to_scores)
    .where(rotation, ops=aten.mul.Tensor, predicate=is_rotation)
    .named("pa_lrp")
    .optional()
)


READ_OUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda r: r.sum(-1),
    "positive": lambda r: r.clamp(min=0).sum(-1),
    "absolute": lambda r: r.sum(-1).abs(),
}


def combine_positions(tokens: Tensor, positions: Mapping[str, Tensor], how: str = "signed") -> Tensor:
    """Add the relevance of positions to that of tokens: one number for each.

    ``signed`` adds up all, which conserves. ``positive`` drops negative entries of both before the sum over features
    (Bakish et al. 2025, eq. 11). ``absolute`` takes the absolute value of the sum over features of each place where
    positions enter, as the authors' code does for language models; relevance of tokens keeps its sign.

    Args:
        tokens: Relevance of embeddings ``(samples, positions, features)``, or of tokens ``(samples, positions)`` unless
            ``how`` is ``"positive"``.
        positions: Relevance by place, each ``(samples, positions, features)``: of ``result.read`` with
            ``read="*:positions"``.
        how: One of these.

    Returns:
        ``(samples, positions)``, in the dtype of ``tokens``.

    Raises:
        SignatureError: If ``how`` is none of these, or shapes do not fit.
    """
    if how not in READ_OUTS:
        raise SignatureError(f"how={how!r} is no read-out of positions; there are {', '.join(READ_OUTS)}")
    if tokens.ndim != 3 and (tokens.ndim != 2 or how == "positive"):
        raise SignatureError(
            f"relevance of tokens has shape {tuple(tokens.shape)}; give (samples, positions, features)"
            + ("" if how == "positive" else " or (samples, positions)")
            + ", such as what is read at the embeddings with read='model.embed_tokens'"
        )
    whole = tokens if tokens.ndim == 2 else READ_OUTS["positive" if how == "positive" else "signed"](tokens)
    for name, relevance in positions.items():
        if relevance.ndim != 3 or relevance.shape[:2] != whole.shape:
            raise SignatureError(
                f"relevance of positions at {name} has shape {tuple(relevance.shape)}, that of tokens "
                f"{tuple(tokens.shape)}; give (samples, positions, features) for the same samples and positions"
            )
        whole = whole + READ_OUTS[how](relevance)
    return whole
