"""What a result says against itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp


def linear(weight: list[list[float]], bias: list[float]) -> nn.Module:
    model = nn.Linear(len(weight[0]), len(weight))
    model.weight.data, model.bias.data = torch.tensor(weight), torch.tensor(bias)
    return model.double().eval().requires_grad_(False)


BIASED = linear([[1.0, 1.0], [1.0, 2.0]], [100.0, 0.0])
"""Its first output is mostly bias."""
CANCELS = linear([[1e3, -1e3], [1.0, 1.0]], [0.0, 0.0])
"""In its first output large contributions cancel."""
X = torch.tensor([[0.5, 0.4999], [0.25, 0.25 + 2.0**-12]], dtype=torch.float64)
CALLS: dict[str, dict[str, Any]] = {
    "class": {"target": 0},
    "largest": {"target": None},
    "one per sample": {"target": [0, 1]},
    "contrast": {"target": fxlrp.contrast(0, 1)},
    "seed": {"target": torch.tensor([[1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)},
    "several classes": {"targets": [0, 1, 0]},
    "several contrasts": {"targets": [fxlrp.contrast(0, 1), fxlrp.contrast(1, 0)], "chunk": 1},
    "several seeds": {"targets": [torch.eye(2).double(), torch.ones(2, 2).double()]},
}


def value(y: Tensor, target: Any) -> Tensor:
    """The explained value of each sample, by the meaning of a target."""
    if isinstance(target, Tensor):
        return (y * target).sum(1)
    if isinstance(target, type(fxlrp.contrast(0, 1))):
        return value(y, target.wanted) - value(y, target.other)
    if target is None:
        return y.amax(1)
    chosen = target if isinstance(target, list) else [target] * len(y)
    return torch.stack([row[i] for row, i in zip(y, chosen, strict=True)])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", [BIASED, CANCELS], ids=["biased", "cancels"])
def test_the_explained_value_is_that_of_the_target(model: nn.Module, call: str) -> None:
    result = fxlrp.compile(model)(X, **CALLS[call])
    y = model(X).detach()
    targets = CALLS[call].get("targets")
    wanted = value(y, CALLS[call]["target"]) if targets is None else torch.stack([value(y, t) for t in targets])
    assert result.explained is not None
    torch.testing.assert_close(result.explained, wanted, rtol=1e-12, atol=1e-12)


def test_absorbed_relevance_is_told_with_its_numbers() -> None:
    attributor = fxlrp.compile(BIASED)
    (text,) = attributor(X, target=0).warnings
    y = BIASED(X)[:, 0]
    lost = 100 * float((100 / y).max())
    assert f"{lost:.2f} %" in text
    assert f"{float(y[1]):.6g} of sample 1" in text
    assert "likewise sample 0" in text
    assert "ledger()" in text
    assert attributor(X, target=1).warnings == ()
    assert attributor(X, target=[0, 1]).warnings[0].count("sample") == 1


def test_grown_relevance_is_told_with_its_numbers() -> None:
    attributor = fxlrp.compile(CANCELS)
    (text,) = attributor(X, target=0).warnings
    r = attributor(X, target=0).relevance
    times = (r.abs().sum(1) / r.sum(1).abs()).max()
    assert f"{float(times):.3g} times" in text
    assert attributor(X, target=1).warnings == ()


def test_relevance_of_a_value_of_0_is_grown() -> None:
    x = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    (text,) = fxlrp.compile(CANCELS)(x, target=0).warnings
    assert "sample 0" in text
    assert "sample 1" not in text  # where nothing is explained, and nothing arrives
    assert "out of all proportion" in text


def test_what_is_not_finite_is_told() -> None:
    model = linear([[1e200, 1e200]], [0.0])
    result = fxlrp.compile(model)(torch.full((1, 2), 1e200, dtype=torch.float64), target=0)
    assert any("not finite" in text for text in result.warnings)


def test_targets_are_told_apart() -> None:
    result = fxlrp.compile(BIASED)(X, targets=[1, 0, 1, 0])
    (text,) = result.warnings
    assert "of target 1, sample 1" in text
    assert "likewise target 3, sample 1; target 1, sample 0; target 3, sample 0" in text


@pytest.mark.parametrize("option", ["inject", "keep"])
def test_partial_relevance_has_nothing_to_sum_to(option: str) -> None:
    model = nn.Sequential(BIASED, nn.ReLU(), BIASED).eval()
    given: dict[str, Any] = {option: {"0": torch.ones(2, dtype=torch.float64)}}
    result = fxlrp.compile(model)(X, **given)
    assert result.explained is None
    assert result.warnings == ()


class Two(nn.Module):
    """A number of one input for each sample, and of one that all samples share."""

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        return x * 1e-3 + shared.sum()


def test_inputs_without_samples_are_judged_together() -> None:
    x, shared = torch.ones(2, 3, dtype=torch.float64), torch.tensor([1e3, -1e3 - 1e-3], dtype=torch.float64)[None]
    (text,) = fxlrp.compile(Two().eval())(x, shared, target=0).warnings
    assert "all samples" in text


class Tokens(nn.Module):
    """Words whose sum is small beside a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)
        self.head.bias.data += 1e3

    def forward(self, ids: Tensor, scale: Tensor) -> dict[str, Tensor]:
        y = self.embedding(ids) * scale
        return {"hidden": y, "scores": self.head(y.sum(1))}


