"""Selective state spaces and gated recurrent networks, unrolled: what is signal, and what only steers it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.ir.closures import by_value
from fxlrp.ir.numerics import Relevance, stabilise
from fxlrp.ir.ops import AFFINE, MOVES
from fxlrp.ir.program import find_op
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.linear import affine
from fxlrp.rules.published.arriving import find_arriving
from fxlrp.rules.published.residuals import refuse_others
from fxlrp.rules.softmax import stopped
from fxlrp.rules.unchanged import carry_relevance
from fxlrp.rules.weighted import epsilon
from fxlrp.rules.weights import fixed_weights, refuse_unweighted, replace_weights, write_call

aten = torch.ops.aten

MOVING = (*MOVES, aten._to_copy.default)
PROJECTING = (*AFFINE, aten.matmul.default, aten.add.Tensor, aten.mul.Tensor)


def is_selection(node: fx.Node) -> bool:
    """Say whether a linear op computes what selects in a state space: step, input matrix and output matrix.

    Found from the graph: one part of what it computes becomes, through a softplus, the step that multiplies another
    part of it, as in Mamba. A state space whose signal comes out of the same op (Mamba 2) is none.
    """
    if find_op(node) not in AFFINE:
        return False
    parts = follow_users([node], (*MOVING, aten.mul.Tensor))
    before = follow_users(parts, (*MOVING, *PROJECTING))
    steps = follow_users([u for n in before for u in n.users if find_op(u) is aten.softplus.default], MOVING)
    return any(
        find_op(u) is aten.mul.Tensor and not parts.isdisjoint(u.all_input_nodes) for n in steps for u in n.users
    )


def follow_users(starts: Iterable[fx.Node], ops: Collection[Any]) -> set[fx.Node]:
    """Find what is computed from some nodes by some ops, of which every other operand is a constant or a statistic."""
    found, waiting = set(starts), list(starts)
    while waiting:
        node = waiting.pop()
        for user in node.users:
            others = [n for n in user.all_input_nodes if n is not node]
            if user not in found and find_op(user) in ops and all(map(is_steady, others)):
                found.add(user)
                waiting.append(user)
    return found


def is_steady(node: fx.Node) -> bool:
    """Whether a node is made of one parameter, or the inverse of a deviation, which norms multiply by."""
    while find_op(node) in MOVING and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return find_op(node) is aten.rsqrt.default or (node.op != "call_function" and not node.meta.get("user_input"))


MAMBA_LRP = (
    RuleSet(
        "mamba_lrp",
        "MambaLRP for selective state spaces: what selects (A, B, C and the step) is constant, half-rule for gates "
        "(Rezaei Jafari et al. 2024)",
    )
    .where(stopped, ops=AFFINE, predicate=is_selection)
    .named("mamba_lrp")
    .optional()
)


def feeds_sum(node: fx.Node) -> bool:
    """Say whether all that is made of an op's output, view by view, are additions: it is a part of a pre-activation."""
    waiting, ends = [node], []
    while waiting:
        users = list(waiting.pop().users)
        waiting += [u for u in users if find_op(u) in MOVING]
        ends += [u for u in users if find_op(u) not in MOVING]
    return bool(ends) and all(find_op(end) is aten.add.Tensor for end in ends)


def is_gate(node: fx.Node) -> bool:
    """Say whether a sigmoid does nothing but multiply."""
    return bool(node.users) and all(find_op(user) is aten.mul.Tensor for user in node.users)


ARRAS = 1e-3
"""The stabiliser of the paper's code."""

ARRAS_LSTM = (
    RuleSet(
        "arras_lstm",
        "LRP for LSTM: gates are constants, epsilon 0.001 at every sum of cells, pre-activations and heads "
        "(Arras et al. 2017)",
        {aten.linear.default: epsilon(ARRAS), aten.add.Tensor: epsilon(ARRAS)},
    )
    .where(affine, ops=aten.linear.default, predicate=feeds_sum)
    .where(stopped, ops=aten.sigmoid.default, predicate=is_gate)
    .named("arras_lstm")
    .optional()
)


