"""Which values are proved to have no negative entry, whatever the inputs and parameters are; NaN is not negative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import SymFloat, SymInt, Tensor, fx

from fxlrp._torch import statically_known_true
from fxlrp.ir.ops import AVERAGE_POOLS, CLAMPS, LAYOUTS, MAX_POOLS, REDUCTIONS, name_arguments

aten = torch.ops.aten

Known = Callable[[Any], bool]
"""Whether a number, a node, or every one of a list is proved to be at least 0."""
Proof = Callable[[Mapping[str, Any], Known], bool]
"""Whether an op's result has no negative entry, from its arguments by name."""

UNSIGNED = (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def find_nonnegative(graph: fx.Graph) -> set[fx.Node]:
    """Find the nodes whose entries are proved to be at least 0."""
    found: set[fx.Node] = set()

    def known(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(known, value))
        return value in found if isinstance(value, fx.Node) else isinstance(value, (int, float)) and value >= 0

    for node in graph.nodes:
        if is_nonnegative_by_type(node.meta.get("val")) or is_nonnegative_by_op(node, known):
            found.add(node)
    return found


def is_nonnegative_by_type(value: object) -> bool:
    """Whether no value of the dtype is negative, or no size that the guards admit."""
    if isinstance(value, (SymInt, SymFloat)):
        return statically_known_true(value >= 0)
    return isinstance(value, Tensor) and value.dtype in UNSIGNED


def is_nonnegative_by_op(node: fx.Node, known: Known) -> bool:
    """Whether the op proves it. Sums and products of signed integers, and casts to them, may wrap around."""
    value, proof = node.meta.get("val"), PROOFS.get(node.target)
    if proof is None or not isinstance(value, Tensor):
        return False
    if node.target is aten._to_copy.default and not value.is_floating_point():
        return is_truth(node.args[0])
    return (value.is_floating_point() or proof is prove_moved) and proof(name_arguments(node), known)


def is_truth(node: Any) -> bool:
    """Whether a node holds truth values, which are 0 and 1 in every other dtype."""
    return bool(node.meta["val"].dtype is torch.bool)


def prove_always(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it by the function's range."""
    return True


def prove_moved(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of entries that are moved, repeated, or left out."""
    return known(a["tensors"] if "tensors" in a else a["self"])


def prove_average(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of sums and means, with zeros for what is padded; a divisor of the caller's may be negative."""
    return known(a["self"]) and (a.get("divisor_override") is None or known(a["divisor_override"]))


def prove_pool(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of the largest of a window, which with a dilation may hold nothing but padding: minus infinity."""
    dilation = a["dilation"]
    return known(a["self"]) and all(d == 1 for d in (dilation if isinstance(dilation, (list, tuple)) else [dilation]))


def prove_sum(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of a sum with a weight."""
    return known(a["self"]) and known(a["other"]) and known(a["alpha"])


def prove_product(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of a product."""
    return known(a["self"]) and known(a["other"])


def prove_maximum(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of the larger of two."""
    return known(a["self"]) or known(a["other"])


def prove_clamp(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of what is between two bounds, of which the upper one wins where they cross."""
    low, high = (a.get(name, a.get(f"{name}_val")) for name in ("min", "max"))
    return (known(a["self"]) or known(low)) and (high is None or known(high))


def prove_softplus(a: Mapping[str, Any], known: Known) -> bool:
    """Prove it of ``log(1 + exp(b x)) / b``, and x where ``b x`` is above a threshold."""
    beta, threshold = a["beta"], a["threshold"]
    return isinstance(beta, (int, float)) and beta > 0 and known(threshold)


PROOFS: dict[Any, Proof] = {
    **dict.fromkeys(
        (
            aten.relu.default,
            aten.sigmoid.default,
            aten.hardsigmoid.default,
            aten.exp.default,
            aten.abs.default,
            aten.softmax.int,
            aten.sqrt.default,
            aten.linalg_vector_norm.default,
        ),
        prove_always,
    ),
    **dict.fromkeys((*LAYOUTS, aten._to_copy.default), prove_moved),
    **dict.fromkeys((*REDUCTIONS, aten.sum.default, aten.amax.default, *AVERAGE_POOLS), prove_average),
    **dict.fromkeys(MAX_POOLS, prove_pool),
    **dict.fromkeys((*CLAMPS, aten.hardtanh.default), prove_clamp),
    aten.add.Tensor: prove_sum,
    aten.mul.Tensor: prove_product,
    aten.maximum.default: prove_maximum,
    aten.softplus.default: prove_softplus,
}
"""Not `rsqrt`, which of -0 is minus infinity."""
