"""Residual additions, found from the graph, and the rule for them that bounds what they pass on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.ir.closures import by_value
from fxlrp.ir.numerics import EPSILON, bound_epsilon
from fxlrp.ir.ops import AFFINE, CUTS, LAYOUTS, LOOKUPS, NORMS, SUMS
from fxlrp.ir.program import find_op, is_floating
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.weights import write_call

aten = torch.ops.aten

MIXING = (
    *AFFINE,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.matmul.default,
    aten.scaled_dot_product_attention.default,
)
"""Ops that mix features or positions by weights: what a branch of a residual block has, and an activation has not."""

PASSING = (
    *(op for op in LAYOUTS if op not in CUTS),  # a part is no skip: gates and steps are parts of one projection
    aten._to_copy.default,
    aten.neg.default,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.mul.Tensor,
    aten.div.Tensor,
)
"""Ops that leave a skip connection what it is, if they have one operand."""


def is_residual_addition(node: fx.Node) -> bool:
    """Say whether a node adds a branch to what the branch was computed from: ``x + f(x)``.

    For ``RuleSet.where(rule, predicate=is_residual_addition)``. It is found from the graph, not from names: one operand
    is, up to views of all entries, casts and numbers as factors, a node from which the other operand is computed by an
    op that mixes features or positions (a linear op, a convolution, a product of matrices, attention). A skip
    connection may have one linear op or convolution of its own, as where a residual network changes its width; then
    the branch has at least two. Sums within an activation, of projections, of gates and of embeddings are none, nor is
    the addition of a mask or of a bias of positions to scores, which every layer computes its own from.
    """
    if find_op(node) is not aten.add.Tensor:
        return False
    operands = [n for n in node.args[:2] if isinstance(n, fx.Node)]
    return len(operands) == 2 and any(leads_to(one, other) for one, other in (operands, operands[::-1]))


def is_stream_addition(node: fx.Node) -> bool:
    """Say whether a node is a residual addition to a sum that no norm holds in bounds.

    That is, the skip connection is not the output of a norm, as it is where norms stand behind additions (BERT). In
    front of the branches (GPT, Llama) terms pile up in the sum.
    """
    if not is_residual_addition(node):
        return False
    one, other = (skip_passing(n) for n in node.all_input_nodes)
    return not ends_norm(one if one < other else other)  # what a branch was computed from is in front of it


def ends_norm(node: fx.Node) -> bool:
    """Whether a node is a norm, or a quotient or product of computed values, up to given factors and shifts."""
    while find_op(node) in (aten.add.Tensor, aten.mul.Tensor):
        computed = [n for n in node.all_input_nodes if n.op == "call_function"]
        if len(computed) != 1:
            break
        (node,) = computed
    return find_op(node) in (*NORMS, aten.rsqrt.default, aten.mul.Tensor, aten.div.Tensor)


def skip_passing(node: fx.Node) -> fx.Node:
    """Return the node behind views, casts and numbers as factors."""
    while find_op(node) in PASSING and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def leads_to(skip: fx.Node, branch: fx.Node) -> bool:
    """Whether a branch starts at a skip connection, or at the input of the one linear op that the connection has."""
    skip, branch = skip_passing(skip), skip_passing(branch)
    start: Any = skip.args[0] if find_op(skip) in AFFINE else None
    own = isinstance(start, fx.Node) and has_mixing(skip_passing(start), branch, 2)
    return (own or has_mixing(skip, branch, 1)) and carries_input(skip)


def carries_input(node: fx.Node) -> bool:
    """Whether a node has values of the input: floating ones, or entries of a table that integers of it chose.

    Masks have none, as only comparisons and integers lead to them, and neither have biases of relative positions.
    The earliest operand is looked at first, so that the walk along a stream is short.
    """
    waiting, seen = [(node, False)], set[tuple[fx.Node, bool]]()
    while waiting:
        here = node, chosen = waiting.pop()
        if here in seen or not (is_floating(node) or (chosen and isinstance(node.meta.get("val"), Tensor))):
            continue
        seen.add(here)
        if node.meta.get("user_input"):
            return True
        looks_up = find_op(node) in LOOKUPS
        waiting.extend((given, chosen or looks_up) for given in sorted(node.all_input_nodes, reverse=True))
    return False


def has_mixing(start: fx.Node, end: fx.Node, least: int) -> bool:
    """Whether a path from one node to a later one has at least so many ops that mix.

    Only what is between the two in the graph is looked at, so that all blocks of a model together take linear time.
    """
    if not start < end:
        return False
    most: dict[fx.Node, int] = {end: int(find_op(end) in MIXING)}
    waiting = [end]
    while waiting:
        node = max(waiting)
        waiting.remove(node)
        for given in node.all_input_nodes:
            if given is start and most[node] >= least:
                return True
            if start < given:
                if given not in most:
                    waiting.append(given)
                most[given] = max(most.get(given, 0), most[node] + int(find_op(given) in MIXING))
    return False


@by_value
def residual_gamma(g: float = 1.0, e: float = EPSILON) -> Rule:
    """Gamma rule for the two terms of an addition: one that agrees with the sign of the sum counts ``1 + g`` times.

    ``R_k = w_k z_k / (w_1 z_1 + w_2 z_2) * R`` with ``w_k = 1 + g 1[sgn z_k = sgn z]``. The denominator is
    ``z + g * (what agrees with z)``: it has the sign of ``z`` and is no smaller, so that no term cancels another and
    ``|R_1| + |R_2| <= (1 + 2 / g) |R|``. With ``g = 0`` it is epsilon. Sums of 0 pass nothing on.

    Source: Berend et al., ResLRP, eq. 3, divided by the operand.
    """

    def apply(site: Site, c: Tensor) -> Parts:
        """``c_k = c w_k z / (w_1 z_1 + w_2 z_2)``, ``w_k = 1 + g 1[sgn z_k = sgn z]``."""
        a, z = site.arguments, site.out
        terms = (a["self"], a["other"] * (-a["alpha"] if site.op is aten.sub.Tensor else a["alpha"]))
        agrees = [torch.sign(term) == torch.sign(z) for term in terms]
        size = torch.where(agrees[0], terms[0].abs(), 0.0) + torch.where(agrees[1], terms[1].abs(), 0.0)
        s = c * z.abs() / (z.abs() + g * size + bound_epsilon(e, z.dtype))
        return tuple(site.adjoint(torch.where(agrees[slot], s + g * s, s))[i] for i, slot in enumerate(site.slots))

    return Rule(
        write_call("residual_gamma", g, *([] if e == EPSILON else [e])),
        "weighted",
        apply,
        limit=residual_gamma(g, 0.0) if e else None,
        refuses=refuse_number,
    )


def refuse_others(node: fx.Node, slots: tuple[int, ...]) -> str:
    """Say why an op is no sum of two terms; empty if it is."""
    return "" if find_op(node) in SUMS else "shares relevance between the terms of a sum, and this op has none"


def refuse_number(node: fx.Node, slots: tuple[int, ...]) -> str:
    """Say why an op is no addition of two tensors; empty if it is."""
    if find_op(node) in SUMS and all(isinstance(term, fx.Node) for term in node.args[:2]):
        return ""
    return "shares relevance between the two tensors of an addition, and this op has none"


RESLRP = (
    RuleSet("reslrp", "AttnLRP with residual_gamma(1) at residual additions, which bounds them (Berend et al., ResLRP)")
    .where(residual_gamma(1.0), ops=aten.add.Tensor, predicate=is_residual_addition)
    .named("reslrp")
    .optional()
)
