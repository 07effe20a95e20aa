"""Which inputs a program takes, and what state it runs in."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from fxlrp._torch import TreeSpec
from fxlrp.backends.choice import Runner
from fxlrp.cache import Cache
from fxlrp.capture.unsupported import check_inputs
from fxlrp.errors import SignatureError
from fxlrp.ir.guards import is_symbolic, solve_size
from fxlrp.ir.program import Captured, Program
from fxlrp.ir.targets import Form
from fxlrp.plan.decide import Plan
from fxlrp.session.many_targets import ManyTargets

MAX_FORMS = 16
"""Programs kept per signature, one for each form of target, least recently used out first."""


@dataclass(frozen=True)
class TensorKind:
    """What a tensor is, beside its type and its sizes.

    Attributes:
        device: Where it is.
        order: How its dimensions lie in memory.
    """

    device: torch.device
    order: tuple[int, ...] | None


@dataclass
class CapturedSignature:
    """One captured signature: its plan and the programs made of it."""

    plan: Plan
    spec: TreeSpec
    leaves: tuple[Any, ...]  # a tensor by its kind
    number: int
    programs: Cache[Form, tuple[Program, Runner]] = field(default_factory=lambda: Cache(MAX_FORMS))
    many: Cache[Form, ManyTargets] = field(default_factory=lambda: Cache(MAX_FORMS))
    reports: Cache[Hashable, Any] = field(default_factory=lambda: Cache(MAX_FORMS))
    verified: Cache[Hashable, bool] = field(default_factory=lambda: Cache(64 * MAX_FORMS))

    def sizes(self, leaves: Sequence[Any]) -> dict[Any, int] | None:
        """Value of each symbolic size for new inputs, or None if they are of another signature."""
        sizes: dict[Any, int] = {}
        for node, known, leaf in zip(self.plan.captured.inputs, self.leaves, leaves, strict=True):
            if not is_same_argument(known, summarise_argument(leaf)):
                return None
            if isinstance(leaf, Tensor) and not match_shape(node.meta["val"], leaf, sizes):
                return None
        return sizes if self.computed(leaves, sizes) and self.admits(sizes) else None

    def computed(self, leaves: Sequence[Any], sizes: dict[Any, int]) -> bool:
        """Whether sizes that are computed of others agree with new inputs; remembers what they tell of the others."""
        for node, leaf in zip(self.plan.captured.inputs, leaves, strict=True):
            for size, n in zip(node.meta["val"].shape, leaf.shape, strict=True) if isinstance(leaf, Tensor) else ():
                if is_symbolic(size) and not size.node.expr.is_Symbol and not solve_size(size.node.expr, n, sizes):
                    return False
        return True

    def admits(self, sizes: Mapping[Any, int]) -> bool:
        """Whether the programs made so far are right for these values of the symbolic sizes."""
        return self.plan.captured.guards.admit(sizes)

    def shape(self, sizes: Mapping[Any, int], node: fx.Node | None = None) -> tuple[int, ...]:
        """Shape of a node, by default of the explained output, for these sizes."""
        shape = (node or self.plan.captured.explained).meta["val"].shape
        return tuple(n if isinstance(n, int) else int(n.node.expr.xreplace(sizes)) for n in shape)


def match_shape(captured: Tensor, tensor: Tensor, sizes: dict[Any, int]) -> bool:
    """Whether a tensor is of the captured type and shape; remembers what symbols stand for."""
    if (captured.dtype, captured.ndim) != (tensor.dtype, tensor.ndim):
        return False
    shape: Sequence[Any] = captured.shape
    for size, n in zip(shape, tensor.shape, strict=True):
        if not is_symbolic(size):
            if size != n:
                return False
        elif size.node.expr.is_Symbol and sizes.setdefault(size.node.expr, n) != n:
            return False
    return True


def is_same_argument(known: Any, leaf: Any) -> bool:
    """Whether an argument that is no tensor is the captured one: 1, 1.0 and True are three."""
    if type(known) is not type(leaf):
        return False
    return repr(known) == repr(leaf) if isinstance(known, (float, complex)) else bool(known == leaf)


def summarise_argument(leaf: Any) -> Any:
    """What must agree of an argument, beside the type and the sizes of a tensor."""
    return TensorKind(leaf.device, find_memory_order(leaf)) if isinstance(leaf, Tensor) else leaf


def find_memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions in the order that they lie in memory, None if it is the usual one: models may ask for it."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], -tensor.shape[dim], dim)))


def make_dense(leaf: Any) -> Any:
    """A tensor without gaps or overlaps in memory, as a copy of it would be; anything else as it is."""
    if not isinstance(leaf, Tensor) or leaf.is_contiguous():
        return leaf
    return leaf if torch.empty_like(leaf, device="meta").stride() == leaf.stride() else leaf.contiguous()


@contextmanager
def plain_mode() -> Iterator[None]:
    """The same numbers whatever the caller is in: no gradients, no autocast, no inference mode."""
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def bind_arguments(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """Check the arguments against the model's forward and put keywords in a fixed order."""
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):  # those have no signature
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise SignatureError(
                f"{type(model).__name__}.forward{inspect.signature(model.forward)} cannot be called so: {error}"
            ) from None
    check_inputs(args, kwargs)
    return args, dict(sorted(kwargs.items()))


def check_finite(entry: CapturedSignature, leaves: Sequence[Any]) -> None:
    """Refuse NaN and +inf, whose relevance would be a wrong number; -inf is what masks are made of."""
    for node, leaf in zip(entry.plan.captured.inputs, leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            for what, bad in (("NaN", leaf.isnan()), ("+inf", leaf.isposinf())):
                if bad.any():
                    raise SignatureError(
                        f"input '{node.name}' has {int(bad.sum())} {what} of {leaf.numel()} values; "
                        "clean it before explaining"
                    )


def describe_inputs(captured: Captured) -> str:
    """The inputs that a captured model takes."""
    lines = [
        f"  {node.name}: {tuple(val.shape)} {val.dtype}" if isinstance(val, Tensor) else f"  {node.name}: {val!r}"
        for node in captured.inputs
        for val in [node.meta["val"]]
    ]
    return "It takes\n" + "\n".join(lines)
