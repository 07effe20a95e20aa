"""captum's tools over attributors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr
from captum.metrics import infidelity
from torch import Tensor, nn

import fxlrp
from fxlrp.integrations.captum import Relevance

X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).double().eval()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor, y: Tensor, shift: float) -> Tensor:
        return self.linear(x * y.tanh()) + shift


@pytest.mark.parametrize("target", [3, torch.tensor([1, 4]), [1, 4], [(1,), (4,)]])
def test_targets_of_captum(target: Any) -> None:
    attributor = fxlrp.compile(cnn(), rules="epsilon")
    torch.testing.assert_close(
        Relevance(attributor).attribute(X, target=target), attributor(X, target=target).relevance, rtol=0, atol=0
    )


def test_noise_tunnel() -> None:
    """Without noise it changes nothing; with noise it is a mean of maps."""
    method = Relevance(fxlrp.compile(cnn(), rules="epsilon"))
    still = attr.NoiseTunnel(method).attribute(X, nt_samples=3, stdevs=0.0, target=3)
    torch.testing.assert_close(still, method.attribute(X, target=3))
    assert attr.NoiseTunnel(method).attribute(X, nt_samples=3, stdevs=0.5, target=3).isfinite().all()


def test_metrics() -> None:
    """A linear model's relevance foretells every change: its infidelity is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5, bias=False)).double().eval()

    def disturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.rand_like(inputs) > 0.5
        return (~kept).double(), inputs * kept

    found = infidelity(model, disturb, X, Relevance(fxlrp.compile(model)).attribute(X, target=1), target=1)
    assert found.max() < 1e-20


@pytest.mark.parametrize(
    "method",
    [
        lambda model: attr.NoiseTunnel(attr.Saliency(model)),
        attr.IntegratedGradients,
        lambda model: attr.LayerGradCam(model, model[0]),
        attr.ShapleyValueSampling,
    ],
)
def test_methods_of_captum_run_on_the_model_of_an_attributor(method: Any) -> None:
    adapter = Relevance(fxlrp.compile(cnn()))
    adapter.attribute(X, target=3)
    options = {"n_samples": 1} if method is attr.ShapleyValueSampling else {}
    assert method(adapter.forward_func).attribute(X.clone().requires_grad_(), target=3, **options).isfinite().all()


def test_occlusion_finds_what_relevance_of_a_linear_model_says() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5, bias=False)).double().eval()
    method = Relevance(fxlrp.compile(model))
    found = attr.Occlusion(method.forward_func).attribute(X, (1, 1, 1), target=2)
    torch.testing.assert_close(found.double(), method.attribute(X, target=2), rtol=1e-5, atol=1e-6)  # it is float32


def test_several_inputs_and_arguments_without_relevance() -> None:
    x, y = torch.randn(2, 2, 4, dtype=torch.float64)
    attributor = fxlrp.compile(Pair().eval())
    found = Relevance(attributor).attribute((x, y), target=1, additional_forward_args=0.5)
    assert isinstance(found, tuple)
    for mine, other in zip(found, attributor(x, y, 0.5, target=1).relevance.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_an_input_without_relevance_is_refused() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * 2 + y

    given = torch.randn(2, 3), torch.ones(2, 1, dtype=torch.int64)
    with pytest.raises(fxlrp.SignatureError, match="give it as one of additional_forward_args"):
        Relevance(fxlrp.compile(First().eval())).attribute(given, target=1)
