"""How attention of all layers adds up from the tokens to the last layer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def roll_out(attentions: Iterable[Tensor]) -> Tensor:
    """Multiply the attention of all layers, each with its skip connection (Abnar and Zuidema 2020).

    Args:
        attentions: Of each layer, ``(samples, heads, tokens, tokens)``.

    Returns:
        What each token of the last layer has of those of the first, ``(samples, tokens, tokens)``.
    """
    whole: Tensor | None = None
    for attention in attentions:
        layer = (attention.mean(1) + torch.eye(attention.shape[-1])) / 2
        whole = layer if whole is None else layer @ whole
    assert whole is not None
    return whole
