"""Runs passes: the graph is legal before and after each, not during."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import SymInt, Tensor, fx

from fxlrp._torch import FakeTensor, statically_known_true, tree_flatten
from fxlrp.ir.ops import erase_dead_code

log = logging.getLogger("fxlrp")

Pass = Callable[[fx.Graph], int]
Rewrite = Callable[[fx.Node], "fx.Node | None"]

META_OF_VALUE = ("val", "tensor_meta", "reads", "merged", "fronted", "apart", "norm")
"""What the meta of a node says of its value, which is not that of the nodes that are inserted for it."""


def run_passes(
    module: fx.GraphModule,
    passes: Iterable[tuple[str, Pass]],
    after: Callable[[str, fx.GraphModule], None] | None = None,
) -> dict[str, int]:
    """Run passes in order, in place, and return the number of rewrites of each.

    Args:
        module: The graph module to change.
        passes: Name and pass, in order.
        after: Called after each pass, to verify, print or time it.
    """
    counts: dict[str, int] = {}
    for name, apply in passes:
        try:
            counts[name] = apply(module.graph)
            erase_dead_code(module.graph)
            module.graph.lint()
            if after is not None:
                after(name, module)
        except Exception as error:
            error.add_note(f"while running pass {name!r}")
            raise
        log.debug("%-28s %4d rewrites, %d nodes", name, counts[name], len(module.graph.nodes))
    if counts:
        module.recompile()
    return counts


def make_sweep(rewrites: Mapping[Any, Rewrite]) -> Pass:
    """Make a pass of local rewrites by op. A rewrite returns the node to use instead, or None to leave it."""

    def one_sweep(graph: fx.Graph) -> int:
        hits = 0
        for node in list(graph.nodes):
            rewrite = rewrites.get(node.target) if node.op == "call_function" else None
            if rewrite is not None and (new := rewrite(node)) is not None:
                substitute(node, new)
                hits += 1
        return hits

    return one_sweep


def substitute(old: fx.Node, new: fx.Node) -> None:
    """Use ``new`` wherever ``old`` was used; the module outputs that ``old`` stood for move along."""
    old.replace_all_uses_with(new)
    if "reads" in old.meta:
        new.meta["reads"] = [*new.meta.get("reads", []), *old.meta.pop("reads")]
    old.graph.erase_node(old)


def insert(before: fx.Node, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """Insert a call before a node: computed on the fake values, with the origin of that node."""
    values, named = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
    with before.graph.inserting_before(before):
        new = before.graph.call_function(op, args, kwargs)
    new.meta = {k: v for k, v in before.meta.items() if k not in META_OF_VALUE}
    fake = next(v for v in tree_flatten((values, named))[0] if isinstance(v, FakeTensor))
    with fake.fake_mode:
        new.meta["val"] = op(*values, **named)
    return new


def find_input_dependent(graph: fx.Graph) -> set[fx.Node]:
    """Find the nodes that depend on the values of the user's inputs: what is not among them is constant."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        dependent = any(n in found for n in node.all_input_nodes) and not isinstance(node.meta.get("val"), SymInt)
        if node.meta.get("user_input") or dependent:
            found.add(node)
    return found


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    """Return the shape of a node's value; empty if it is no tensor."""
    val = node.meta.get("val")
    return tuple(val.shape) if isinstance(val, Tensor) else ()


def is_same_shape(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether two shapes are known to be equal, without a guard on sizes that depend on data."""
    return len(a) == len(b) and all(statically_known_true(n == m) for n, m in zip(a, b, strict=True))
