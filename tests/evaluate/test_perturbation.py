"""Random changes of models whose answer is known, beside captum's measures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.perturbation import Foretold, drop_at_random, measure_sensitivity
from fxlrp.evaluate.segments import divide_grid

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 2, 4, 6, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 2, 1])
PIXELS = divide_grid(4, 6, 1)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), *layers, nn.LazyLinear(3)).double().eval()


def relevance_of(model: nn.Module) -> Tensor:
    found: Tensor = fxlrp.compile(model, rules="gradient")(X, target=TARGET).relevance
    return found


def foretell(model: nn.Module, relevance: Tensor, size: int = 5) -> Foretold:
    return drop_at_random(model, X, relevance, TARGET, PIXELS, constant(), size=size, draws=40, batch=7)


def test_relevance_of_a_linear_model_foretells_every_change() -> None:
    model = network()
    model(X)
    found, twice = (foretell(model, scale * relevance_of(model)) for scale in (1.0, 2.0))
    torch.testing.assert_close(found.sums, found.drops, rtol=1e-10, atol=1e-12)
    assert found.infidelity.max() < 1e-20
    torch.testing.assert_close(twice.infidelity, found.drops.square().mean(1))
    assert twice.scaled_infidelity.max() < 1e-20
    torch.testing.assert_close(twice.correlation, torch.ones(3).double())
    assert (foretell(model, torch.zeros_like(X)).correlation == 0).all()
    assert found.sums.std(1).min() > 0.01
    whole = foretell(model, relevance_of(model), 24)
    torch.testing.assert_close(whole.drops, whole.drops[:, :1].expand(-1, 40))


def test_infidelity_is_captums_on_the_same_changes() -> None:
    model = network(nn.Linear(48, 8), nn.ReLU())
    model(X)
    relevance, found, draws = relevance_of(model), foretell(model, relevance_of(model)), iter(range(40))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(24, generator=generator)[:5] for _ in range(40)]
    sets = [torch.zeros(24).index_fill(0, one, 1.0).reshape(4, 6) for one in drawn]

    def disturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        gone = torch.stack([sets[next(draws)] for _ in range(len(inputs) // 3)]).repeat(3, 1, 1)[:, None]
        gone = gone.expand_as(inputs).double()
        return gone, inputs * (1 - gone)

    args = model, disturb, X, relevance
    wanted = infidelity(*args, target=TARGET, n_perturb_samples=40)
    torch.testing.assert_close(found.infidelity, wanted, rtol=1e-10, atol=1e-12)
    draws = iter(range(40))
    wanted = infidelity(*args, target=TARGET, n_perturb_samples=40, normalize=True)
    torch.testing.assert_close(found.scaled_infidelity, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_relevance_of_a_linear_model_changes_as_its_input(scale: float) -> None:
    """``R(x + e) - R(x) = w e``, whatever the scale of relevance."""
    weights = torch.randn(X.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = measure_sensitivity(lambda x: scale * weights * x, X, radius=0.1, draws=5)
    assert (found > 0).all()
    assert (found <= 0.1 * weights.norm() / (weights * X).flatten(1).norm(dim=1)).all()
    assert (measure_sensitivity(torch.ones_like, X) == 0).all()


def test_sensitivity_is_captums_on_the_same_changes() -> None:
    model = network(nn.Linear(48, 8), nn.Tanh())
    model(X)
    attributor = fxlrp.compile(model, rules="gradient")
    found = measure_sensitivity(lambda x: attributor(x, target=TARGET).relevance, X, draws=6)
    generator = torch.Generator().manual_seed(0)

    def explain(inputs: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        x = inputs if isinstance(inputs, Tensor) else inputs[0]  # a tuple for the first call only
        return (attributor(x, target=TARGET).relevance,)

    def disturb(x: Tensor) -> Tensor:
        return x + 0.02 * (2 * torch.rand(X.shape, generator=generator, dtype=torch.float64) - 1)

    wanted = sensitivity_max(explain, X, disturb, n_perturb_samples=6, max_examples_per_batch=3)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: foretell(network(), torch.ones_like(X), 25), "size=25"),
        (lambda: foretell(network(), X / 0), "not finite"),
        (lambda: measure_sensitivity(torch.ones_like, X.long()), "no neighbours"),
        (lambda: measure_sensitivity(torch.ones_like, X, radius=0.0), "radius=0"),
    ],
    ids=["size", "infinite", "whole numbers", "radius"],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        call()
