"""The measurement runs, and measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner
from zoo import ZOO

import fxlrp
from fxlrp.cli.app import app
from fxlrp.cli.models import LoadedModel
from fxlrp.cli.timing import GRADIENT, compute_gradient, measure_times
from fxlrp.ir import targets

MODELS = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


def layers():
    torch.manual_seed(1)  # two hidden units are on; where none is, there is no relevance and no error
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (torch.rand(2, 4),)


def words():
    return Words(), (torch.arange(6).view(2, 3),)


def exported():
    model, args = words()
    return torch.export.export(model.eval(), args), args
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "timed.py").write_text(MODELS)
    monkeypatch.delitem(__import__("sys").modules, "timed", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [("vit_b_16", 3), ("bert", 1), ("gpt2", (-1, 7)), ("wav2vec2", (0, None))])
def test_the_gradient_beside_the_program_is_that_of_the_preset(name: str, target: targets.Target) -> None:
    model, args, kwargs = ZOO[name](2)
    expected = fxlrp.compile(model, rules="gradient")(*args, target=target, **kwargs)
    relevance, output = expected.relevance, expected.output
    y = output if isinstance(output, Tensor) else output["logits"]
    form, numbers = targets.split_target(target, tuple(y.shape))
    found = compute_gradient(model, args, kwargs, None, form, numbers)
    sums = [part.sum(-1) if part.ndim > relevance.ndim else part for part in found]
    same = [part for part in sums if part.shape == relevance.shape and torch.allclose(part, relevance, rtol=1e-9)]
    assert len(same) == 1


def test_a_model_without_a_path_from_floating_numbers_has_no_gradient() -> None:
    assert compute_gradient(nn.Identity(), (torch.arange(6).view(2, 3),), {}, lambda y: y.double(), *SOME) == []


SOME = targets.split_target(1, (2, 3))


def test_everything_runs_as_often_as_it_is_told() -> None:
    loaded = LoadedModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), (torch.rand(2, 4),), target=1)
    times = measure_times(loaded, "epsilon", "eager", None, None, True, 3)
    assert list(times.once) == ["capture", "compile", "first call, eager", "verification of its output"]
    assert list(times.each) == ["forward", GRADIENT, "output and relevance, epsilon"]
    assert all(len(repeated) == 3 for repeated in times.each.values())
    assert all(taken > 0 for repeated in (times.once.values(), *times.each.values()) for taken in repeated)


@pytest.mark.parametrize(("name", "rows"), [("layers", 7), ("words", 7), ("exported", 6)])
def test_the_command_prints_a_row_for_everything(name: str, rows: int) -> None:
    """An exported program has no embeddings to take a gradient at."""
    result = CliRunner().invoke(app, ["bench", f"timed:{name}", "--repeats", "2", "--target", "1"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert len(lines) == 2 + rows
    assert lines[0].split() == ["milliseconds", "middle", "half", "ratio"]
    assert "output and relevance, auto" in lines[-2]
    assert lines[-1].strip().startswith("Relative error of the relevance, set against float64: ")
    assert (GRADIENT in result.output) == (rows == 7)


def test_the_error_of_rounding_is_printed() -> None:
    exact, rounded = (
        CliRunner().invoke(app, ["bench", "timed:layers", "--repeats", "1", *option]).output.split()[-1]
        for option in ((), ("--bfloat16",))
    )
    assert float(exact) < 1e-5 < float(rounded) < 5e-2


def test_an_unknown_backend_is_one_message() -> None:
    result = CliRunner().invoke(app, ["bench", "timed:layers", "--backend", "abacus"])
    assert result.exit_code == 2
    assert "backend='abacus' is none of 'eager', 'inductor', 'cudagraphs'" in result.output
