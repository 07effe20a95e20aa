"""Fused ops and their backward kernels, written out in ops that every runtime has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import OpOverload
from fxlrp.errors import ArtifactError

aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Apply the adjoint of a convolution in its input: a transposed convolution, or a plain one if it is transposed."""
    if mask[1] or mask[2]:
        raise ArtifactError("the adjoint of a convolution with respect to its weight has no ONNX form: use 'pt2'")
    if transposed:
        zeros = [0] * len(stride)
        return aten.convolution(grad, weight, None, stride, padding, dilation, False, zeros, groups), None, None
    rest = []
    for i, (s, p, d) in enumerate(zip(stride, padding, dilation, strict=True)):
        reached = (grad.shape[i + 2] - 1) * s - 2 * p + d * (weight.shape[i + 2] - 1) + 1
        missing: Any = x.shape[i + 2] - reached
        if s > 1 and not isinstance(missing, int):
            raise ArtifactError("a strided convolution over a size that may change has no ONNX form: fix that size")
        rest.append(missing if s > 1 else 0)
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, rest, groups), None, None


def max_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Put every gradient where the largest entry was."""
    zeros = torch.zeros_like(x).flatten(2)
    return zeros.scatter_add(2, indices.flatten(2), grad.flatten(2)).view_as(x)


def average_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Spread every gradient over its window: a transposed convolution with ones, channel by channel."""
    stride = stride or kernel
    rest: list[Any] = [
        n - (m - 1) * s + 2 * p - k
        for n, m, s, p, k in zip(x.shape[-2:], grad.shape[-2:], stride, padding, kernel, strict=True)
    ]
    if not all(isinstance(size, int) and size >= 0 for size in rest):
        raise ArtifactError("average pooling with ceil_mode, or of sizes that may change, has no ONNX form: use 'pt2'")
    if divisor_override is not None or count_include_pad:
        counts: Any = divisor_override or math.prod(kernel)
    else:
        inside = torch.ones_like(x[..., :1, :, :]) if x.ndim == 3 else torch.ones_like(x[:1, :1])
        counts = aten.avg_pool2d(inside, kernel, stride, padding, False, True) * math.prod(kernel)
    shares = (grad / counts).flatten(0, -3)[:, None]
    ones = torch.ones(1, 1, *kernel, dtype=grad.dtype, device=grad.device)
    spread: Tensor = aten.convolution(shares, ones, None, stride, padding, [1, 1], True, rest, 1)
    return spread.view_as(x)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return values weighted by the softmax of scores, and a stand-in for its log-normaliser, which nothing uses."""
    return attention_weights(q, k, is_causal, attn_mask, scale) @ v, q[..., 0]


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the adjoint of attention in queries, keys and values."""
    weights = attention_weights(q, k, is_causal, attn_mask, scale)
    change = weights * (grad @ v.transpose(-2, -1) - (grad * out).sum(-1, keepdim=True)) * find_scale(q, scale)
    return change @ k, change.transpose(-2, -1) @ q, weights.transpose(-2, -1) @ grad


def attention_weights(q: Tensor, k: Tensor, is_causal: bool, mask: Tensor | None, scale: float | None) -> Tensor:
    """Return the softmax of the scores; zeros for a query that may look at nothing, as the kernels have it."""
    scores = q @ k.transpose(-2, -1) * find_scale(q, scale)
    if is_causal:
        rows = torch.arange(q.shape[-2], device=q.device)[:, None]
        scores = torch.where(torch.arange(k.shape[-2], device=q.device) <= rows, scores, -torch.inf)
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf) if mask.dtype is torch.bool else scores + mask
    nothing = scores.amax(-1, keepdim=True) == -torch.inf
    return torch.where(nothing, 0.0, torch.softmax(torch.where(nothing, 0.0, scores), -1))


def find_scale(q: Tensor, scale: float | None) -> float:
    """Return what scores are multiplied by."""
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def erfc(x: Tensor) -> Tensor:
    """Return the rest of the error function; less exact where it is small."""
    return 1 - torch.erf(x)


PLAIN_FORMS: dict[OpOverload, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
    aten.avg_pool2d_backward.default: average_pool_backward,
    aten._scaled_dot_product_flash_attention_for_cpu.default: attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: attention_backward,
    aten.erfc.default: erfc,
}
"""The ops that have no ONNX form of their own."""
