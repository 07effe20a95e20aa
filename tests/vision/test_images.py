"""Photographs and maps from tensors, and the limits of colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fxlrp.errors import SignatureError
from fxlrp.vision.images import find_limit, restore_images, sum_channels

X = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MAPS = arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6, allow_subnormal=False))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mean", "std"), [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (0.5, 0.25), ([0.1], [2.0])])
def test_normalisation_is_undone(channels: int, mean: Any, std: Any) -> None:
    x = X[:, :channels]
    parts = [torch.tensor(n, dtype=torch.float64).reshape(-1, 1, 1)[:channels] for n in (mean, std)]
    given = [n[:channels] if isinstance(n, list) else n for n in (mean, std)]
    found = restore_images((x - parts[0]) / parts[1], *given)
    np.testing.assert_allclose(found, x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1), rtol=0, atol=1e-15)


def test_values_a_little_beyond_are_clipped() -> None:
    found = restore_images(2 * X - 0.5, 0.0, 1.0)
    np.testing.assert_allclose(found, (2 * X - 0.5).clamp(0, 1).permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_each_image_is_scaled_to_its_own_range(dtype: torch.dtype) -> None:
    x = torch.tensor([[[[0, 2], [4, 8]]], [[[10, 10], [20, 15]]], [[[7, 7], [7, 7]]]], dtype=dtype)
    found = restore_images(x)[..., 0]
    np.testing.assert_allclose(found, [[[0, 0.25], [0.5, 1]], [[0, 0], [1, 0.5]], [[0, 0], [0, 0]]])


@pytest.mark.parametrize(
    ("x", "numbers", "message"),
    [
        (X.numpy(), {}, "not ndarray"),
        (X[0], {}, r"not \(3, 4, 5\): add a dimension by x\[None\]"),
        (X.permute(0, 2, 3, 1), {}, r"not \(2, 4, 5, 3\): move the channels by x.permute\(0, 3, 1, 2\)"),
        (X[:, :2], {}, r"not \(2, 2, 4, 5\)$"),
        (X[:0], {}, r"not \(0, 3, 4, 5\)$"),
        (torch.zeros(2, 7, dtype=torch.int64), {}, r"not \(2, 7\)$"),
        (X.to(torch.complex64), {}, "finite real numbers"),
        (X / 0, {}, "finite real numbers"),
        (X, {"mean": 0.5}, "give both"),
        (X, {"std": 0.5}, "give both"),
        (X, {"mean": [0.5, 0.5], "std": 1.0}, "mean has 2 numbers for 3 channels"),
        (X, {"mean": 0.5, "std": [0.5, 0.5]}, "std has 2 numbers for 3 channels"),
        (X, {"mean": 127.0, "std": 128.0}, "values from .* to .*divided by 255"),
    ],
)
def test_what_is_no_image_is_refused(x: Any, numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        restore_images(x, **numbers)


def test_channels_are_summed() -> None:
    np.testing.assert_allclose(sum_channels(X, 2), X.sum(1, keepdim=True))
    layer = torch.rand(2, 7, 2, 2)
    np.testing.assert_allclose(sum_channels(layer, 2), layer.double().sum(1, keepdim=True))
    several = torch.stack([X, -X, 2 * X])
    np.testing.assert_allclose(
        sum_channels(several, 2), X.sum(1, keepdim=True) * torch.tensor([1, -1, 2])[:, None, None]
    )


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ({"left": X, "right": X}, "several inputs, 'left', 'right'"),
        (X.numpy(), "not ndarray"),
        (X[:1], r"relevance of 2 images has shape \(2, .* not \(1, 3, 4, 5\)"),
        (X[:, 0], r"not \(2, 4, 5\)"),
        (X[:, :0], r"not \(2, 0, 4, 5\)"),
    ],
)
def test_what_is_no_relevance_of_images_is_refused(relevance: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        sum_channels(relevance, 2)


@given(MAPS, st.floats(0.1, 100))
def test_limits_hold_their_percentile(values: np.ndarray, percentile: float) -> None:
    limit = find_limit(values, percentile)
    sizes = np.abs(values)
    assert limit > 0
    assert limit == find_limit(-values, percentile)
    assert (sizes <= limit * (1 + 1e-12)).mean() >= percentile / 100 - 1 / sizes.size
    if percentile == 100 and sizes.any():
        assert limit == sizes.max()


@pytest.mark.parametrize(
    ("values", "percentile", "limit"),
    [
        (np.arange(-100.0, 1.0), 99, 99.0),
        (np.arange(101.0), 50, 50.0),
        (np.array([0.0] * 99 + [-3.0]), 90, 3.0),  # the percentile is 0
        (np.zeros(4), 99, 1.0),
        (np.array([np.nan, np.inf, 1.0, -2.0]), 100, 2.0),
        (np.array([np.nan]), 99, 1.0),
    ],
)
def test_limits_in_closed_form(values: np.ndarray, percentile: float, limit: float) -> None:
    assert find_limit(values, percentile) == pytest.approx(limit)


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_percentiles_outside_are_refused(percentile: float) -> None:
    with pytest.raises(SignatureError, match="percentile is a number above 0 and up to 100"):
        find_limit(np.ones(3), percentile)
