"""Fused ops written out: the same numbers as torch's own kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fxlrp import ArtifactError
from fxlrp.artifacts.onnx_format import plain_ops

aten = torch.ops.aten


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 2), (3, 2, 2, 1)])
def test_convolution(transposed: bool, stride: int, padding: int, dilation: int, groups: int) -> None:
    x, weight = noise(2, 4, 11, 12), noise(4, 4 // groups, 3, 3)
    options = [stride] * 2, [padding] * 2, [dilation] * 2, transposed, [0, 0], groups
    grad = torch.randn_like(aten.convolution(x, weight, None, *options))
    given = grad, x, weight, None, *options, [True, False, False]
    torch.testing.assert_close(plain_ops.convolution_backward(*given)[0], aten.convolution_backward(*given)[0])
    with pytest.raises(ArtifactError, match="with respect to its weight"):
        plain_ops.convolution_backward(*given[:-1], [True, True, False])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pooling(kernel: int, stride: int, padding: int) -> None:
    x = noise(2, 3, 9, 8)
    options = [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], False
    y, indices = aten.max_pool2d_with_indices(x, *options)
    given = torch.randn_like(y), x, *options, indices
    torch.testing.assert_close(plain_ops.max_pool_backward(*given), aten.max_pool2d_with_indices_backward(*given))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_average_pooling(kernel: int, stride: int, padding: int, counted: bool, divisor: int | None) -> None:
    x = noise(2, 3, 9, 8)
    options = [kernel] * 2, [stride] * 2, [padding] * 2, False, counted, divisor
    given = torch.randn_like(aten.avg_pool2d(x, *options)), x, *options
    torch.testing.assert_close(plain_ops.average_pool_backward(*given), aten.avg_pool2d_backward(*given))


def test_average_pooling_over_the_edge() -> None:
    x = noise(1, 1, 5, 5)
    options = [2, 2], [2, 2], [0, 0], True, True, None
    with pytest.raises(ArtifactError, match="ceil_mode"):
        plain_ops.average_pool_backward(aten.avg_pool2d(x, *options), x, *options)


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"is_causal": True},
    "added": {
        "attn_mask": torch.where(noise(2, 1, 5, 5) > 0, 0.0, -torch.inf).diagonal_scatter(torch.zeros(2, 1, 5), 0, 2, 3)
    },
    "scaled": {"scale": 0.3},
}


@pytest.mark.parametrize("name", MASKS)
def test_attention(name: str) -> None:
    q, k, v, grad = (noise(4, 2, 5, 8).roll(i, 0)[:2].contiguous().requires_grad_() for i in range(4))
    options = dict(MASKS[name])
    if "attn_mask" in options:
        options["attn_mask"] = options["attn_mask"].double()
    y = F.scaled_dot_product_attention(q, k, v, **options)
    expected = torch.autograd.grad(y, (q, k, v), grad)
    causal = options.pop("is_causal", False)
    out, rest = plain_ops.attention(q, k, v, 0.0, causal, **options)
    torch.testing.assert_close(out, y)
    found = plain_ops.attention_backward(grad, q, k, v, out, rest, 0.0, causal, **options)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_a_query_that_may_look_at_nothing() -> None:
    q, k, v = noise(1, 1, 3, 4), noise(1, 1, 3, 4), noise(1, 1, 3, 4)
    mask = torch.zeros(3, 3, dtype=torch.float64)
    mask[1] = -torch.inf
    out, _ = plain_ops.attention(q, k, v, attn_mask=mask)
    assert out[..., 1, :].abs().max() == 0
    assert out.isfinite().all()


def test_error_function() -> None:
    x = noise(100)
    torch.testing.assert_close(plain_ops.erfc(x), torch.special.erfc(x))
