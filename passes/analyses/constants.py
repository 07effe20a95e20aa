"""Which of the model's own tensors a constant comes from, and a copy of the graph without additive ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from fxlrp.ir.ops import name_arguments
from fxlrp.ir.program import Captured, find_op, is_floating
from fxlrp.ir.rule import RULES
from fxlrp.passes.manager import find_input_dependent, insert

aten = torch.ops.aten

ADDITIVE_KINDS = ("linear", "norms")
"""Kinds of rules whose ops add their constants to what the operands give."""


FACTOR_ARGUMENTS = ("weight", "running_var", "per_sample_weights", "grid")
"""Their arguments that multiply or place, and add nothing."""


def find_origins(captured: Captured) -> dict[fx.Node, tuple[str, ...]]:
    """Find the names of the parameters and buffers that each constant node is computed from."""
    dependent = find_input_dependent(captured.graph)
    found: dict[fx.Node, tuple[str, ...]] = {}
    for node in captured.graph.nodes:
        if node in captured.names:
            found[node] = (captured.names[node],)
        elif node not in dependent:
            names = dict.fromkeys(name for n in node.all_input_nodes for name in found.get(n, ()))
            found[node] = tuple(names)
    return found


def find_additive(node: fx.Node, constants: Mapping[fx.Node, tuple[str, ...]]) -> list[fx.Node]:
    """Find the constants that an op of degree 1 adds: biases, class tokens, position tables, fill values."""
    rule = RULES.get(find_op(node))
    if rule is None or rule.kind not in ADDITIVE_KINDS:
        return []
    factors = [arg for name, arg in name_arguments(node).items() if name in FACTOR_ARGUMENTS]
    return [n for n in node.all_input_nodes if n in constants and is_floating(n) and n not in factors]


def is_bias(node: fx.Node, constant: fx.Node) -> bool:
    """Whether the op's schema calls the operand its bias."""
    return name_arguments(node).get("bias") is constant


def remove_biases(captured: Captured) -> int:
    """Put zeros in place of everything additive that comes from a parameter.

    The model then is another one, of which relevance can be lost in its nonlinear ops only.
    """
    constants = find_origins(captured)
    own = {captured.names[node] for node in captured.parameters}
    hits = 0
    for node in list(captured.graph.nodes):
        if node.op != "call_function":
            continue
        for constant in find_additive(node, constants):
            # among constants a sum with a parameter may make a weight, such as 1 + w; a bias is a bias
            inside = node in constants and not is_bias(node, constant)
            if own & set(constants[constant]) and not inside:
                node.replace_input_with(constant, insert(node, aten.zeros_like.default, constant))
                hits += 1
    return hits
