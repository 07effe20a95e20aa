"""Interactions of a polynomial that are known, and Shapley values by their definition."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.interactions import audit_interactions, measure_interactions

PLACES = torch.arange(4)
POINT = torch.tensor([[1.0, 2.0, -1.0, 0.5]], dtype=torch.float64)
ZERO = torch.zeros(1, dtype=torch.long)


class Polynomial(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = x.unbind(1)
        return (2 * a + 3 * b + 5 * a * c - 4 * a * b * d * d).unsqueeze(1)


def test_v21_interactions_of_a_polynomial() -> None:
    """Two terms of one variable, one of two, and one of three, each the effect of its set and of no other."""
    found = measure_interactions(Polynomial().eval(), POINT, ZERO, PLACES, constant(), batch=5)
    wanted = torch.zeros(16, dtype=torch.float64)
    wanted[0b0001], wanted[0b0010], wanted[0b0101], wanted[0b1011] = 2, 6, -5, -2
    torch.testing.assert_close(found.effects[0], wanted)
    third = 2 / 3
    assert found.shapley[0].tolist() == pytest.approx([2 - 2.5 - third, 6 - third, -2.5, -third])
    assert found.occlusion[0].tolist() == pytest.approx([2 - 5 - 2, 6 - 2, -5, -2])
    assert found.alone[0].tolist() == pytest.approx([2, 6, 0, 0])
    assert not found.find_idle().any()


def test_v21_the_audit_tells_rules_apart() -> None:
    """The gradient weighs by exponents and sums to something else."""
    found = measure_interactions(Polynomial().eval(), POINT, ZERO, PLACES, constant())
    gradient = fxlrp.compile(Polynomial().eval(), rules="gradient")(POINT, target=0).relevance
    audit = audit_interactions(gradient, PLACES, found)
    assert audit.scores[0].tolist() == pytest.approx([-5, 4, -5, -4])
    assert float(audit.gap) == pytest.approx(1 + 10)
    assert float(audit.leaked) == 0
    best = audit_interactions(found.shapley, PLACES, found)
    assert float(best.error) == 0
    assert abs(float(best.gap)) < 1e-12
    assert float(audit.error) > 0.5
    assert best.to_rows()[2] == {"sample": 0, "segment": 2, "scores": -2.5, "shapley": -2.5, "occlusion": -5.0}


def test_relevance_of_what_does_nothing_has_leaked() -> None:
    def pair(x: Tensor) -> Tensor:
        return (x[:, 0] * x[:, 1]).unsqueeze(1)

    found = measure_interactions(pair, POINT, ZERO, PLACES, constant())
    assert found.find_idle().tolist() == [[False, False, True, True]]
    relevance = torch.tensor([[1.0, 0.5, -0.25, 0.25]], dtype=torch.float64)
    assert float(audit_interactions(relevance, PLACES, found).leaked) == pytest.approx(0.25)


def test_rounding_is_no_effect() -> None:
    """In float32, with a baseline whose output is large beside the effects."""

    def offset(x: Tensor) -> Tensor:
        return (100 + x[:, 0] * x[:, 1] / 3 + 0.7 * x[:, 2]).unsqueeze(1)

    found = measure_interactions(offset, POINT.float(), ZERO, PLACES, constant(0.1))
    assert found.find_idle().tolist() == [[False, False, False, True]]


def test_shapley_values_are_means_over_orders() -> None:
    """By their definition; images with channels, in segments of several pixels, and a baseline that is not zero."""
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(24, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    model = torch.nn.Sequential(*layers).double().eval().requires_grad_(False)
    x, target = torch.randn(2, 2, 3, 4, dtype=torch.float64), torch.tensor([2, 0])
    segments = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1], [3, 3, 2, 2]])
    found = measure_interactions(model, x, target, segments, constant(0.3))
    wanted = torch.zeros(2, 4, dtype=torch.float64)
    for order in permutations(range(4)):
        part = torch.full_like(x, 0.3)
        for i in order:
            more = torch.where(segments == i, x, part)
            wanted[:, i] += (model(more) - model(part)).gather(1, target[:, None])[:, 0] / 24
            part = more
    torch.testing.assert_close(found.shapley, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.effects.sum(1), model(x).gather(1, target[:, None])[:, 0])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SignatureError, match="17 segments"):
        measure_interactions(Polynomial().eval(), torch.zeros(1, 17), ZERO, torch.arange(17), constant())
    found = measure_interactions(Polynomial().eval(), POINT, ZERO, PLACES, constant())
    with pytest.raises(SignatureError, match="interactions of 1 samples with 4"):
        audit_interactions(torch.zeros(2, 4), PLACES, found)
