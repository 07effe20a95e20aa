"""Ops that carry no relevance, with the reason: their derivative is 0 everywhere, or they make no use of values."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.ir.rule import Rule, Site, rule

aten = torch.ops.aten

STEPS = (
    aten.floor.default,
    aten.ceil.default,
    aten.round.default,
    aten.round.decimals,
    aten.trunc.default,
    aten.sign.default,
    aten.sgn.default,
    aten.heaviside.default,
    aten.floor_divide.default,
    aten.div.Tensor_mode,
    aten.div.Scalar_mode,
)
SHAPED = (
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
)
STOPPED = (aten.detach.default,)


def nothing(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = 0``: the derivative is 0 everywhere, values play no part, or the author detached them."""
    return tuple(torch.zeros_like(x) for x in site.operands)


constant_by_steps = rule(*STEPS)(Rule("steps", "silent", nothing, stops=True))
shape_only = rule(*SHAPED)(Rule("shape_only", "silent", nothing, stops=True))
stopped_by_author = rule(*STOPPED)(Rule("detach", "silent", nothing, stops=True))
