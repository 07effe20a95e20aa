"""What a program computes of the model's tensors alone: once, and again when they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload

aten = torch.ops.aten


class Constants:
    """The values of a module without inputs, computed again at the first call after one of its tensors has changed.

    Changes are seen by the tensor's memory and by its version, which every in-place op counts; what is written
    through ``tensor.data`` is not counted by torch.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        names = dict.fromkeys(str(n.target) for n in module.graph.find_nodes(op="get_attr"))
        self.tensors = [t for name in names if isinstance(t := getattr(module, name), Tensor)]
        self.last: tuple[Hashable, tuple[Any, ...]] | None = None

    def __call__(self) -> tuple[Any, ...]:
        """The values, one for each placeholder that `split` put in their place."""
        state = None if any(t.is_inference() for t in self.tensors) else tuple(map(version, self.tensors))
        if state is None:  # tensors made in inference mode do not count changes
            return tuple(self.module())
        last = self.last
        if last is None or last[0] != state:
            self.last = last = state, tuple(self.module())
        return last[1]


def version(tensor: Tensor) -> Hashable:
    """Changes whenever the tensor does."""
    return tensor.data_ptr(), tensor._version, tensor.device


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """The program with a graph of its own, to be changed; its tensors are shared."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


def split(module: fx.GraphModule) -> tuple[fx.GraphModule, Constants]:
    """Divide a program into what depends on its inputs and what does not.

    Returns:
        A module that takes the inputs of the program and then the constants, and these constants.
    """
    fixed = constant(module.graph)
    kept = [n for n in fixed if n.op == "call_function" and any(user not in fixed for user in n.users)]
    return dependent(module, fixed, kept), Constants(independent(module, fixed, kept))


def constant(graph: fx.Graph) -> dict[fx.Node, None]:
    """Nodes that are the same at every call, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        calls = node.op == "call_function" and is_repeatable(node.target)
        if node.op == "get_attr" or (calls and all(n in found for n in node.all_input_nodes)):
            found[node] = None
    return found


def is_repeatable(target: object) -> bool:
    """Same arguments, same result: no random numbers, no writing, no assertion."""
    if isinstance(target, OpOverload):
        named = target._schema.name.startswith("aten::_assert")
        return not (named or target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags)
    return getattr(target, "__module__", "") in ("_operator", "operator")


def independent(module: fx.GraphModule, fixed: dict[fx.Node, None], kept: list[fx.Node]) -> fx.GraphModule:
    """The part without inputs, which returns ``kept``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in fixed:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in kept])
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def dependent(module: fx.GraphModule, fixed: dict[fx.Node, None], kept: list[fx.Node]) -> fx.GraphModule:
    """The part with inputs, behind which it takes ``kept``. What it returns of them is a copy, the caller's own."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.find_nodes(op="placeholder"):
        copies[node] = graph.node_copy(node)
    for node in kept:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    copy: Callable[[fx.Node], fx.Node] = copies.__getitem__
    for node in module.graph.nodes:
        if node.op == "output":
            for result in set(node.all_input_nodes).intersection(kept):
                copies[result] = graph.call_function(aten.clone.default, (copies[result],))
        if node not in copies and (node not in fixed or any(user not in fixed for user in node.users)):
            copies[node] = graph.node_copy(node, copy)
    return fx.GraphModule(module, graph)
