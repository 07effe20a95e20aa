"""The winner takes all: these ops hand one of their entries on."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.ir.ops import CLAMPS, MAX_POOLS
from fxlrp.ir.rule import Site, rule
from fxlrp.rules.unchanged import pass_moved

aten = torch.ops.aten


@rule(
    *MAX_POOLS,
    *CLAMPS,
    aten.max.default,
    aten.min.default,
    aten.max.other,
    aten.min.other,
    aten.amax.default,
    aten.amin.default,
    aten.median.default,
    aten.nanmedian.default,
    aten.fractional_max_pool2d.default,
    aten.fractional_max_pool3d.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.fmax.default,
    aten.fmin.default,
    takes_relevance=True,
)
@pass_moved
def winner(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c`` at the winning entries and 0 elsewhere; ties share it.

    Source: Bach et al. 2015, section on pooling; zennit leaves max-pooling to its gradient likewise.
    """
    return site.adjoint(c)
