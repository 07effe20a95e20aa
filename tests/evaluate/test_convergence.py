"""Relevance that forgets where it started, and relevance that does not."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.convergence import measure_angles, measure_convergence

READ = ("15", "11", "7", "3")


def deep() -> nn.Sequential:
    torch.manual_seed(3)
    widths = [3, *[16] * 8]
    convolutions = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)]
    parts = [part for one in convolutions for part in (one, nn.ReLU())]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(16 * 25, 4)).double().eval()


@pytest.mark.parametrize(("rules", "converges"), [("epsilon_plus", True), ("epsilon", False), ("gradient", False)])
def test_v19_positive_rules_forget_where_relevance_started(rules: str, converges: bool) -> None:
    """Signed ones do not (Sixt et al. 2020)."""
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = measure_convergence(fxlrp.compile(deep(), rules=rules, read=READ), x, start="15", draws=3)
    assert found.names == (*READ, "input")
    assert [row["place"] for row in found.to_rows()] == list(found.names)
    falls = found.distances.diff() < 0
    first, *_, last, _ = found.distances.tolist()
    assert first > 0.5
    if converges:
        assert falls.all()
        assert last < 1e-2 * first
    else:
        assert last > 0.5 * first


def test_angles() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 3.0], [1.0, 1.0], [-5.0, 0.0], [1.0, 0.0]])
    found = measure_angles(a, b, 1)
    assert found[:3].tolist() == pytest.approx([1.0, 1 - 0.5**0.5, 0.0])
    assert found[3].isnan()


def test_what_cannot_start_is_refused() -> None:
    attributor, x = fxlrp.compile(deep(), read=("3",)), torch.rand(1, 3, 5, 5).double()
    with pytest.raises(SignatureError, match="start='15' is not read"):
        measure_convergence(attributor, x, start="15")
    with pytest.raises(SignatureError, match="draws=1"):
        measure_convergence(attributor, x, start="3", draws=1)
