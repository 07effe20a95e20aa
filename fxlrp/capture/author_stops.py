"""Where the author of a model stopped gradients: written into an exported graph so that decomposition keeps it.

Autograd forgets three things, and so does relevance. What is computed while gradients are off has none. A view taken
while they are off, or by ``detach``, shares its memory with a tensor that has one, and carries none itself. What is
then written into such memory changes values, and the gradient passes as if nothing had been written.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload, tree_leaves
from fxlrp.ir.graphs import call_op
from fxlrp.ir.program import is_floating
from fxlrp.ir.stop_gradient import HOLD, STRAIGHT

aten = torch.ops.aten
STOPPED = "fxlrp_stopped"
"""Key of the annotation of nodes that ran while gradients were off."""
GRADIENTS, AUTOCAST = (
    torch.ops.higher_order.wrap_with_set_grad_enabled,
    torch.ops.higher_order.wrap_with_autocast,
)
DETACH = (aten.detach.default, aten.detach_.default)


def keep_stops(module: fx.GraphModule, stopped: bool = False) -> None:
    """Put an op that lasts wherever a gradient ends, in the regions of the graph too.

    Args:
        module: An exported graph, in which ops may write in place; changed.
        stopped: Whether gradients are off where nothing else is said.
    """
    inline_regions(module)
    graph = module.graph
    for node in graph.nodes:
        if is_region(node):
            keep_stops(getattr(module, node.args[4].target), is_stopped(node, stopped))
    found = follow_memory(graph, stopped)
    for write, place in found.writes:
        pass_straight(write, place)
    hold_fresh(found)
    hold_views(found)
    for node in graph.nodes:
        node.meta.pop("custom", None)
    module.recompile()


def is_stopped(node: fx.Node, otherwise: bool) -> bool:
    """Return whether gradients were off when the node ran; the graph's output is read with gradients."""
    return node.op != "output" and bool((node.meta.get("custom") or {}).get(STOPPED, otherwise))


def inline_regions(module: fx.GraphModule) -> None:
    """Move the regions in which gradients are off, or on again, into the graph; their nodes say so from then on."""
    for node in list(module.graph.nodes):
        if node.target is not GRADIENTS:
            continue
        region = getattr(module, node.args[1].target)
        inline_regions(region)
        results = copy_region(module, node, region)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def copy_region(module: fx.GraphModule, call: fx.Node, region: fx.GraphModule) -> Any:
    """Copy a region in front of its call and return its outputs."""
    given = dict(zip(region.graph.find_nodes(op="placeholder"), call.args[2:], strict=True))
    copies: dict[fx.Node, Any] = dict(given)
    with module.graph.inserting_before(call):
        outputs = module.graph.graph_copy(region.graph, copies)
    for node, copy in copies.items():
        if node not in given:
            copy.meta["custom"] = {STOPPED: not call.args[0], **(node.meta.get("custom") or {})}
        if node.op == "get_attr":
            copy.target = f"{call.args[1].target}_{node.target}"  # type: ignore[union-attr]
            setattr(module, copy.target, getattr(region, str(node.target)))
    return outputs


@dataclass
class Memory:
    """Which nodes share memory, and what of it carries a gradient.

    Attributes:
        stopped: Whether gradients are off where nothing else is said.
        source: The node that a node shares its memory with.
        fresh: Nodes with memory of their own and no gradient.
        apart: Views that carry no gradient to what they show.
        writes: Ops that write in place without a gradient, with what they write to.
    """

    stopped: bool
    source: dict[fx.Node, fx.Node] = field(default_factory=dict)
    fresh: dict[fx.Node, None] = field(default_factory=dict)
    apart: dict[fx.Node, None] = field(default_factory=dict)
    writes: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)

    def root(self, node: fx.Node) -> fx.Node:
        """Find the node that made the memory, as far as this graph knows."""
        while node in self.source:
            node = self.source[node]
        return node


