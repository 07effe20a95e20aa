"""What the backward pass of an ``autograd.Function`` does, found by running it on random numbers."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.autograd.function import FunctionCtx

from fxlrp._torch import tree_map_only, without_modes

Function = torch.autograd.Function
SCALES = (1.0, 1e4)
"""Of the random numbers: backward passes that clip or mask show it at one of them."""


class Backward(enum.Enum):
    """What a backward pass does, if it does not hand its gradient on to one argument as it is."""

    DERIVES = "the gradient of the forward pass"
    STOPS = "nothing"
    OTHER = "something else"


def is_of_torch(cls: type[Function]) -> bool:
    """Return whether a function is torch's own, whose backward pass is the gradient of its forward pass."""
    return cls.__module__.partition(".")[0] == "torch"


def judge_backward(cls: type[Function], run: Callable[..., Any], args: Any, kwargs: Any) -> Backward | int:
    """Tell what the backward pass does; a number is that of the argument to which the gradient passes straight."""
    with without_modes(), torch.enable_grad():
        try:
            found = {
                try_backward(cls, run, draw_like(args, scale), draw_like(kwargs, scale), scale) for scale in SCALES
            }
        except Exception:  # whatever the user's code raises on numbers that it was not written for
            return Backward.OTHER
    return found.pop() if len(found) == 1 else Backward.OTHER


def draw_like(value: Any, scale: float) -> Any:
    """Draw random numbers in the place of floating tensors, zeros in that of others."""
    generator = torch.Generator().manual_seed(0)

    def draw(t: Tensor) -> Tensor:
        sizes: list[Any] = [*t.shape]
        shape = [n.node.hint if isinstance(n, SymInt) else n for n in sizes]
        if not t.is_floating_point():
            return torch.zeros(shape, dtype=t.dtype, device=t.device)
        numbers = scale * torch.randn(shape, dtype=t.dtype, generator=generator)
        return numbers.to(t.device).requires_grad_()

    return tree_map_only(Tensor, draw, value)


def try_backward(cls: type[Function], run: Callable[..., Any], args: Any, kwargs: Any, scale: float) -> Backward | int:
    """Tell what the backward pass does on these numbers."""
    inputs = {i: x for i, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad}
    out = run(*args, **kwargs)
    given = draw_like(out.detach(), scale).detach()
    parts = torch.autograd.grad(out, [*inputs.values()], given, allow_unused=True)
    found: dict[int, Tensor | None] = dict(zip(inputs, parts, strict=True))
    reached = [i for i, part in found.items() if part is not None]
    if not reached:
        return Backward.STOPS
    if len(reached) == 1 and torch.equal(parts[list(inputs).index(reached[0])], given):
        return reached[0]
    traced = run_forward(cls, args, kwargs)
    own = torch.autograd.grad(traced, [*inputs.values()], given, materialize_grads=True)
    return Backward.DERIVES if all(map(is_alike, found.values(), own)) else Backward.OTHER


def run_forward(cls: type[Function], args: Any, kwargs: Any) -> Any:
    """Run the forward pass as plain ops."""
    separate = cls.setup_context is not Function.setup_context
    return cls.forward(*args, **kwargs) if separate else cls.forward(FunctionCtx(), *args, **kwargs)


def is_alike(a: Tensor | None, b: Tensor) -> bool:
    """Return whether two gradients are the same to rounding."""
    close = torch.finfo(b.dtype).eps ** 0.5 * float(b.abs().max()) if b.numel() else 0.0
    return torch.allclose(torch.zeros_like(b) if a is None else a, b, rtol=0, atol=close)
