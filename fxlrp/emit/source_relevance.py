"""Relevance of the inputs: of numbers as it arrives, of tokens gathered from what they looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten
from fxlrp.emit.trace import read_relevance
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env
from fxlrp.ir.ops import MOVES
from fxlrp.ir.program import AttributedInput
from fxlrp.ir.rule import Site
from fxlrp.passes.manager import is_same_shape


def read_attributed_input(source: AttributedInput, env: Env, found: Mapping[Any, Any]) -> Tensor:
    """Return the relevance of an attributed input, in the shape of the input if it was followed there."""
    r = read_relevance(env[source.node], found.get(source.node))
    if source.dims is None:
        return r
    if rest := [dim for dim in range(r.ndim) if dim not in source.dims]:
        r = r.sum(rest)
    for node, operand in reversed(source.steps):
        moved = node.target in MOVES and node is not source.node
        r = move_back(node, operand, r, env) if moved else sum_broadcast(r, env[operand])
    return r


def sum_broadcast(r: Tensor, x: Tensor) -> Tensor:
    """Sum the numbers of a result where an operand was broadcast."""
    return r if is_same_shape(tuple(r.shape), tuple(x.shape)) else r.sum_to_size(x.shape)


def move_back(node: fx.Node, operand: fx.Node, r: Tensor, env: Env) -> Tensor:
    """Move numbers back to the places that they came from: the adjoint of the move."""
    given, spec = tree_flatten((node.args, node.kwargs))
    slot = next(i for i, leaf in enumerate(given) if leaf is operand)
    leaves = [env[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in given]
    leaves[slot] = torch.zeros_like(leaves[slot], dtype=r.dtype)
    numbers = [numerics.widen(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return Site(node.target, tuple(numbers), spec, (slot,), r).adjoint(r)[0]
