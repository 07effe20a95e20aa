"""Bits and scales against brute force and the function that must stay."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

from fxlrp.compression.bits import allocate_bits
from fxlrp.compression.scales import fold_channel_scales
from fxlrp.errors import SignatureError

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_v25_folded_scales_leave_the_function() -> None:
    """And what is quantised by channels is quantised as a whole: both are the same steps from the zero point."""
    x, weight, bias = draw(7, 6), draw(6), draw(6)
    layers = [(draw(5, 6), draw(5)), (draw(3, 6), draw(3))]
    scale, zero = draw(6).abs() + 0.1, draw(6).abs() * 5
    folded = fold_channel_scales(weight, bias, layers, scale, zero)
    before = functional.layer_norm(x, (6,), weight, bias)
    after = functional.layer_norm(x, (6,), folded.weight, folded.bias)
    for (w, b), (own, shift) in zip(layers, folded.layers, strict=True):
        wanted = functional.linear(before, w, b)
        torch.testing.assert_close(functional.linear(after, own, shift), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after / folded.scale + folded.zero, before / scale + zero, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_v25_allocation_is_that_of_brute_force(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, choices = 5, (2, 4, 8)
    importance = torch.rand(count, generator=generator).tolist()
    sensitivity = {b: (torch.rand(count, generator=generator) * 2.0**-b).tolist() for b in choices}
    sizes = torch.randint(1, 50, (count,), generator=generator).tolist()
    found = allocate_bits(importance, sensitivity, sizes, 4.0)

    def lose(bits: tuple[int, ...]) -> float:
        return sum(w * sensitivity[b][i] for i, (w, b) in enumerate(zip(importance, bits, strict=True)))

    def weigh(bits: tuple[int, ...]) -> int:
        return sum(n * b for n, b in zip(sizes, bits, strict=True))

    allowed = [bits for bits in itertools.product(choices, repeat=count) if weigh(bits) <= 4 * sum(sizes)]
    assert found in allowed
    assert lose(found) == pytest.approx(min(map(lose, allowed)), rel=1e-6)


def test_what_matters_more_gets_no_fewer_bits() -> None:
    sensitivity = {b: [2.0**-b] * 4 for b in (2, 4, 6)}
    found = allocate_bits([0.1, 4.0, 1.0, 9.0], sensitivity, [10] * 4, 4.0)
    assert found[0] <= found[2] <= found[1] <= found[3]
    assert sum(found) <= 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1.0], {4: [1.0, 2.0]}, [3]), "one number per layer"),
        (([1.0], {4: [float("nan")]}, [3]), "not finite"),
        (([1.0], {8: [1.0]}, [3]), "less than the fewest"),
    ],
)
def test_impossible_budgets_are_refused(given: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        allocate_bits(*given, average=6.0)


def test_impossible_scales_are_refused() -> None:
    one = torch.ones(3)
    with pytest.raises(SignatureError, match="one number per channel"):
        fold_channel_scales(one, one, [(torch.ones(2, 4), torch.ones(2))], one, one)
    with pytest.raises(SignatureError, match="not above 0"):
        fold_channel_scales(one, one, [], 0 * one, one)
