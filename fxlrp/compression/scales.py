"""Quantisers of channels turned into quantisers of whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fxlrp.errors import SignatureError


@dataclass(frozen=True)
class Folded:
    """A norm and the linear layers that read it, with the differences between channels folded into both.

    Attributes:
        weight: That of the norm.
        bias: That of the norm.
        layers: Weight and bias of each linear layer.
        scale: The one scale of the norm's output.
        zero: Its one zero point.
    """

    weight: Tensor
    bias: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    scale: Tensor
    zero: Tensor


def fold_channel_scales(
    weight: Tensor, bias: Tensor, layers: Sequence[tuple[Tensor, Tensor]], scale: Tensor, zero: Tensor
) -> Folded:
    """Fold the scales and zero points of a norm's channels into it and what reads it; the function stays the same.

    With ``s`` and ``z`` the means of scales and zero points, ``r = scale / s`` and ``b = z s - zero scale / r``, the
    norm gets ``weight / r`` and ``bias / r - b``, and a linear layer ``W r`` and ``bias + W r b``.

    Args:
        weight: Of the norm, ``(channels,)``.
        bias: The same.
        layers: Weight ``(out, channels)`` and bias of each linear layer that reads the norm.
        scale: Of each channel, above 0.
        zero: Zero point of each channel.

    Source: Li et al. 2023, RepQ-ViT, scale reparameterisation.

    Raises:
        SignatureError: If shapes do not fit, or a scale is not above 0.
    """
    if any(t.shape != weight.shape for t in (bias, scale, zero)) or any(w.shape[1:] != weight.shape for w, _ in layers):
        raise SignatureError("weight, bias, scale and zero need one number per channel, and linear layers one column")
    if not (scale > 0).all():
        raise SignatureError("the scale of some channel is not above 0")
    ratio = scale / scale.mean()
    shift = zero.mean() * scale.mean() - zero * scale / ratio
    wide = [(w * ratio, b + (w * ratio) @ shift) for w, b in layers]
    return Folded(weight / ratio, bias / ratio - shift, tuple(wide), scale.mean(), zero.mean())
