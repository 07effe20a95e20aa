"""Fused attention: two nested products and a softmax, without the attention matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from fxlrp.ir.rule import Rule, Site, rule

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def uniform(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """Adjoint, times 1/4 for q and k and 1/2 for v: the halves of ``A V`` and of ``Q K^T`` nested.

    A product with one live factor is not halved. The kernel's own backward does the work.
    Source: Achtibat et al. 2024, propositions 3.1 and 3.3; Arras et al. 2025.
    """
    query, key, value = 0, 1, 2
    in_scores = max(sum(slot in (query, key) for slot in site.slots), 1)
    in_output = (value in site.slots) + any(slot != value for slot in site.slots)
    parts = zip(site.slots, site.adjoint(c / (in_output * in_scores)), strict=True)
    return tuple(part if slot in (query, key) else part * in_scores for slot, part in parts)


def hold_all_but_value(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold query, key and mask fixed."""
    return [slot for slot in reached if slot != 2]


def of_value(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_v = A^T c``: the attention weights are constants (CP-LRP; AH-rule of Ali et al. 2022)."""
    return site.adjoint(c)


value_only = Rule("value_only", "attention", of_value, holds=hold_all_but_value)
