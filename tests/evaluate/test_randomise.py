"""Explanations of a model that was trained, while its parameters are drawn anew."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy, pearsonr, spearmanr
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.correlation import correlate_ranks, correlate_rows
from fxlrp.evaluate.randomise import measure_entropy, measure_rise, randomise_parameters


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright cross or a bright square somewhere."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 10, 10, generator=generator) * 0.8 + 0.1
    kinds = torch.randint(2, (count,), generator=generator)
    corners = torch.randint(7, (count, 2), generator=generator)
    cross, square = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]]), torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    for image, kind, (top, left) in zip(x, kinds.tolist(), corners.tolist(), strict=True):
        image[0, top : top + 3, left : left + 3] += 2.0 * (square if kind else cross)
    return x, kinds


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*layers, nn.Conv2d(12, 12, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    model.append(nn.Linear(12, 2))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(250):
        x, kinds = draw(64, step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), kinds).backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


@pytest.mark.slow
def test_v20_explanations_depend_on_what_was_learned() -> None:
    """Those of epsilon become others; guided backprop goes on to show edges (Adebayo et al. 2018)."""
    model = trained()
    x, kinds = draw(24, 10**6)
    assert (model(x).argmax(1) == kinds).float().mean() > 0.9
    before = [p.clone() for p in model.parameters()]
    final = {}
    for rules in ("epsilon", "guided_backprop"):
        found = randomise_parameters(fxlrp.compile(model, rules=rules), x, target=kinds.tolist())
        assert found.names[0].startswith("8.")
        assert found.names[-1].startswith("0.")
        assert len(found.names) == len(before) == len(found.to_rows())
        final[rules] = found.final
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert abs(final["epsilon"]) < 0.2
    assert final["guided_backprop"] > 0.35


@pytest.mark.slow
def test_v20_what_was_learned_orders_explanations() -> None:
    """Those of epsilon are less ordered without it, and means over noisy inputs become others, too."""
    x, kinds = draw(24, 10**6)
    attributor = fxlrp.compile(trained(), rules="epsilon")
    assert float(measure_rise(attributor, x, target=kinds.tolist()).mean()) > 0.05
    explain = partial(fxlrp.smooth, n=4, noise=0.05)
    assert abs(randomise_parameters(attributor, x, target=kinds.tolist(), explain=explain).final) < 0.2


def test_smoothing_without_noise_changes_nothing() -> None:
    torch.manual_seed(0)
    attributor = fxlrp.compile(Registered().eval())
    x = torch.randn(3, 3)
    still = randomise_parameters(attributor, x, target=0, explain=partial(fxlrp.smooth, n=2, noise=0.0))
    torch.testing.assert_close(still.similarity, randomise_parameters(attributor, x, target=0).similarity)


def test_the_rise_is_that_of_the_entropy_of_histograms() -> None:
    """As numpy and scipy count and weigh; scale and place of the numbers do not matter."""
    rows = torch.randn(3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = [entropy(np.histogram(row, 20)[0]) for row in rows.numpy()]
    assert measure_entropy(rows, 20).tolist() == pytest.approx(wanted, abs=1e-12)
    assert measure_entropy(5 * rows - 3, 20).tolist() == pytest.approx(wanted, abs=1e-12)
    assert measure_entropy(torch.ones(1, 9).double(), 20).tolist() == [0.0]
    torch.manual_seed(0)
    model, x = Registered().eval(), torch.randn(3, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributor = fxlrp.compile(model)
    rise = measure_rise(attributor, x, target=0, bins=4)
    assert torch.equal(rise, measure_rise(attributor, x, target=0, bins=4))
    assert rise.shape == (3,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Registered(nn.Module):
    """Layers that are registered in another order than they are used in, with a parameter of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.scale = nn.Linear(4, 2), nn.Linear(3, 4), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x * self.scale).relu())


def test_the_order_is_that_of_the_graph() -> None:
    torch.manual_seed(0)
    attributor = fxlrp.compile(Registered().eval())
    x = torch.randn(3, 3)
    down = randomise_parameters(attributor, x, target=0).names
    up = randomise_parameters(attributor, x, target=0, order="up").names
    assert up == down[::-1]
    assert up[0] == "scale"
    assert {*up[1:3]} == {"body.weight", "body.bias"}
    assert {*up[3:]} == {"head.weight", "head.bias"}


def test_correlations_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(6, (4, 30), generator=generator).double() for _ in range(2))
    wanted = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert correlate_ranks(a, b).tolist() == pytest.approx(wanted, abs=1e-12)
    wanted = [pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert correlate_rows(a, b).tolist() == pytest.approx(wanted, abs=1e-12)
    assert correlate_ranks(a, torch.zeros_like(a)).tolist() == [0.0] * 4


def test_what_cannot_be_randomised_is_refused() -> None:
    model, x = nn.Linear(3, 2).eval(), torch.randn(1, 3)
    with pytest.raises(SignatureError, match="'sideways' is none of"):
        randomise_parameters(fxlrp.compile(model), x, target=0, order="sideways")
    for measure in (randomise_parameters, measure_rise):
        with pytest.raises(SignatureError, match="target=None is another class"):
            measure(fxlrp.compile(model), x)
    with pytest.raises(SignatureError, match="bins=1"):
        measure_rise(fxlrp.compile(model), x, target=0, bins=1)
    with pytest.raises(SignatureError, match="parameters of an exported program"):
        randomise_parameters(fxlrp.compile(torch.export.export(model, (x,))), x, target=0)
