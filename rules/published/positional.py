"""Where positions enter a model, found from the graph: rotations, tables, sinusoids, biases of attention scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import statically_known_true
from fxlrp.ir.ops import LOOKUPS, MOVES, SOFTMAXES, SUMS
from fxlrp.ir.program import find_op, is_floating

aten = torch.ops.aten

WAVES = (aten.cos.default, aten.sin.default, aten.polar.default)
COUNTS = (aten.arange.start_step, aten.cumsum.default)
PAIRED = (aten.view_as_complex.default, aten.complex.default)
MASKING = (aten.where.self, aten.masked_fill.Scalar)
NEAR = 16
"""How many nodes are looked at between scores and their softmax."""

HELD = {aten.scaled_dot_product_attention.default: 3, aten.baddbmm.default: 0}
"""Ops that take what is made of positions at one place."""

SCALING = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default)
MAKING = (
    *MOVES,
    *SUMS,
    *WAVES,
    *COUNTS,
    *LOOKUPS,
    *SCALING,
    aten._to_copy.default,
    aten.add.Scalar,
    aten.sub.Scalar,
    aten.rsub.Scalar,
    aten.abs.default,
    aten.exp.default,
    aten.log.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.reciprocal.default,
    aten.matmul.default,
    aten.bmm.default,
    *PAIRED,
    aten.view_as_real.default,
    aten.full_like.default,
    *MASKING,
)
"""Ops that make rotations, tables and biases of positions."""


def is_of_positions(node: Any) -> bool:
    """Say whether a value is made of positions alone: it differs from one to another, and no token enters it.

    Found from the graph: it comes by element-wise ops, moves and products from counted numbers, from waves of them, or
    from a tensor of the model's own with two dimensions or more, as position tables have and biases have not.
    """
    found, waiting, seen = False, deque([node]), set()
    while waiting:
        one = waiting.popleft()
        if one in seen or not isinstance(one, fx.Node) or is_truth(one):
            continue
        seen.add(one)
        given = [n for n in one.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
        if is_floating(one) and (one.meta.get("user_input") or (given and find_op(one) not in MAKING)):
            return False
        if find_op(one) in LOOKUPS and any(map(reads_input, given[1:])):
            return False
        found |= find_op(one) in (*WAVES, *COUNTS) or is_table(one)
        waiting += given
    return found and is_floating(node)


def is_truth(node: fx.Node) -> bool:
    """Whether a node holds truth values, of which masks are made."""
    return getattr(node.meta.get("val"), "dtype", None) is torch.bool


def is_table(node: fx.Node) -> bool:
    """Whether a node is a floating tensor of the model's own, with two dimensions or more that are not 1."""
    if node.op != "placeholder" or not is_floating(node):
        return False
    return sum(not statically_known_true(n == 1) for n in node.meta["val"].shape) > 1


def list_sources(node: fx.Node) -> Iterator[fx.Node]:
    """List a node and all that it is computed from."""
    waiting, seen = [node], {node}
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [n for n in one.all_input_nodes if n not in seen]
        seen.update(one.all_input_nodes)


def reads_input(node: fx.Node) -> bool:
    """Whether a value is computed from an input."""
    return any(one.meta.get("user_input") for one in list_sources(node))


def find_held(node: fx.Node) -> fx.Node:
    """Return the operand of an op that is made of positions."""
    place = HELD.get(find_op(node))
    given: list[Any] = [node.args[place]] if place is not None else list(node.args[:2])
    held: fx.Node = next(arg for arg in given if is_of_positions(arg))
    return held


def differs_by_position(node: fx.Node, constants: Mapping[fx.Node, Any]) -> bool:
    """Whether a table is looked up, if it is, by integers that differ: types of tokens that are all 0 are none."""
    lookups = [one for one in list_sources(node) if find_op(one) in LOOKUPS and is_floating(one)]
    return not lookups or any(holds_different(n, constants) for one in lookups for n in one.all_input_nodes[1:])


def holds_different(node: fx.Node, constants: Mapping[fx.Node, Any]) -> bool:
    """Whether integers differ: they are counted, or come from a tensor of the model's own that holds several."""
    if node in constants:
        return bool((constants[node] != constants[node].flatten()[:1]).any())
    given = node.all_input_nodes[: 1 if find_op(node) in LOOKUPS else None]
    return find_op(node) in COUNTS or any(holds_different(n, constants) for n in given)


def list_terms(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """List the pairs of operands of an op with two, each first once."""
    pair = [arg for arg in node.args[:2] if isinstance(arg, fx.Node)]
    return [(pair[0], pair[1]), (pair[1], pair[0])] if len(pair) == 2 else []


def find_roots(node: fx.Node) -> set[fx.Node]:
    """Find the values that a value is moved from, up to signs."""
    found, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        if find_op(one) in (*MOVES, aten.neg.default, aten._to_copy.default):
            waiting += one.all_input_nodes
        else:
            found.add(one)
    return found


def is_rotation(node: fx.Node) -> bool:
    """Say whether a product is part of a rotation by position: ``q * cos`` or ``rot(q) * sin``.

    Found from the graph: two products of one value, moved, with what is made of positions are added up; or a complex
    value is multiplied by such.
    """
    if find_op(node) is not aten.mul.Tensor:
        return False
    for x, factor in list_terms(node):
        paired = find_op(x) in PAIRED or any(
            find_roots(y) == find_roots(x) and is_of_positions(other)
            for user in node.users
            if find_op(user) in SUMS
            for term in user.all_input_nodes
            if term is not node and find_op(term) is aten.mul.Tensor
            for y, other in list_terms(term)
        )
        if paired and is_of_positions(factor):
            return True
    return False


def adds_positions(node: fx.Node) -> bool:
    """Say whether a sum adds a table or sinusoids of positions to something else."""
    return any(is_of_positions(term) for _, term in list_terms(node))


def adds_to_scores(node: fx.Node) -> bool:
    """Say whether a sum adds a bias of positions to what a softmax makes attention weights of."""
    waiting, near = [node], 0
    while waiting and near < NEAR:
        one = waiting.pop()
        near += 1
        if any(find_op(user) in SOFTMAXES for user in one.users):
            return adds_positions(node)
        waiting += [u for u in one.users if find_op(u) in (*MOVES, *SUMS, *SCALING, *MASKING, aten._to_copy.default)]
    return False


def multiplies_and_adds(node: fx.Node) -> bool:
    """Say whether a product of matrices adds a bias of positions, as scores of attention do."""
    return is_of_positions(node.args[0])


def has_bias(node: fx.Node) -> bool:
    """Say whether fused attention adds a bias of positions to its scores."""
    return len(node.args) > 3 and is_of_positions(node.args[3])
