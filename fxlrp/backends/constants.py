"""What a program computes of the model's tensors alone: once, and again when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten
from fxlrp.backends.value_watch import ValueWatch
from fxlrp.ir.graphs import extract
from fxlrp.ir.ops import erase_dead_code, is_pure

aten = torch.ops.aten


class SharedValue:
    """What an expression of the model's tensors is worth, and in which state of the tensors."""

    def __init__(self) -> None:
        self.state = 0
        self.content: Any = None


class ConstantStore:
    """What the programs of one model compute of its tensors alone: each expression once, for as long as one needs it.

    Attributes:
        lock: Held while values are looked up or computed.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._watch = ValueWatch(())
        self._state = 1
        self._names: dict[Hashable, int] = {}
        self._values: WeakValueDictionary[int, SharedValue] = WeakValueDictionary()
        self._users: WeakSet[Constants] = WeakSet()

    def count_changes(self) -> int:
        """Return a number that is another one after a tensor has changed."""
        with self.lock:
            if self._watch.tensors and self._watch.changed():
                self._state += 1
            return self._state

    def register(self, user: Constants) -> list[SharedValue]:
        """Return the values that a program takes, still to be computed unless another program has them."""
        with self.lock:
            names: dict[fx.Node, int] = {}
            for node in user.fixed:
                if node.op == "get_attr":
                    held = getattr(user.module, str(node.target))
                    key: Hashable = id(held) if isinstance(held, Tensor) else repr(held)
                else:
                    key = make_call_key(node, names.__getitem__)
                names[node] = self._names.setdefault(key, len(self._names))
            self.count_changes()  # a change that nobody has asked for yet
            self._users.add(user)
            self._watch = ValueWatch(tensor for living in self._users for tensor in living.tensors)
            return [self._values.setdefault(names[node], SharedValue()) for node in user.kept]


HINT_ARGUMENTS: dict[Any, int] = {}
"""Argument of an op that makes its result faster to use for some, and not another one for any."""


def make_call_key(node: fx.Node, number: Callable[[fx.Node], Hashable]) -> Hashable:
    """Make a key that is equal for calls that compute the same of the same operands, which are told by number."""
    args = tuple(arg for i, arg in enumerate(node.args) if HINT_ARGUMENTS.get(node.target) != i)
    leaves, spec = tree_flatten((args, node.kwargs))
    numbered = (("node", number(x)) if isinstance(x, fx.Node) else (type(x), repr(x)) for x in leaves)
    return node.target, spec, tuple(numbered)


class Constants:
    """What a program computes of the model's tensors alone, computed again at the first call after one has changed.

    Args:
        module: The program.
        fixed: Its nodes that are the same at every call.
        kept: Those of them that the rest of it takes.
        store: Where programs of the same model share their values.
    """

    def __init__(
        self, module: fx.GraphModule, fixed: dict[fx.Node, None], kept: list[fx.Node], store: ConstantStore
    ) -> None:
        self.module, self.fixed, self.kept, self.store = module, fixed, kept, store
        held = (getattr(module, str(node.target)) for node in fixed if node.op == "get_attr")
        self.tensors = [x for x in held if isinstance(x, Tensor)]
        self.values = store.register(self)

    def __call__(self) -> tuple[Any, ...]:
        """Return the values, one for each placeholder that `split_constants` put in their place."""
        with self.store.lock:
            state = self.store.count_changes()
            stale = [i for i, value in enumerate(self.values) if value.state != state]
            if stale:
                module = extract_constant_part(self.module, self.fixed, [self.kept[i] for i in stale])
                for i, content in zip(stale, module(), strict=True):
                    self.values[i].state, self.values[i].content = state, content
            return tuple(value.content for value in self.values)


def copy_program(module: fx.GraphModule) -> fx.GraphModule:
    """Give the program a graph of its own, to be changed; its tensors are shared."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


def split_constants(module: fx.GraphModule, store: ConstantStore | None = None) -> tuple[fx.GraphModule, Constants]:
    """Divide a program into what depends on its inputs and what does not.

    Args:
        module: The program.
        store: Where the programs of its model share what they compute of the model's tensors alone.

    Returns:
        A module that takes the inputs of the program and then the constants, and these constants.
    """
    fixed = find_constant_nodes(module.graph)
    kept = [n for n in fixed if n.op == "call_function" and any(user not in fixed for user in n.users)]
    return extract_varying_part(module, fixed, kept), Constants(module, fixed, kept, store or ConstantStore())


def find_constant_nodes(graph: fx.Graph) -> dict[fx.Node, None]:
    """Nodes that are the same at every call, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "get_attr" or (is_pure(node) and all(n in found for n in node.all_input_nodes)):
            found[node] = None
    return found


def extract_constant_part(module: fx.GraphModule, fixed: dict[fx.Node, None], kept: list[fx.Node]) -> fx.GraphModule:
    """Return the part without inputs, which computes ``kept``."""
    part = extract(fixed, (), kept)
    erase_dead_code(part)
    return fx.GraphModule(module, part)


def extract_varying_part(module: fx.GraphModule, fixed: dict[fx.Node, None], kept: list[fx.Node]) -> fx.GraphModule:
    """Return the part with inputs, behind which it takes ``kept``; what it returns of them is the caller's own copy."""
    inputs = [*module.graph.find_nodes(op="placeholder"), *kept]
    varying = [n for n in module.graph.nodes if n not in fixed or any(user not in fixed for user in n.users)]
    part = extract(varying[:-1], inputs, module.graph.output_node().args[0])
    returned = part.output_node()
    for node in part.find_nodes(op="placeholder")[len(inputs) - len(kept) :]:
        if returned in node.users:
            with part.inserting_before(returned):
                returned.replace_input_with(node, part.call_function(aten.clone.default, (node,)))
    return fx.GraphModule(module, part)
