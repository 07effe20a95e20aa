"""The op that stands for a ``detach`` while a model is decomposed, which would drop it."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("fxlrp::hold", mutates_args=())
def hold(x: Tensor) -> Tensor:
    """The same value; relevance stops here."""
    return x.clone()


@hold.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


HOLD = torch.ops.fxlrp.hold.default
