"""Attributors of one model for several rule sets share what they capture of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.rules import PRESETS
from fxlrp.rules.unchanged import passed
from fxlrp.session import programs


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    capture = programs.capture
    monkeypatch.setattr(programs, "capture", lambda *args, **kwargs: made.append(args) or capture(*args, **kwargs))
    return made


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(2)
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(*layers, nn.Linear(4, 4), block, nn.Flatten(), nn.Linear(16, 3)).double().eval()


X = torch.rand(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def relevance(attributor: fxlrp.Attributor, x: Tensor = X) -> Tensor:
    found: Tensor = attributor(x, target=1).relevance
    return found


NAMES = ("epsilon_gamma_box", "cp_lrp", "gradient", "reslrp")
"""Presets that treat biases, gates, statistics and the first layer in different ways."""


def test_one_capture_serves_several_presets_and_changes_no_number(captures: list[object]) -> None:
    model = make_network()
    first = fxlrp.compile(model)
    before = relevance(first)
    for name in NAMES:
        preset = PRESETS[name]
        other = first.with_rules(preset)
        assert other.rules is preset
        found, rewrites = relevance(other), other.coverage().rewrites
        assert rewrites == first.coverage().rewrites
        assert len(captures) == 1, name
        alone = fxlrp.compile(model, rules=preset)
        assert torch.equal(found, relevance(alone)), name
        assert other.coverage() == alone.coverage()
        captures.pop()
    assert torch.equal(relevance(first), before)


def test_norms_in_another_form_and_other_inputs_are_captured(captures: list[object]) -> None:
    first = fxlrp.compile(make_network())
    relevance(first)
    apart = fxlrp.rule_set("epsilon").with_norms_apart(passed)
    assert torch.equal(relevance(first.with_rules(apart)), relevance(fxlrp.compile(first.model, rules=apart)))
    assert len(captures) == 3
    relevance(first.with_rules(PRESETS["epsilon"]), torch.cat([X, X]))
    assert len(captures) == 4


def test_a_model_that_has_changed_since_is_captured(captures: list[object]) -> None:
    model = make_network()
    first = fxlrp.compile(model)
    relevance(first)
    model[2] = nn.Tanh()
    assert torch.equal(
        relevance(first.with_rules(PRESETS["epsilon"])), relevance(fxlrp.compile(model, rules="epsilon"))
    )
    assert len(captures) == 3


def test_changed_weights_are_seen() -> None:
    model = make_network()
    first = fxlrp.compile(model)
    other = first.with_rules(PRESETS["epsilon_plus"])
    relevance(first), relevance(other)
    with torch.no_grad():
        model[0].weight.mul_(-1)
    assert torch.equal(relevance(other), relevance(fxlrp.compile(model, rules="epsilon_plus")))
