"""Whether a model is still what was captured of it, and its tensors what was computed from them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import list_global_hooks

PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Attributes that are compared by value; any others are by identity."""
MANY_WRITES = 2
"""An attribute that so many runs of the model have written is one that it writes whenever it runs."""
MODULE_TABLES = (
    "_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


class Structure:
    """What a program takes for granted of a model besides the values of its tensors.

    That is, of every module: its class and the function that runs it, its attributes, parameters, buffers, submodules
    and hooks by identity (plain values by value), and dtype, shape and device of every tensor. What happens inside
    other objects, such as an entry of a configuration, is not seen.
    """

    def __init__(self, model: nn.Module | ExportedProgram, runs: Counter[tuple[int, str]] | None = None) -> None:
        self.model = model
        self.runs: Counter[tuple[int, str]] = Counter() if runs is None else runs
        self._look()

    def _look(self) -> None:
        self.modules = list(self.model.modules()) if isinstance(self.model, nn.Module) else []
        self.attributes = [dict(module.__dict__) for module in self.modules]
        self.tensors = list(list_tensors(self.model))
        self.forms = [describe_tensor(tensor) for tensor in self.tensors]
        self.parts = [list(list_parts(module)) for module in self.modules]  # holds on to them, so that identities last
        self.identities = self._identities()

    def _identities(self) -> list[tuple[int, ...]]:
        found = [
            tuple(map(id, itertools.chain(module.__dict__.values(), list_parts(module)))) for module in self.modules
        ]
        return [*(found or [tuple(map(id, list_tensors(self.model)))]), tuple(map(id, list_global_hooks()))]

    def changed(self) -> bool:
        """Whether the model is another one now."""
        now = self._identities()
        if now != self.identities:
            if self._differs():
                return True
            self.identities = now
        return any(describe_tensor(tensor) != known for tensor, known in zip(self.tensors, self.forms, strict=True))

    def _differs(self) -> bool:
        """Compare attribute by attribute: equal numbers may be different objects."""
        if not self.modules or list(map(id, list_global_hooks())) != list(self.identities[-1]):
            return True
        for module, known, held in zip(self.modules, self.attributes, self.parts, strict=True):
            if list(map(id, list_parts(module))) != list(map(id, held)) or self.find_changes(module, known):
                return True
        return False

    def find_changes(self, module: nn.Module, known: dict[str, Any]) -> list[str]:
        """Find attributes of a module that are not what they were, without those that its forward pass writes."""
        now = module.__dict__
        return [
            name
            for name in now.keys() | known.keys()
            if self.runs[id(module), name] < MANY_WRITES
            and not (name in now and name in known and is_same(now[name], known[name]))
        ]

    def note_run(self) -> None:
        """Note what a run of the model has just written, to leave aside what it sets anew whenever it runs."""
        for module, known in zip(self.modules, self.attributes, strict=True):
            self.runs.update((id(module), name) for name in self.find_changes(module, known))
        self._look()


def list_parts(module: nn.Module) -> Iterator[Any]:
    """List the function that runs a module, its parameters, buffers, submodules and hooks."""
    own = module.__dict__
    yield type(module)
    yield next((base.__dict__["forward"] for base in type(module).__mro__ if "forward" in base.__dict__), None)
    for table in MODULE_TABLES:
        if held := own.get(table):
            yield from held.values()


def list_tensors(model: object) -> Iterable[Tensor]:
    """List parameters and buffers; none of what is no model, as its capture will say."""
    if isinstance(model, nn.Module):
        return [*model.parameters(), *model.buffers()]
    held = (model.state_dict, model.constants) if isinstance(model, ExportedProgram) else ()
    return [t for table in held for t in table.values() if isinstance(t, Tensor)]


def is_same(one: Any, other: Any) -> bool:
    """Whether two attributes are the same object, or equal plain values."""
    return one is other or (type(one) is type(other) and isinstance(one, PLAIN_TYPES) and one == other)


def describe_tensor(tensor: Tensor) -> tuple[Any, ...]:
    """Return what a program knows of a tensor."""
    return tensor.dtype, tensor.device, tensor.shape
