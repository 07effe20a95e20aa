"""Ops that stand for stopped gradients while a model is decomposed, which would drop them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("fxlrp::hold", mutates_args=())
def hold(x: Tensor) -> Tensor:
    """Return the same value; relevance stops here."""
    return x.clone()


@torch.library.custom_op("fxlrp::straight", mutates_args=())
def straight(x: Tensor, value: Tensor) -> Tensor:
    """Return another value, through which relevance passes to ``x`` as if it were the value of ``x``."""
    return value.clone()


@hold.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@straight.register_fake
def _(x: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(value)


def straight_backward(ctx: Any, c: Tensor) -> tuple[Tensor, None]:
    """Compute the gradient of ``straight``."""
    return c, None


straight.register_autograd(straight_backward)

HOLD = torch.ops.fxlrp.hold.default
STRAIGHT = torch.ops.fxlrp.straight.default
