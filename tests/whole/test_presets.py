"""What holds of every preset, on a network of images and one of sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn

import fxlrp

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def images() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Residual(block), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).eval(), IMAGE


class Last(nn.Module):
    """A transformer's layer, a recurrent one, and the last position."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.recurrent, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.block(x))[0][:, -1])


def sequences() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    return Last().eval(), SEQUENCE


every_preset = pytest.mark.parametrize("preset", list(fxlrp.presets()))
every_model = pytest.mark.parametrize("make", leave_to_slow([images, sequences], but={images}))
Make = Callable[[], tuple[nn.Module, Tensor]]


@cache
def captured(make: Make, dtype: torch.dtype, backend: str) -> tuple[fxlrp.Attributor, Tensor]:
    """What all presets share."""
    model, x = make()
    attributor = fxlrp.compile(model.to(dtype), rules="gradient", backend=backend)
    attributor(x.to(dtype), target=3)
    return attributor, x.to(dtype)


def compiled(
    make: Make, preset: str, dtype: torch.dtype = torch.float32, backend: str = "eager"
) -> tuple[fxlrp.Attributor, Tensor]:
    shared, x = captured(make, dtype, backend)
    return shared.with_rules(fxlrp.rule_set(preset)), x


@every_model
@pytest.mark.parametrize("preset", leave_to_slow(fxlrp.presets(), but={"auto", "attnlrp", "epsilon_gamma_box"}))
def test_the_account_closes(preset: str, make: Make) -> None:
    attributor, x = compiled(make, preset, torch.float64)
    ledger = attributor.ledger(x, target=3)
    scale = max(abs(ledger.explained), *map(abs, ledger.inputs.values()), *(abs(e.received) for e in ledger.entries))
    assert abs(ledger.gap) <= 1e-8 * scale
    found = float(attributor(x, target=3).relevance.sum())
    assert sum(ledger.inputs.values()) == pytest.approx(found, abs=1e-9 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("make", [images])
@every_preset
def test_v28_half_precision_is_finite(preset: str, make: Make) -> None:
    attributor, x = compiled(make, preset, torch.bfloat16)
    found = attributor(x, target=3)
    assert found.relevance.isfinite().all()
    assert found.relevance.abs().max() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
@pytest.mark.parametrize("make", [images])
@every_preset
def test_every_way_to_run_gives_the_same(preset: str, make: Make, tmp_path: Path) -> None:
    attributor, x = compiled(make, preset)
    relevance = attributor(x, target=3).relevance
    faster, _ = compiled(make, preset, backend="inductor")
    saved = fxlrp.load(attributor.save(tmp_path / "model.pt2", x))
    for other in (faster(x, target=3).relevance, saved(x, target=3).relevance):
        torch.testing.assert_close(other, relevance, rtol=1e-3, atol=1e-4 * float(relevance.abs().max()))
