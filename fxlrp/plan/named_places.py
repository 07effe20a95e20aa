"""Places in a graph by name: module outputs and inputs, nodes, parameters, and views on them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.errors import SignatureError
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env
from fxlrp.ir.ops import COPIES
from fxlrp.ir.program import Captured, is_floating
from fxlrp.passes.manager import shape_of
from fxlrp.plan.module_inputs import find_module_input, list_entered_modules, note_hidden_norm
from fxlrp.plan.read_points import Point, list_points

aten = torch.ops.aten

REARRANGEMENTS = (
    *COPIES,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten._to_copy.default,
)
"""What may stand between an output projection and the end of its module."""


@dataclass(frozen=True)
class Place:
    """A point in the graph and how its relevance is shown.

    Attributes:
        point: Where relevance is read.
        views: Applied to what is read, in order.
        coefficient: Read the coefficient ``c = R / x`` in place of relevance.
    """

    point: Point
    views: tuple[Callable[[Tensor], Tensor], ...] = ()
    coefficient: bool = False

    @property
    def node(self) -> fx.Node:
        """The node whose value is that of the point, or is computed from it."""
        return self.point.node

    def read(self, env: Env, found: Mapping[Any, Any]) -> Tensor:
        """Return what arrived here; zeros if nothing did."""
        carried = found.get(self.point if self.point.norms else self.node)
        if carried is None:
            x = numerics.widen(env[self.node])
            shown = torch.zeros_like(x if self.coefficient else x.real)
        else:
            shown = (self.point.coefficient if self.coefficient else self.point.relevance)(carried, env)
        for view in self.views:
            shown = view(shown)
        return shown


def name_points(captured: Captured) -> dict[str, Point]:
    """Return every name that a place can have: nodes, module outputs, parameters and buffers."""
    nodes = [node for node in captured.graph.nodes if node not in captured.names]
    found = {name: Point(node) for node in nodes for name in (node.name, *node.meta.get("reads", []))}
    inside = [point for node in nodes for point in list_points(node)[1:]]
    found |= {name: point for point in inside for name in point.norms[0].outputs}
    return found | {name: Point(node) for name, node in name_parameters(captured).items()}


def name_parameters(captured: Captured) -> dict[str, fx.Node]:
    """Return parameters and buffers by name; of tied ones torch.export uses one, which serves the names of all."""
    stands_for: dict[int, fx.Node] = {}
    for node, value in captured.constants.items():
        if node.users or id(value) not in stands_for:
            stands_for[id(value)] = node
    return {
        name: stands_for[id(captured.constants[node])] for node, name in captured.names.items() if is_floating(node)
    }


def find_places(
    captured: Captured, patterns: Collection[str], live: Collection[fx.Node], constants: Collection[fx.Node]
) -> dict[str, Place]:
    """Find places by name for patterns, each with views behind colons.

    Args:
        captured: The canonical model.
        patterns: Names or patterns of them; parameters and buffers are meant where nothing else fits.
        live: Nodes that relevance reaches.
        constants: Parameters and buffers that it could reach.

    Raises:
        SignatureError: If a pattern fits nothing, or only what relevance does not reach, or a view does not fit.
    """
    known = name_points(captured)
    values = {name: point.node in live for name, point in known.items() if point.node not in captured.constants}
    parameters = {name: node in constants for name, node in name_parameters(captured).items()}
    calls = dict.fromkeys((call for node in captured.graph.nodes for call in list_entered_modules(node) if call), True)
    found: dict[str, Place] = {}
    for pattern in patterns:
        path, *views = pattern.split(":")
        inside = views[:1] == ["input"]
        note = note_hidden_norm(captured.graph, path)
        for name in match_names(path, [calls] if inside else [values, parameters], pattern, note):
            label = f"read={pattern!r}"
            point = find_module_input(captured.graph, name, live, f"read='{name}:input'") if inside else known[name]
            found[":".join([name, *views])] = apply_views(point, views[inside:], label)
    return found


def match_names(path: str, tables: Sequence[Mapping[str, bool]], pattern: str, note: str) -> list[str]:
    """Return the names that fit a pattern and are reached, of the first table that has any."""
    for known in tables:
        if found := [name for name, reached in known.items() if reached and fnmatch.fnmatchcase(name, path)]:
            return found
    every = [item for known in tables for item in known.items()]
    close = ", ".join(get_close_matches(path, [name for name, reached in every if reached], 5, 0.3))
    fits = any(fnmatch.fnmatchcase(name, path) for name, _ in every)
    why = "fits only what relevance does not reach" if fits else "fits no module, no graph node and no parameter"
    raise SignatureError(f"read={pattern!r} {why}. Close to it: {close or 'nothing'}{note}")


def apply_views(point: Point, views: list[str], label: str) -> Place:
    """Return the place behind the views of a name.

    Args:
        point: The point of that name.
        views: What stands behind its colons.
        label: What an error calls it.

    Raises:
        SignatureError: If a view is unknown or does not fit the value.
    """
    place = Place(point)
    for view in views:
        name, _, numbers = view.partition("=")
        if name not in VIEWS:
            raise SignatureError(f"{label}: there is no view {name!r}; there are input, {', '.join(VIEWS)}")
        try:
            place = VIEWS[name](place, [int(n) for n in numbers.split(",")] if numbers else [])
        except ValueError as error:
            raise SignatureError(f"{label}: {error}") from None
    return place


def view_heads(place: Place, numbers: list[int]) -> Place:
    """Show the relevance of each attention head: the last dimension in equal groups, each of them summed.

    An output projection mixes heads; behind one, its input is read.
    """
    node = skip_projection(place.node)
    if node.target is aten.scaled_dot_product_attention.default:
        raise ValueError(f"the second dimension of {node.name} is its heads; read it as it is")
    size = shape_of(node)[-1] if shape_of(node) else 0
    if len(numbers) != 1 or numbers[0] < 1 or size % numbers[0]:
        raise ValueError(f"heads=N divides the last dimension of {node.name}, of shape {shape_of(node)}")
    (count,) = numbers
    place = place if node is place.node else replace(place, point=Point(node))
    return replace(place, views=(*place.views, lambda r: r.reshape(*r.shape[:-1], count, -1).sum(-1)))


def skip_projection(node: fx.Node) -> fx.Node:
    """Return the input of the linear layer that a value comes out of, else the value itself."""
    end = node
    while end.target in REARRANGEMENTS:
        end = end.all_input_nodes[0]
    return end.all_input_nodes[0] if end.target is aten.linear.default else node


def make_index_view(dim: int) -> Callable[[Place, list[int]], Place]:
    """Make a view on some entries of a dimension."""

    def view(place: Place, numbers: list[int]) -> Place:
        sizes = shape_of(place.node)
        if not numbers or len(sizes) < 2 or any(not 0 <= n < sizes[dim] for n in numbers):
            raise ValueError(f"give indices in dimension {dim} of {place.node.name}, of shape {sizes}")
        return replace(place, views=(*place.views, lambda r: r[(slice(None),) * (dim % r.ndim) + (numbers,)]))

    return view


def view_coefficient(place: Place, numbers: list[int]) -> Place:
    """Show ``c`` in place of ``R = x * c``."""
    return replace(place, coefficient=True)


VIEWS: dict[str, Callable[[Place, list[int]], Place]] = {
    "heads": view_heads,
    "neurons": make_index_view(-1),
    "channels": make_index_view(1),
    "coefficient": view_coefficient,
}
"""What can stand behind a colon."""
