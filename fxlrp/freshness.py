"""Whether a model is still what was captured of it, and its tensors what was computed from them."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import global_hooks

SAMPLES = 64
"""Entries of a large tensor that a probe reads."""
WHOLE = 512
"""A tensor of at most so many entries is read whole."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Attributes that are compared by value; any others are by identity."""
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""
OFTEN = 2
"""An attribute that so many runs of the model have written is one that it writes whenever it runs."""
TABLES = (
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
        self.tensors = list(tensors_of(self.model))
        self.forms = [form(tensor) for tensor in self.tensors]
        self.parts = [list(parts(module)) for module in self.modules]  # holds on to them, so that identities last
        self.identities = self._identities()

    def _identities(self) -> list[tuple[int, ...]]:
        found = [tuple(map(id, itertools.chain(module.__dict__.values(), parts(module)))) for module in self.modules]
        return [*(found or [tuple(map(id, tensors_of(self.model)))]), tuple(map(id, global_hooks()))]

    def changed(self) -> bool:
        """Whether the model is another one now."""
        now = self._identities()
        if now != self.identities:
            if self._differs():
                return True
            self.identities = now
        return any(form(tensor) != known for tensor, known in zip(self.tensors, self.forms, strict=True))

    def _differs(self) -> bool:
        """The same, attribute by attribute: equal numbers may be different objects."""
        if not self.modules or list(map(id, global_hooks())) != list(self.identities[-1]):
            return True
        for module, known, held in zip(self.modules, self.attributes, self.parts, strict=True):
            if list(map(id, parts(module))) != list(map(id, held)) or self.changes(module, known):
                return True
        return False

    def changes(self, module: nn.Module, known: dict[str, Any]) -> list[str]:
        """Attributes of a module that are not what they were, those left aside that its forward pass writes."""
        now = module.__dict__
        return [
            name
            for name in now.keys() | known.keys()
            if self.runs[id(module), name] < OFTEN
            and not (name in now and name in known and same(now[name], known[name]))
        ]

    def ran(self) -> None:
        """Note what a run of the model has just written, to leave aside what it sets anew whenever it runs."""
        for module, known in zip(self.modules, self.attributes, strict=True):
            self.runs.update((id(module), name) for name in self.changes(module, known))
        self._look()


def parts(module: nn.Module) -> Iterator[Any]:
    """The function that runs a module, its parameters, buffers, submodules and hooks."""
    own = module.__dict__
    yield type(module)
    yield next((base.__dict__["forward"] for base in type(module).__mro__ if "forward" in base.__dict__), None)
    for table in TABLES:
        if held := own.get(table):
            yield from held.values()


def tensors_of(model: object) -> Iterable[Tensor]:
    """Parameters and buffers; none of what is no model, as its capture will say."""
    if isinstance(model, nn.Module):
        return [*model.parameters(), *model.buffers()]
    held = (model.state_dict, model.constants) if isinstance(model, ExportedProgram) else ()
    return [t for table in held for t in table.values() if isinstance(t, Tensor)]


def same(one: Any, other: Any) -> bool:
    """Whether two attributes are the same object, or equal plain values."""
    return one is other or (type(one) is type(other) and isinstance(one, PLAIN) and one == other)


def form(tensor: Tensor) -> tuple[Any, ...]:
    """What a program knows of a tensor."""
    return tensor.dtype, tensor.device, tensor.shape


class Watch:
    """Whether tensors have changed since it was last asked.

    Every in-place op of torch counts a version of its tensor; fused optimisers, batch norm in training mode, views of
    numpy and ``tensor.data`` do not. These are found by a probe: all entries of a tensor of at most `WHOLE`, and
    `SAMPLES` entries at even distances of any other, bit by bit. A write between the samples is not seen.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = tuple({id(t): t for t in tensors}.values())
        self.counted = not any(t.is_inference() for t in self.tensors)  # those of inference mode count nothing
        self.versions: list[tuple[Any, ...]] = []
        self.views: list[list[Any]] = []
        self.seen: list[Any] = []
        self.changed()

    def changed(self) -> bool:
        """Look at the tensors."""
        versions = [(t.data_ptr(), t._version) if self.counted else (t.data_ptr(),) for t in self.tensors]
        if versions != self.versions:
            self.versions = versions
            self.views = samples(self.tensors)
            self.seen = list(map(joined, self.views))
            return True
        seen = list(map(joined, self.views))
        equal = all(bool((one == other).all()) for one, other in zip(seen, self.seen, strict=True))
        self.seen = seen
        return not (equal and self.counted)


def samples(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """Some entries of each tensor bit by bit, as rows of its memory, those of one size and device together.

    On a CPU they are arrays of numpy, which joins hundreds of small ones in a quarter of the time that torch takes.
    """
    found: dict[Any, list[Any]] = defaultdict(list)
    for tensor in tensors:
        if tensor.numel() and tensor.layout is torch.strided:
            view = bits(sample(tensor.detach()))
            found[view.dtype, view.device].extend(rows(view.numpy() if view.device.type == "cpu" else view))
    return list(found.values())


def sample(tensor: Tensor) -> Tensor:
    """Some entries of a tensor, at even distances."""
    flat = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    if tensor.numel() <= WHOLE:
        return flat.view(-1) if flat.is_contiguous() else tensor
    if flat.is_contiguous():  # in an odd distance, so that rows of a power of two are met in different columns
        return flat.view(-1)[:: len(flat.view(-1)) // SAMPLES | 1]
    each = int(SAMPLES ** (1 / tensor.ndim))
    return tensor[tuple(slice(None, None, -(-n // each)) for n in tensor.shape)]


def bits(view: Tensor) -> Tensor:
    """What a view holds as whole numbers, so that NaN equals itself."""
    view = torch.view_as_real(view) if view.is_complex() else view
    return view.view(WORDS[view.itemsize])


def rows(view: Any) -> Iterator[Any]:
    """A view, of which no copy may be made, as views of one dimension."""
    if view.ndim > 1:
        for part in view:
            yield from rows(part)
    else:
        yield view


def joined(views: Sequence[Any]) -> Any:
    """What some rows hold now."""
    return torch.cat(tuple(views)) if isinstance(views[0], Tensor) else np.concatenate(views)
