"""`Attributor.verify`: sound models and rules pass, each kind of defect fails the check that is made for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner
from zoo import ZOO

import fxlrp
from fxlrp.cli.app import app
from fxlrp.rules.taylor import adjoint

aten = torch.ops.aten
OUTPUT, LEDGER, SAMPLES, SEED = (
    "the output is the model's",
    "the ledger closes",
    "samples are independent",
    "twice the seed, twice the relevance",
)


def cnn() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    return nn.Sequential(*layers).eval()


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


class Bag(nn.Module):
    """A classifier of token ids, with a floating point input beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        x = self.table(ids)
        return self.head(torch.tanh(x if weights is None else x * weights[..., None]).mean(1))


def statuses(found: fxlrp.Verification) -> dict[str, str]:
    return {check.check: check.status for check in found.checks}


IDS = torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "args", "target", "rules"),
    [
        (cnn, (images(3),), [1, 0, 4], "epsilon_plus"),
        (cnn, (images(1),), None, "epsilon_gamma_box"),
        (lambda: Bag().eval(), (IDS,), 1, "attnlrp"),
        (lambda: Bag().eval(), (IDS, torch.rand(3, 5)), fxlrp.contrast([0, 1, 2], 1), "epsilon"),
    ],
    ids=["cnn", "one", "ids", "two"],
)
def test_sound_models_pass(model: Callable[[], nn.Module], args: Any, target: Any, rules: str) -> None:
    attributor = fxlrp.compile(model(), rules=rules)
    found = attributor.verify(*args, target=target)
    assert set(statuses(found).values()) == {"passed"}, str(found)
    assert found.passed
    assert len(found.checks) == 7
    assert all(check.error is not None and check.tolerance is not None and check.reason for check in found.checks)
    assert next(c for c in found.checks if "float64" in c.check).error < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_language_models_pass(name: str) -> None:
    model, args, kwargs = ZOO[name](2)
    found = fxlrp.compile(model, read=()).verify(*args, target=(-1, 3) if name == "llama" else None, **kwargs)
    assert set(statuses(found).values()) == {"passed"}, str(found)
    assert len(found.checks) == 6  # it is of float64 itself


@pytest.mark.parametrize("n", [1, 2])
def test_half_precision_is_set_against_what_autograd_loses(n: int) -> None:
    found = fxlrp.compile(cnn().bfloat16(), rules="epsilon_plus").verify(images(n).bfloat16(), target=0)
    assert found.passed, str(found)
    rows = {row["check"]: row for row in found.to_rows()}
    assert rows["gradient rules equal autograd in float64"]["error"] < 1e-8
    assert "bfloat16" in rows[OUTPUT]["reason"]
    own = rows["gradient rules equal autograd in bfloat16"]
    if n == 1:  # rounding chooses other winners of a maximum
        assert (own["status"], "autograd itself loses" in own["reason"]) == ("not possible", True)
    else:
        assert own["error"] < own["tolerance"] == 0.05


@pytest.mark.parametrize(
    ("rule", "failed"),
    [
        (lambda site, c: (c * c.abs().sum(),), {SAMPLES, SEED}),
        (lambda site, c: (torch.where(site.out > 0, c, 0.0) * c.abs(),), {SEED}),
        (lambda site, c: (c * (site.out == site.out.amax(0)),), {SAMPLES}),
    ],
    ids=["batch and square", "square", "batch"],
)
def test_wrong_rules_fail(rule: Any, failed: set[str]) -> None:
    """Rules that mix samples, or are not linear in the coefficient."""
    rules = fxlrp.rule_set("epsilon") | {aten.relu.default: fxlrp.Rule("wrong", "taylor", rule)}
    found = fxlrp.compile(cnn(), rules=rules).verify(images(3), target=1)
    assert {check for check, status in statuses(found).items() if status == "failed"} == failed, str(found)
    assert not found.passed
    assert "failed" in str(found)


def test_relevance_from_nowhere_opens_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    close = fxlrp.reports.ledger_program.LedgerProgram.close
    lost = lambda book, flat: close(book, [flat[0], 2 * flat[1], *flat[2:]])  # noqa: E731
    monkeypatch.setattr(fxlrp.reports.ledger_program.LedgerProgram, "close", lost)
    found = fxlrp.compile(cnn(), rules="epsilon").verify(images(2), target=1)
    assert {check for check, status in statuses(found).items() if status == "failed"} == {LEDGER}


calls: list[int] = []


@torch.library.custom_op("fxlrp_tests::counted", mutates_args=())
def counted(x: Tensor) -> Tensor:
    calls.append(len(calls))
    return x * len(calls)


counted.register_fake(torch.empty_like)
counted.register_autograd(lambda ctx, g: g)


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.fxlrp_tests.counted(x).sum(-1)


def test_an_op_that_remembers_fails() -> None:
    """Its result depends on what ran before, so that no program can compute the model."""
    rules = fxlrp.rule_set("epsilon") | {torch.ops.fxlrp_tests.counted.default: adjoint}
    found = fxlrp.compile(Counted().eval(), rules=rules).verify(torch.randn(2, 3, 4), target=1)
    assert statuses(found)[OUTPUT] == "failed"
    assert not found.passed


class Fixed(nn.Module):
    """Computes in float32, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("model", "check", "reason"),
    [
        (Fixed().eval(), "gradient rules equal autograd in float64", "dtype"),
        (Mixing().eval(), SAMPLES, "depends on the rest of the batch"),
        (
            torch.export.export(Fixed().eval(), (torch.ones(3, 4),)),
            "gradient rules equal autograd in float64",
            "an exported program",
        ),
    ],
    ids=["float32", "mixing", "exported"],
)
def test_what_is_not_possible_says_why(model: Any, check: str, reason: str) -> None:
    found = fxlrp.compile(model, rules="gradient").verify(torch.randn(3, 4), target=1)
    row = next(c for c in found.checks if c.check == check)
    assert row.status == "not possible"
    assert reason in row.reason
    assert found.passed


def test_the_last_program_is_that_of_the_call() -> None:
    attributor = fxlrp.compile(cnn(), rules="epsilon", read=("2",))
    attributor(images(3), target=2)
    program = attributor.program
    found = attributor.verify(images(3), target=2)
    assert attributor.program is program
    assert json.loads(found.to_json())["passed"] is True
    assert [row["check"] for row in found.to_rows()] == [check.check for check in found.checks]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import torch\n\ncalls = []\n\n\nclass Model(torch.nn.Linear):\n    def forward(self, x):\n"
        "        calls.append(1)\n        return super().forward(x) * (1 if len(calls) < 4 else 2)\n\n\n"
        "def sound():\n    return torch.nn.Linear(4, 3), (torch.ones(2, 4),)\n\n\n"
        "def wrong():\n    return Model(4, 3), (torch.ones(2, 4),)\n"
    )
    run = CliRunner().invoke
    sound = run(app, ["verify", "own:sound", "--json", "found.json"])
    assert sound.exit_code == 0, sound.output
    assert "the ledger closes" in sound.output
    assert json.loads((tmp_path / "found.json").read_text())["passed"] is True
    assert run(app, ["verify", "own:wrong"]).exit_code == 1
    assert run(app, ["verify", "own:nothing"]).exit_code == 2