def share_product(site: Site, r: Tensor) -> tuple[Tensor, ...]:
    """Share relevance evenly among the live factors of a product; a signal that is gated takes all."""
    return tuple((r / len(site.operands)).sum_to_size(x.shape) for x in site.operands)


@partial(carry_relevance, way=share_product)
def halve(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_i = J_i^T c / k``, and relevance without a coefficient likewise.

    Source: Arras et al. 2017, where one of the factors is a gate and k is 1.
    """
    return site.adjoint(c / len(site.operands))


signal = Rule("signal", "product", halve, takes_relevance=True)


@by_value
def shared_linear(e: float = ARRAS) -> Rule:
    """Epsilon rule of a linear op that gives the shares of bias and stabiliser to its D inputs, evenly.

    ``R_i = sum_j (w_ij x_i + (b_j + e sgn z_j) / D) / (z_j + e sgn z_j) * R_j``, so that nothing is absorbed. With
    ``e = 0`` it is for a part of a sum that has the stabiliser: it passes its coefficient on, and nothing is divided.

    Source: Arras et al. 2017, eq. 1 with delta = 1. Where two linear ops are added up, their code spreads both biases
    over the inputs of both; here each bias goes to its own (ours).
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = x W^T s + 1^T (R - (z - b) s) / D`` with ``s = R / (z + e sgn z)``."""
        weight, bias = fixed_weights(site)
        (x,), r = site.operands, find_arriving(site, c)
        if e:
            s = r / stabilise(site.out, e)
            rest = r - replace_weights(site, weight)(x) * s
        else:
            s, rest = (c.coefficient + torch.zeros_like(r), c.rest) if isinstance(c, Relevance) else (c, c * 0)
            rest = rest if bias is None else rest + bias * s
        even = replace_weights(site, torch.ones_like(weight))
        return (Relevance(site.adjoint(s)[0], even.adjoint(rest / x.shape[-1])[0]),)

    return Rule(write_call("shared_linear", e), "weighted", apply, refuses=refuse_unweighted, takes_relevance=True)


@by_value
def shared_sum(e: float = ARRAS) -> Rule:
    """Epsilon rule of an addition whose k live terms share evenly what a constant and the stabiliser would keep.

    ``R_i = x_i s + (R - sum_j x_j s) / k`` with ``s = R / (z + e sgn z)``.

    Source: Arras et al. 2017, eq. 1 with delta = 1, where a stabiliser is spread over all units; here over the terms of
    its own (ours).
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_i = x_i s + (R - sum_j x_j s) / k`` with ``s = R / (z + e sgn z)``."""
        a, r = site.arguments, find_arriving(site, c)
        s = r / stabilise(site.out, e)
        terms = (a["self"], a["other"] * a["alpha"])
        rest = (r - sum((terms[slot] for slot in site.slots), torch.zeros_like(r)) * s) / len(site.slots)
        parts = zip(site.operands, site.adjoint(s), strict=True)
        return tuple(Relevance(part, rest.sum_to_size(x.shape)) for x, part in parts)

    return Rule(write_call("shared_sum", e), "weighted", apply, refuses=refuse_others, takes_relevance=True)


ARRAS_LSTM_SHARED = (
    RuleSet(
        "arras_lstm_shared",
        "arras_lstm with the shares of biases and stabilisers spread over the terms of their sums, so that inputs get "
        "all (Arras et al. 2017 with delta = 1; which units share is ours)",
        {
            aten.linear.default: shared_linear(ARRAS),
            aten.add.Tensor: shared_sum(ARRAS),
            aten.mul.Tensor: signal,
        },
    )
    .where(shared_linear(0.0), ops=aten.linear.default, predicate=feeds_sum)
    .where(stopped, ops=aten.sigmoid.default, predicate=is_gate)
    .named("arras_lstm_shared")
    .optional()
)