def follow_memory(graph: fx.Graph, stopped: bool) -> Memory:
    """Follow memory through a graph; a ``detach`` becomes the view that it is."""
    found = Memory(stopped)
    for node in graph.nodes:
        if node.op != "call_function" or (node.target is operator.getitem and is_region(node.args[0])):
            continue
        off = is_stopped(node, stopped)
        if node.target in DETACH:
            node.target, off = aten.alias.default, True
        written, shown = find_aliased(node, write=True), find_aliased(node, write=False)
        found.writes += [(node, place) for place in written if off or place in found.apart]
        same = written or (find_returned(node) if off else [])
        if source := same or shown:
            found.source[node] = source[0]
            if (off and not same) or source[0] in found.apart:
                found.apart[node] = None
        elif off:
            found.fresh[node] = None
    return found


def is_region(node: Any) -> bool:
    """Return whether a node calls a region with other rules of casting, whose outputs are held inside."""
    return node.target is AUTOCAST


def find_aliased(node: fx.Node, *, write: bool) -> list[fx.Node]:
    """Find the arguments that a node writes to, or those that its result shows without writing to them."""
    if node.target is operator.getitem:
        return [] if write else [node.args[0]]  # type: ignore[list-item]
    schema = getattr(node.target, "_schema", None)
    found: list[Any] = []
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write == write:
            found += tree_leaves(node.args[i] if i < len(node.args) else node.kwargs.get(argument.name))
    return [leaf for leaf in found if isinstance(leaf, fx.Node)]


def find_returned(node: fx.Node) -> list[fx.Node]:
    """Find the argument that an op returned as it is, such as a cast to the same dtype: it keeps its gradient."""
    made, given = node.meta.get("val"), next(iter(node.all_input_nodes), None)
    val = given.meta.get("val") if given is not None else None
    if not (isinstance(made, Tensor) and isinstance(val, Tensor) and isinstance(node.target, OpOverload)):
        return []
    if (made.shape, made.dtype) != (val.shape, val.dtype) or not node.target._can_decompose():
        return []
    with val.fake_mode, torch.no_grad():  # type: ignore[attr-defined]
        return [given] if call_op(node, lambda n: n.meta["val"]) is val else []  # type: ignore[list-item]


def pass_straight(write: fx.Node, place: fx.Node) -> None:
    """Let the gradient pass a write as if it had not been made."""
    graph = write.graph

    def call(op: Any, *args: fx.Node) -> fx.Node:
        new = graph.call_function(op, args)
        new.meta = {**write.meta, "val": place.meta["val"], "custom": {STOPPED: True}}
        return new

    with graph.inserting_before(write):
        old = call(aten.clone.default, place)
    with graph.inserting_before(write.next):
        call(aten.copy_.default, place, call(STRAIGHT, old, call(HOLD, place)))


def hold_fresh(found: Memory) -> None:
    """Hold what was computed without a gradient, where something with gradients uses it or a view of it."""
    used = set()
    for node in [*found.fresh, *found.source]:
        if any(not is_stopped(user, found.stopped) for user in node.users):
            used.add(found.root(node))
    for node in (n for n in found.fresh if n in used):
        parts = [node] if isinstance(node.meta["val"], Tensor) else [*node.users]
        for part in filter(is_floating, parts):
            held = insert_hold(part, part.next)
            part.replace_all_uses_with(held)
            held.args = (part,)


def hold_views(found: Memory) -> None:
    """Hold views that carry no gradient wherever something with gradients reads them."""
    for node in found.apart:
        if found.root(node) in found.fresh or not is_floating(node):
            continue
        shown = node.args[0] if node.target is aten.alias.default else node
        for user in list(node.users):
            if found.source.get(user) is not node and not is_stopped(user, found.stopped):
                user.replace_input_with(node, insert_hold(shown, user))


def insert_hold(node: Any, before: fx.Node) -> fx.Node:
    """Hold the value of a node, in front of another node."""
    with before.graph.inserting_before(before):
        held = before.graph.call_function(HOLD, (node,))
    held.meta.update(node.meta)
    return held
