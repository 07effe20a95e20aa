"""Which inputs a program takes, and what state it runs in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from fxlrp._torch import TreeSpec
from fxlrp.backends import Runner
from fxlrp.books import Book
from fxlrp.errors import SignatureError
from fxlrp.layouts import check_inputs
from fxlrp.many import Many
from fxlrp.pipeline import Plan
from fxlrp.program import Captured, Program
from fxlrp.targets import Form


@dataclass
class Entry:
    """One captured signature: its plan and the programs made of it."""

    plan: Plan
    spec: TreeSpec
    leaves: tuple[Any, ...]
    programs: dict[Form, tuple[Program, Runner]] = field(default_factory=dict)
    many: dict[Form, Many] = field(default_factory=dict)
    books: dict[tuple[Form, bool], Book] = field(default_factory=dict)

    def sizes(self, leaves: Sequence[Any]) -> dict[Any, int] | None:
        """Value of each symbolic size for new inputs, or None if they are of another signature."""
        sizes: dict[Any, int] = {}
        for node, known, leaf in zip(self.plan.captured.inputs, self.leaves, leaves, strict=True):
            if not isinstance(known, Tensor) or not isinstance(leaf, Tensor):
                if isinstance(known, Tensor) or isinstance(leaf, Tensor) or known != leaf:
                    return None
                continue
            fake = node.meta["val"]
            if (fake.dtype, known.device, fake.ndim) != (leaf.dtype, leaf.device, leaf.ndim):
                return None
            if not all(
                fits(size, n, sizes, self.plan.captured.ranges) for size, n in zip(fake.shape, leaf.shape, strict=True)
            ):
                return None
        return sizes

    def shape(self, sizes: Mapping[Any, int], node: fx.Node | None = None) -> tuple[int, ...]:
        """Shape of a node, by default of the explained output, for these sizes."""
        shape = (node or self.plan.captured.explained).meta["val"].shape
        return tuple(n if isinstance(n, int) else int(n.node.expr.xreplace(sizes)) for n in shape)


def fits(size: Any, n: int, sizes: dict[Any, int], ranges: Mapping[Any, Any]) -> bool:
    """Whether a size of an input agrees with the captured one; remembers what symbols stand for."""
    if isinstance(size, int):
        return size == n
    expression = size.node.expr
    if not expression.is_Symbol:
        return bool(expression.xreplace(sizes) == n)
    limits = ranges[expression]
    lower = 1 if limits.lower <= 2 else limits.lower  # torch counts from 2; what runs for 2 runs for 1
    return sizes.setdefault(expression, n) == n and bool(lower <= n <= limits.upper)


@contextmanager
def plain_mode() -> Iterator[None]:
    """The same numbers whatever the caller is in: no gradients, no autocast, no inference mode."""
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def bind(model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Check the arguments against the model's forward and put keywords in a fixed order."""
    if isinstance(model, nn.Module):
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise SignatureError(
                f"{type(model).__name__}.forward{inspect.signature(model.forward)} cannot be called so: {error}"
            ) from None
    check_inputs(args, kwargs)
    return args, dict(sorted(kwargs.items()))


def check_finite(entry: Entry, leaves: Sequence[Any]) -> None:
    """Refuse NaN and +inf, whose relevance would be a wrong number; -inf is what masks are made of."""
    for node, leaf in zip(entry.plan.captured.inputs, leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            for what, bad in (("NaN", leaf.isnan()), ("+inf", leaf.isposinf())):
                if bad.any():
                    raise SignatureError(
                        f"input '{node.name}' has {int(bad.sum())} {what} of {leaf.numel()} values; "
                        "clean it before explaining"
                    )


def signature(captured: Captured) -> str:
    """The inputs that a captured model takes."""
    lines = [
        f"  {node.name}: {tuple(val.shape)} {val.dtype}" if isinstance(val, Tensor) else f"  {node.name}: {val!r}"
        for node in captured.inputs
        for val in [node.meta["val"]]
    ]
    return "It takes\n" + "\n".join(lines)
