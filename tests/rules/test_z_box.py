"""Boxes whose bounds differ between channels or pixels."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from reference import Call, matrix, negative, positive, stab
from sites import agree, result, seed, site
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.rules.presets import epsilon_gamma_box
from fxlrp.rules.weighted import normalised_z_box, z_box

import_torchvision()

import zennit.rules  # noqa: E402

aten = torch.ops.aten
LOW, HIGH = [-2.1, -2.0, -1.8], [2.2, 2.4, 2.6]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


IMAGES = Call(aten.conv2d.default, (random(2, 3, 6, 5), random(4, 3, 3, 2), random(4), [2, 1], [1, 1]))
VECTORS = Call(aten.linear.default, (random(2, 7, 3), random(5, 3), random(5)))
ONE_IMAGE = Call(aten.conv2d.default, (random(3, 6, 5), random(4, 3, 3, 2)))


def channels(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def literal(call: Call, c: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Montavon et al. 2017, box-constrained domain, by connection, with bounds for each entry."""
    (x,), w = call.operands, matrix(call, 0)
    least, most = low.expand(x.shape).flatten(), high.expand(x.shape).flatten()
    parts = x.flatten() * w - least * positive(w) - most * negative(w)
    return (parts.T @ ((c * call.out).flatten() / stab(parts.sum(1), 1e-6))).reshape(x.shape)


BOUNDS: dict[str, tuple[Call, Any, Any, Tensor, Tensor]] = {
    "one per channel": (IMAGES, LOW, HIGH, channels(LOW).view(3, 1, 1), channels(HIGH).view(3, 1, 1)),
    "one of them a number": (IMAGES, channels(LOW), 5.0, channels(LOW).view(3, 1, 1), channels([5.0])),
    "shaped as zennit's": (IMAGES, *2 * (channels(LOW).view(1, 3, 1, 1), channels(HIGH).view(1, 3, 1, 1))),
    "one per pixel": (IMAGES, random(3, 6, 5) - 9, 9.0, random(3, 6, 5) - 9, channels([9.0])),
    "one per feature": (VECTORS, LOW, HIGH, channels(LOW), channels(HIGH)),
    "no batch": (ONE_IMAGE, LOW, HIGH, channels(LOW).view(3, 1, 1), channels(HIGH).view(3, 1, 1)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_those_of_each_entry(name: str) -> None:
    call, low, high, least, most = BOUNDS[name]
    at = site(call)
    c = seed(at.out)
    agree(result(z_box(low, high), at, c), [literal(call, c, least, most)])


def test_bounds_in_one_shape_are_one_number() -> None:
    at = site(IMAGES)
    c = seed(at.out)
    for bounds in (((-3.0,) * 3, (4.0,) * 3), (torch.full((3, 6, 5), -3.0), torch.full((1, 1, 1), 4.0))):
        agree(result(z_box(*bounds), at, c), result(z_box(-3.0, 4.0), at, c), 1e-14)


def test_zennit() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 4, 3, padding=1).double(), random(2, 3, 6, 5).clamp(-1.8, 2.2)
    low, high = channels(LOW).view(1, 3, 1, 1), channels(HIGH).view(1, 3, 1, 1)
    handle = zennit.rules.ZBox(low, high).register(layer)
    try:
        given = x.requires_grad_()
        y = layer(given)
        c = seed(y.detach())
        (theirs,) = torch.autograd.grad(y, given, c * y.detach())
    finally:
        handle.remove()
    call = Call(aten.conv2d.default, (x.detach(), layer.weight.detach(), layer.bias.detach(), [1, 1], [1, 1]))
    agree(result(z_box(LOW, HIGH), site(call), c), [theirs])


def test_normalised_images_are_boxed_as_images_are() -> None:
    """``w (x - m) / s`` of normalised images is ``(w / s) x`` of the images, but for the bias."""
    torch.manual_seed(0)
    mean, std = channels(MEAN).view(3, 1, 1), channels(STD).view(3, 1, 1)
    x, w, b = torch.rand(2, 3, 6, 5, dtype=torch.float64), random(4, 3, 3, 2), random(4)
    normalised = Call(aten.conv2d.default, ((x - mean) / std, w, b))
    plain = Call(aten.conv2d.default, (x, w / std, b - (w * mean / std).sum((1, 2, 3))))
    c = seed(plain.out)
    agree([normalised.out], [plain.out])
    agree(result(normalised_z_box(MEAN, STD), site(normalised), c), result(z_box(), site(plain), c))


def test_names_tell_the_bounds() -> None:
    assert str(normalised_z_box(0.25, 0.125)) == "z_box(-2, 6)"
    assert str(z_box(LOW, HIGH, 0.1)) == "z_box((-2.1, -2, -1.8), (2.2, 2.4, 2.6), 0.1)"
    assert str(z_box(channels(LOW).view(3, 1, 1).expand(3, 6, 5), 3.0)) == "z_box(<3x6x5 from -2.1 to -1.8>, 3)"
    assert epsilon_gamma_box(LOW, 3).name == "epsilon_gamma_box((-2.1, -2, -1.8), 3)"


def test_rules_are_equal_by_their_bounds() -> None:
    rule = z_box(channels(LOW), HIGH)
    assert rule is z_box(LOW, tuple(HIGH))
    assert pickle.loads(pickle.dumps(rule)) is rule
    assert rule is not z_box(LOW, [*HIGH[:2], 2.7])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu().flatten(1))


def test_bounds_run_in_programs_and_files(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = Model().double().eval(), random(2, 3, 6, 6)
    rules = epsilon_gamma_box(channels(LOW).view(3, 1, 1), random(3, 6, 6) + 9)
    attributor = fxlrp.compile(model, rules=rules)
    found = attributor(x, target=1).relevance
    loaded = fxlrp.load(attributor.save(tmp_path / "model.pt2", x))
    torch.testing.assert_close(loaded(x, target=1).relevance, found, rtol=1e-12, atol=1e-14)
    single = fxlrp.compile(model.float(), rules=rules)(x.float(), target=1)
    torch.testing.assert_close(single.relevance.double(), found, rtol=1e-3, atol=1e-5)


def test_bounds_that_do_not_fit_the_input_are_refused() -> None:
    model, x = Model().double().eval(), random(2, 3, 6, 6)
    attributor = fxlrp.compile(model, rules=epsilon_gamma_box([0.0, 0.0], 1.0))
    with pytest.raises(
        RuleError, match=r"bounds of shape \(2, 1, 1\), which do not fit inputs of shape \(2, 3, 6, 6\)"
    ):
        attributor(x, target=1)
