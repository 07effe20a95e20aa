"""Which inputs a program takes, and what state it runs in."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch.export import ExportedProgram

from fxlrp._torch import TreeSpec
from fxlrp.backends.choice import Runner
from fxlrp.cache import Cache
from fxlrp.capture.unsupported import check_inputs
from fxlrp.errors import SignatureError
from fxlrp.ir.guards import solve_size
from fxlrp.ir.program import Captured, Program
from fxlrp.ir.targets import Form
from fxlrp.plan.decide import Plan
from fxlrp.plan.named_places import name_points
from fxlrp.plan.read_points import Point
from fxlrp.session.fitting import count_unusable, fit_sizes
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
    many: Cache[Hashable, ManyTargets] = field(default_factory=lambda: Cache(MAX_FORMS))
    reports: Cache[Hashable, Any] = field(default_factory=lambda: Cache(MAX_FORMS))
    verified: Cache[Hashable, bool] = field(default_factory=lambda: Cache(64 * MAX_FORMS))

    @cached_property
    def points(self) -> dict[str, Point]:
        """Every name by which a call can start or mask relevance, or that programs know a point by."""
        return name_points(self.plan.captured)

    def fit(self, leaves: Sequence[Any]) -> dict[Any, int] | None:
        """Find the value of each symbolic size for new inputs; None if they are of another signature."""
        wanted, given = [], []
        for node, known, leaf in zip(self.plan.captured.inputs, self.leaves, leaves, strict=True):
            if not is_same_argument(known, summarise_argument(leaf)):
                return None
            if isinstance(leaf, Tensor):
                value = node.meta["val"]
                if value.dtype is not leaf.dtype:
                    return None
                wanted.append(value.shape)
                given.append(leaf.shape)
        sizes, misfit = fit_sizes(wanted, given, note_symbol, agrees_with_symbols)
        return sizes if misfit is None and self.admits(sizes) else None

    def check_finite(self, leaves: Sequence[Any]) -> None:
        """Refuse inputs that are not finite.

        Raises:
            SignatureError: Naming the input.
        """
        for node, leaf in zip(self.plan.captured.inputs, leaves, strict=True):
            for what, count in count_unusable(leaf).items() if isinstance(leaf, Tensor) else ():
                raise SignatureError(
                    f"input '{node.name}' has {count} {what} of {leaf.numel()} values; clean it before explaining"
                )

    def admits(self, sizes: Mapping[Any, int]) -> bool:
        """Whether the programs made so far are right for these values of the symbolic sizes."""
        return self.plan.captured.guards.admit(sizes)

    def shape(self, sizes: Mapping[Any, int], node: fx.Node | None = None) -> tuple[int, ...]:
        """Compute the shape of a node, by default of the explained output, for these sizes."""
        shape = (node or self.plan.captured.explained).meta["val"].shape
        return tuple(n if isinstance(n, int) else int(n.node.expr.xreplace(sizes)) for n in shape)


def note_symbol(size: SymInt, n: int, sizes: dict[Any, int]) -> bool:
    """Whether a symbol may stand for a size; it is noted. Sizes that are computed of symbols pass."""
    expression = size.node.expr
    return not expression.is_Symbol or sizes.setdefault(expression, n) == n


def agrees_with_symbols(size: SymInt, n: int, sizes: dict[Any, int]) -> bool:
    """Whether a size that is computed of symbols agrees with their values; one more may be told by it."""
    expression = size.node.expr
    return bool(expression.is_Symbol) or solve_size(expression, n, sizes)


def is_same_argument(known: Any, leaf: Any) -> bool:
    """Whether an argument that is no tensor is the captured one: 1, 1.0 and True are three."""
    if type(known) is not type(leaf):
        return False
    return repr(known) == repr(leaf) if isinstance(known, (float, complex)) else bool(known == leaf)


def summarise_argument(leaf: Any) -> Any:
    """Return what must agree of an argument, beside the type and the sizes of a tensor."""
    return TensorKind(leaf.device, find_memory_order(leaf)) if isinstance(leaf, Tensor) else leaf


def find_memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """Sort the dimensions as they lie in memory; None if that is the usual order. Models may ask for it."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], -tensor.shape[dim], dim)))


def make_dense(leaf: Any) -> Any:
    """Copy a tensor with gaps or overlaps in memory; return anything else as it is."""
    if not isinstance(leaf, Tensor) or leaf.is_contiguous():
        return leaf
    return leaf if torch.empty_like(leaf, device="meta").stride() == leaf.stride() else leaf.contiguous()


@contextmanager
def plain_mode() -> Iterator[None]:
    """Compute the same numbers whatever the caller is in: no gradients, no autocast, no inference mode."""
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


def describe_inputs(captured: Captured) -> str:
    """Write the inputs that a captured model takes."""
    lines = [
        f"  {node.name}: {tuple(val.shape)} {val.dtype}" if isinstance(val, Tensor) else f"  {node.name}: {val!r}"
        for node in captured.inputs
        for val in [node.meta["val"]]
    ]
    return "It takes\n" + "\n".join(lines)
