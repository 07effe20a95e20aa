"""Factors that only gate or normalise what they multiply."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import GATES, LAYOUTS, OFFSETS, REDUCTIONS

aten = torch.ops.aten

ODD = (aten.tanh.default, aten.erf.default)
"""Functions that are odd: 0 at 0, but not once a number is added."""

MEASURES = (
    *REDUCTIONS,
    aten.var.correction,
    aten.var.dim,
    aten.std.correction,
    aten.amax.default,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
)
"""Reductions that measure a scale."""

PROPORTIONAL = (*LAYOUTS, aten._to_copy.default, aten.mul.Tensor, aten.mul.Scalar, aten.neg.default)
"""Ops of which every entry is one of the operand's, up to a factor."""

SCALED = (
    *PROPORTIONAL,
    *OFFSETS,
    aten.sqrt.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.abs.default,
    aten.pow.Tensor_Scalar,
)
"""Ops that make another scale of a scale."""

INVERSES = (aten.rsqrt.default, aten.reciprocal.default)


def find_factors(graph: fx.Graph, dependent: set[fx.Node]) -> set[fx.Node]:
    """Find nodes that only gate or normalise: held fixed where they multiply something else.

    A *gate* is not zero where its own input is zero: sigmoid, exp, ``1 + tanh``. A *statistic* is the inverse
    of a scale that a reduction measured: ``rsqrt(mean(x^2) + eps)``. Both survive shape ops, constant factors
    and offsets.
    """
    return {node for node, kind in find_kinds(graph, dependent).items() if kind in ("gate", "statistic")}


def find_kinds(graph: fx.Graph, dependent: set[fx.Node]) -> dict[fx.Node, str]:
    """Find what `classify_factor` says of each node that depends on a source."""
    kinds: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node in dependent and node.op == "call_function":
            kinds[node] = classify_factor(node, [kinds.get(n, "") for n in node.all_input_nodes if n in dependent])
    return kinds


def classify_factor(node: fx.Node, inputs: list[str]) -> str:
    """Return ``gate``, ``odd`` (a gate once a number is added), ``scale``, ``statistic``, or nothing."""
    op, kinds = node.target, set(inputs)
    one = next(iter(kinds)) if len(kinds) == 1 else ""
    if op in GATES or is_hard_gate(node):
        return "gate"
    if op in ODD:
        return "gate" if one == "gate" else "odd"
    if op in MEASURES:
        return "scale"
    if op in INVERSES or is_negative_power(node):
        return {"scale": "statistic", "gate": "gate"}.get(one, "")
    if op in OFFSETS and one in ("gate", "odd"):
        return "gate" if len(inputs) == 1 and adds_something(node) else one
    if op in PROPORTIONAL or is_division_by_number(node):
        return one
    return one if one == "scale" and op in SCALED else ""


def is_division_by_number(node: fx.Node) -> bool:
    """Whether it is ``x / 2``, or by another number."""
    return node.target is aten.div.Tensor and isinstance(node.args[1], (int, float))


def is_hard_gate(node: fx.Node) -> bool:
    """Whether it is like ``relu6(x + 3)``: a number added, then cut off at 0 and above that number."""
    if node.target not in (aten.hardtanh.default, aten.clamp.default) or len(node.args) < 3:
        return False
    low: Any
    high: Any
    x, low, high = node.args[:3]
    if not isinstance(x, fx.Node) or x.target not in (aten.add.Tensor, aten.add.Scalar) or x.kwargs:
        return False
    number: Any = x.args[1]
    return isinstance(number, (int, float)) and isinstance(high, (int, float)) and low == 0 and bool(0 < number < high)


def is_negative_power(node: fx.Node) -> bool:
    """Whether it is ``x ** -k``."""
    if node.target is aten.pow.Tensor_Scalar:
        return isinstance(node.args[1], (int, float)) and node.args[1] < 0
    return False


def adds_something(node: fx.Node) -> bool:
    """Whether a number other than zero is added; a tensor may hold zeros."""
    return any(isinstance(a, (int, float)) and a != 0 for a in node.args)
