"""Explanations averaged over inputs, beside loops over calls and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from tiers import leave_to_slow
from torch import Tensor, nn

import fxlrp

X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).double().eval()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        return self.linear(x * y.tanh()) + ids.unsqueeze(1)


TARGETS: dict[str, Any] = {
    "class": 3,
    "largest": None,
    "per sample": [1, 4],
    "contrast": fxlrp.contrast(2, [0, 1]),
    "nested contrast": fxlrp.contrast(fxlrp.contrast(2, 1), 0),
    "seed": torch.randn(2, 5, dtype=torch.float64),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("chunk", leave_to_slow([1, 3], but={3}))
def test_without_noise_nothing_is_smoothed(target: str, chunk: int) -> None:
    attributor = fxlrp.compile(cnn(), rules="epsilon_plus", read=("1",))
    one = attributor(X, target=TARGETS[target])
    mean = fxlrp.smooth(attributor, n=5, noise=0.0, chunk=chunk)(X, target=TARGETS[target])
    torch.testing.assert_close(mean.relevance, one.relevance)
    torch.testing.assert_close(mean.read, one.read)
    torch.testing.assert_close(mean.output, one.output)


def test_smoothing_averages_over_noise_of_the_range_of_each_sample() -> None:
    attributor = fxlrp.compile(cnn(), rules="epsilon_plus")
    found = fxlrp.smooth(attributor, n=4, noise=0.2, chunk=2, seed=3)(X, target=[1, 4])
    drawn = torch.randn(4, *X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    width = 0.2 * (X.flatten(1).amax(1) - X.flatten(1).amin(1)).view(2, 1, 1, 1)
    maps = [attributor(X + noise * width, target=[1, 4]).relevance for noise in drawn]
    torch.testing.assert_close(found.relevance, torch.stack(maps).mean(0))


def test_noise_does_not_change_the_class() -> None:
    """The largest output of the input itself is explained in all copies, though theirs are others."""
    model = nn.Linear(2, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.99]], dtype=torch.float64)
    found = fxlrp.smooth(fxlrp.compile(model), n=64, noise=50.0)(x)
    assert found.relevance[0, 1] == 0


@pytest.mark.parametrize("start", [0.0, 0.5, X.mean(0)])
def test_integrated_gradients(start: Any) -> None:
    """Complete, and those of captum, whose points are of single precision."""
    model = cnn()
    found = fxlrp.integrate(fxlrp.compile(model, rules="gradient"), start, steps=24)(X, target=[1, 4])
    wanted = IntegratedGradients(model).attribute(
        X, torch.as_tensor(start, dtype=X.dtype).expand_as(X), torch.tensor([1, 4]), n_steps=24, method="gausslegendre"
    )
    torch.testing.assert_close(found.relevance, wanted, rtol=1e-6, atol=1e-8)
    rise = model(X) - model(torch.as_tensor(start, dtype=X.dtype).expand_as(X))
    torch.testing.assert_close(found.relevance.flatten(1).sum(1), rise[[0, 1], [1, 4]].detach(), rtol=1e-6, atol=1e-8)


def test_several_inputs_have_baselines_by_name() -> None:
    model, ids = Pair().eval(), torch.tensor([0, 2])
    x, y = torch.randn(2, 2, 4, dtype=torch.float64)
    attributor = fxlrp.compile(model, rules="gradient")
    found = fxlrp.integrate(attributor, {"y": 0.3 * torch.ones(4).double()}, steps=16, chunk=5)(
        x, y=y, ids=ids, target=1
    )
    assert list(found.relevance) == ["x", "y"]
    rise = model(x, y, ids) - model(0 * x, 0 * y + 0.3, ids)
    torch.testing.assert_close(sum(r.sum(1) for r in found.relevance.values()), rise[:, 1].detach())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: fxlrp.smooth(a, n=0), "n=0 is no number of copies"),
        (lambda a: fxlrp.smooth(a, noise=-1.0), "noise=-1.0 is no standard deviation"),
        (lambda a: fxlrp.smooth(a, chunk=0)(X), "chunk=0 is no number of copies"),
        (lambda a: fxlrp.integrate(a, steps=0), "steps=0 is no number of points"),
        (lambda a: fxlrp.integrate(a, torch.ones(7))(X), "does not expand to that of 'input'"),
        (lambda a: fxlrp.integrate(a, {"z": torch.ones(6)})(X), "baseline: z is no floating input; there are input"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(fxlrp.SignatureError, match=message):
        call(fxlrp.compile(cnn()))


def test_whole_numbers_have_nothing_between_them() -> None:
    attributor = fxlrp.compile(nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3)).eval())
    for averaged in (fxlrp.smooth(attributor), fxlrp.integrate(attributor)):
        with pytest.raises(fxlrp.SignatureError, match="no input has floating point numbers"):
            averaged(torch.tensor([[1, 2, 3]]))


def test_several_inputs_need_more_than_one_baseline() -> None:
    x, y = torch.randn(2, 2, 4, dtype=torch.float64)
    with pytest.raises(fxlrp.SignatureError, match="one tensor for 2 inputs: give a dictionary of x, y"):
        fxlrp.integrate(fxlrp.compile(Pair().eval()), x)(x, y, torch.tensor([0, 2]))
