"""Where relevance is read: floating inputs, and the rows that integer inputs look up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.errors import SignatureError
from fxlrp.ir.ops import MOVES, is_elementwise, name_arguments
from fxlrp.ir.program import AttributedInput, Captured, find_op, is_floating
from fxlrp.ir.provenance import describe, module_path
from fxlrp.passes.manager import find_input_dependent, shape_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Trail:
    """Which input a tensor of integers is computed from, position by position.

    Attributes:
        name: Name of the input.
        steps: The nodes on the way, each with the node before it.
    """

    name: str
    steps: tuple[tuple[fx.Node, fx.Node], ...] = ()

    def extend(self, node: fx.Node, operand: fx.Node) -> Trail:
        """Return the trail one step on."""
        return Trail(self.name, (*self.steps, (node, operand)))


Trails = dict[fx.Node, Trail | None]
"""By node that is computed from integer inputs; None where one position is not one position of one input."""


def find_sources(captured: Captured) -> list[AttributedInput]:
    """Find where relevance is read: floating inputs, and lookups whose indices come from an integer input.

    The relevance of a token is the sum over the entries of a table that it looked up, as it stands in the input: a
    token that was moved, cast, shifted or masked before the lookup is found again. Lookups by what is counted from
    tokens (positions), or by several inputs at once, are reported under their module's name or their own.

    Raises:
        SignatureError: If an integer input takes entries of a parameter by an op that is none of the known lookups.
    """
    found = [AttributedInput(node, node.name) for node in captured.inputs if is_floating(node)]
    live = {source.node for source in found}
    trails: Trails = {node: Trail(node.name) for node in captured.inputs if is_integer(node)}
    tables, needed = find_learned(captured), find_ancestors(captured.explained)
    for node in captured.graph.nodes:
        inputs = [n for n in node.all_input_nodes if n in trails]
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            continue
        if not live.isdisjoint(node.all_input_nodes):
            live |= {node} if is_floating(node) else set()
        elif inputs and (source := find_lookup(node, trails, tables)):
            found.append(source)
            live.add(node)
        elif inputs:
            trails[node] = follow_trail(node, trails)
            if node in needed:
                refuse_unknown_lookup(node, trails, tables)
    return found


def find_learned(captured: Captured) -> set[fx.Node]:
    """Find the parameters and what is computed from them without an input."""
    dependent, found = find_input_dependent(captured.graph), set(captured.parameters)
    for node in captured.graph.nodes:
        if node not in dependent and is_floating(node) and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def find_ancestors(end: fx.Node) -> set[fx.Node]:
    """Find a node and everything that it is computed from."""
    found, rest = {end}, [end]
    while rest:
        new = set(rest.pop().all_input_nodes) - found
        found |= new
        rest.extend(new)
    return found


def is_integer(node: fx.Node) -> bool:
    """Whether a node holds integers."""
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def follow_trail(node: fx.Node, trails: Trails) -> Trail | None:
    """Return the trail of a node that is no lookup."""
    operands = [n for n in node.all_input_nodes if n in trails and not is_boolean(n)]
    if len(operands) != 1 or is_boolean(node):
        return follow_one_hot(node, trails)
    (operand,) = operands
    moved = node.target in MOVES and (node.args[0] is operand or node.target is aten.cat.default)
    trail = trails[operand]
    return trail.extend(node, operand) if trail is not None and (moved or is_elementwise(node.target)) else None


def is_boolean(node: fx.Node) -> bool:
    """Whether a node holds truth values."""
    return getattr(node.meta.get("val"), "dtype", None) is torch.bool


def follow_one_hot(node: fx.Node, trails: Trails) -> Trail | None:
    """Return the trail of integers in one-hot form: where they are equal to a range, or what that is cast to."""
    if node.target is aten._to_copy.default:
        operand: Any = node.args[0]
        trail = trails.get(operand)
        return trail.extend(node, operand) if trail is not None else None
    pair: tuple[Any, ...] = node.args if node.target is aten.eq.Tensor else ()
    for operand, other in (pair, pair[::-1]) if pair else ():
        if isinstance(other, fx.Node) and other.target is aten.arange.start_step and trails.get(operand) is not None:
            return trails[operand].extend(node, operand)  # type: ignore[union-attr]
    return None


def find_lookup(node: fx.Node, trails: Trails, tables: set[fx.Node]) -> AttributedInput | None:
    """Return the source that a node is, if it takes entries of a table by integers."""
    found = LOOKUPS[node.target](node, tables) if node.target in LOOKUPS else read_one_hot(node, trails, tables)
    if found is None:
        return None
    indices, dims = found
    by = {n: trails[n] for n in indices if n in trails}
    if not by or (any(is_boolean(n) for n in indices) and node.target in LOOKUPS):
        return None
    name, trail = module_path(node) or node.name, next(iter(by.values()))
    if len(by) > 1 or trail is None:
        return AttributedInput(node, name, dims)
    return AttributedInput(node, trail.name, dims, (*trail.steps, (node, next(iter(by)))))


LookupIndices = tuple[list[fx.Node], tuple[int, ...]]
"""The integers by which a lookup takes entries, and the dimensions of its output in which they are laid out."""


def read_embedding(node: fx.Node, tables: set[fx.Node]) -> LookupIndices | None:
    """Read rows of any table: parameters, buffers, and what is computed from them."""
    index: Any = node.args[1]
    return [index], tuple(range(len(shape_of(index))))


def read_index(node: fx.Node, tables: set[fx.Node]) -> LookupIndices | None:
    """Read ``table[:, ids]``: dimensions of integers stand where the first is, or first if others are between."""
    arguments: Any = node.args
    table, indices = arguments[:2]
    if table not in tables:
        return None
    places = [i for i, n in enumerate(indices) if n is not None]
    given = [indices[i] for i in places]
    start = places[0] if places[-1] - places[0] + 1 == len(places) else 0
    return given, tuple(range(start, start + max(len(shape_of(n)) for n in given)))


def read_index_select(node: fx.Node, tables: set[fx.Node]) -> LookupIndices | None:
    """Read ``table.index_select(dim, ids)``."""
    arguments: Any = node.args
    table, dim, index = arguments
    return ([index], (dim % len(shape_of(node)),)) if table in tables else None


def read_gather(node: fx.Node, tables: set[fx.Node]) -> LookupIndices | None:
    """Read ``table.gather(dim, ids)``: one entry for each."""
    arguments: Any = node.args
    table, _, index = arguments
    return ([index], tuple(range(len(shape_of(node))))) if table in tables else None


def read_one_hot(node: fx.Node, trails: Trails, tables: set[fx.Node]) -> LookupIndices | None:
    """Read integers in one-hot form as floating numbers, of which nothing but products with tables is taken."""
    arguments: Any = node.args
    if node.target is aten.scatter.value and name_arguments(node)["value"] == 1:
        zeros, dim, index, *_ = arguments
        known = shape_of(index)[dim] == 1 and is_zero(zeros)
    elif node.target is aten._to_copy.default:
        index = arguments[0]
        known = is_one_hot(index, trails)
    else:
        return None
    products = all(u.target is aten.linear.default and u.args[0] is node and u.args[1] in tables for u in node.users)
    if not (known and is_floating(node) and node.users and products):
        return None
    return [index], tuple(range(len(shape_of(node))))


def is_one_hot(node: Any, trails: Trails) -> bool:
    """Whether a node is the one-hot form of integers, not yet as floating numbers."""
    trail = trails.get(node)
    return trail is not None and any(step.target is aten.eq.Tensor for step, _ in trail.steps)


def is_zero(node: Any) -> bool:
    """Whether a node is a tensor of zeros."""
    return node.target in ZEROS or (node.target is aten.full.default and node.args[1] == 0)


ZEROS = (aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default)

LOOKUPS: dict[Any, Callable[[fx.Node, set[fx.Node]], LookupIndices | None]] = {
    aten.embedding.default: read_embedding,
    aten.index.Tensor: read_index,
    aten._unsafe_index.Tensor: read_index,
    aten.index_select.default: read_index_select,
    aten.gather.default: read_gather,
}


def refuse_unknown_lookup(node: fx.Node, trails: Trails, tables: set[fx.Node]) -> None:
    """Refuse an op by which integers take entries of a parameter that is none of the known lookups."""
    given = [n for n in node.all_input_nodes if n in trails and is_integer(n)]
    taken = [n for n in node.all_input_nodes if n in tables]
    if given and taken and is_floating(node) and not is_elementwise(node.target):
        raise SignatureError(
            f"integers of {given[0].name} take entries of {taken[0].name} by an op that is no known lookup, so that "
            f"their relevance cannot be told\n  at {describe(node)} ({find_op(node)})\n"
            "Use an embedding, an index, index_select or gather there, or explain the part of the model behind it."
        )
