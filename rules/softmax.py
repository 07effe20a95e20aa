"""Softmax: its Taylor rule, or no relevance at all."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.ir.ops import LOG_SOFTMAXES, SOFTMAXES
from fxlrp.ir.rule import Rule, Site, rule


@rule(*SOFTMAXES, *LOG_SOFTMAXES)
def taylor_softmax(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = s * (c - <s, c>)``: first Taylor order, the ordinary adjoint. Leaks: not conserving.

    Source: Achtibat et al. 2024, proposition 3.1.
    """
    return site.adjoint(c)


def stop(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = 0``: the attention weights are constants (AH-rule of Ali et al. 2022)."""
    return tuple(torch.zeros_like(x) for x in site.operands)


stopped = Rule("stopped", "stopped", stop, stops=True)
