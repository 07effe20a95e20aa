"""What a module takes from outside, where norms were merged into ops of other modules."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection

from torch import fx

from fxlrp.errors import SignatureError
from fxlrp.ir.provenance import find_modules
from fxlrp.plan.read_points import Point, list_points


def find_module_input(graph: fx.Graph, path: str, live: Collection[fx.Node], label: str) -> Point:
    """Find the one value with relevance that a module takes from outside; errors begin with the label.

    Raises:
        SignatureError: If there is none, or several, naming them.
    """
    inside = {node for node in graph.nodes if path in find_modules(node)}
    taken: dict[Point, None] = {}
    for node in graph.nodes:
        given = (
            [n for n in node.all_input_nodes if n not in inside]
            if node in inside or has_fronted_norm(node, path)
            else []
        )
        taken |= {find_entry_point(n, path): None for n in given}
        if node not in inside and find_entry_point(node, path).norms:
            taken[find_entry_point(node, path)] = None
        hidden = [norm.name for norm in node.meta.get("fronted", ()) if path not in norm.inside]
        if node in inside and hidden and any(n in live for n in given):
            raise SignatureError(f"{label}: the norm {hidden[-1]} was merged into {node.name}, which takes its input")
    found = [point for point in taken if point.node in live]
    if len(found) != 1:
        listed = ", ".join(point.node.name for point in found) or "none"
        raise SignatureError(f"{label}: relevance leaves {path} by {len(found)} inputs; name one: {listed}")
    return found[0]


def find_entry_point(node: fx.Node, path: str) -> Point:
    """Find what a module takes of a node outside of it: if norms of the module were merged, what they norm."""
    return next(point for point in reversed(list_points(node)) if not point.norms or path in point.norms[0].inside)


def list_entered_modules(node: fx.Node) -> list[str]:
    """List the module calls that a node runs in, or that a norm ran in which was merged into it."""
    norms = (*node.meta.get("merged", ()), *node.meta.get("fronted", ()))
    return [*find_modules(node), *(call for norm in norms for call in sorted(norm.inside))]


def has_fronted_norm(node: fx.Node, path: str) -> bool:
    """Return whether a norm of the module was merged into a linear op behind it."""
    return any(path in norm.inside for norm in node.meta.get("fronted", ()))


def note_hidden_norm(graph: fx.Graph, path: str) -> str:
    """Note that a name is that of a norm which was merged into the op behind it; empty if it is not."""
    for node in graph.nodes:
        for norm in node.meta.get("fronted", ()):
            if any(fnmatch.fnmatchcase(name, path) for name in norm.outputs):
                return f". The norm {norm.name} was merged into {node.name} behind it, which takes its input"
    return ""