@pytest.mark.parametrize("objective", [None, lambda y: y.amax(1), lambda y: y - 1e3], ids=["none", "one", "shifted"])
def test_tokens_several_inputs_outputs_and_objectives(objective: Callable[[Tensor], Tensor] | None) -> None:
    torch.manual_seed(0)
    model = Tokens().double().eval()
    ids, scale = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.full((2, 1, 1), 0.01, dtype=torch.float64)
    result = fxlrp.compile(model, output="scores", objective=objective)(ids, scale)
    y = model(ids, scale)["scores"]
    y = y if objective is None else objective(y)
    assert result.explained is not None
    torch.testing.assert_close(result.explained, y.detach().reshape(2, -1).amax(1))
    lost = 1 - (result.relevance["ids"].sum(1) + result.relevance["scale"].flatten()) / result.explained
    assert bool(result.warnings) == bool((lost > 0.9).any())


@pytest.mark.parametrize("objective", [None, lambda y: 2 * y], ids=["none", "of the same shape"])
@pytest.mark.parametrize("kind", ["index", "seed"])
def test_artefacts_tell_it_too(tmp_path: Path, objective: Callable[[Tensor], Tensor] | None, kind: str) -> None:
    """Where the explained value is among what they return."""
    attributor = fxlrp.compile(BIASED, objective=objective)
    artifact = fxlrp.load(attributor.save(tmp_path / "model.pt2", X, target=kind))
    target = 0 if kind == "index" else torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    mine, theirs = attributor(X, target=target), artifact(X, target=target)
    assert len(mine.warnings) == 1
    assert theirs.warnings == (() if objective else mine.warnings)


def test_results_are_values() -> None:
    """They compare, print, copy and travel as before; warnings go with them."""
    result = fxlrp.compile(BIASED, objective=lambda y: y)(X, target=0)
    assert "question" not in repr(result)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert other.warnings == result.warnings
        torch.testing.assert_close(other.explained, result.explained)
        torch.testing.assert_close(other.relevance, result.relevance)
    with ThreadPoolExecutor(8) as pool:
        fresh = fxlrp.compile(BIASED)(X, target=0)
        assert set(pool.map(lambda _: fresh.warnings, range(16))) == {result.warnings}


@lru_cache
def ordinary() -> dict[str, tuple[nn.Module, Tensor]]:
    """Networks that have learned a little."""
    torch.manual_seed(0)
    models = {
        "dense": (nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), (64, 6)),
        "convolutions": (
            nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3)
            ),
            (64, 1, 8, 8),
        ),
    }
    found = {}
    for name, (model, shape) in models.items():
        x, optimiser = torch.randn(shape), torch.optim.Adam(model.parameters(), 1e-2)
        classes = x.flatten(1)[:, :3].argmax(1)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), classes).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        found[name] = model.eval(), x
    return found


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon", "epsilon_plus", "epsilon_gamma_box"])
def test_ordinary_networks_raise_no_doubt(rules: str) -> None:
    for model, x in ordinary().values():
        assert fxlrp.compile(model, rules=rules)(x).warnings == ()
