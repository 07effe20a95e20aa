"""Tuning of models on which it is known which rules are best."""

from __future__ import annotations

import importlib
import math
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import CaptureError, RuleError, SignatureError, TargetError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.flipping import flip_patches
from fxlrp.evaluate.leave_one_out import compare_with_drops, drop_each
from fxlrp.ir.rule import RULES, Rule
from fxlrp.rules.weighted import flat, z_plus
from fxlrp.session import programs
from fxlrp.tuning.bench import is_same

SAMPLES, LENGTH, CLASSES = 12, 6, 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(SAMPLES, LENGTH, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.arange(SAMPLES) % CLASSES
LINEAR = torch.ops.aten.linear.default
RIVALS = {"plus": {LINEAR: z_plus()}, "even": {LINEAR: flat()}, "exact": "gradient"}


def make_linear(bias: bool = False) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(LENGTH, CLASSES, bias=bias).double().eval()


MODEL = make_linear()
PARTS = (X * MODEL.weight[TARGET]).detach()


def tune(*args: Any, **kwargs: Any) -> fxlrp.TuningReport:
    return fxlrp.tune(*args, **{"candidates": RIVALS, "baseline": constant(), "progress": False, **kwargs})


def be_close(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
    return -(relevance - x * MODEL.weight[target]).detach().norm(dim=1)


def strip(report: fxlrp.TuningReport) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in report.to_rows()]


def test_the_rules_of_a_linear_model_are_found_by_a_measure_in_closed_form() -> None:
    report = tune(MODEL, X, TARGET, metric=be_close)
    assert report.best == "exact"
    assert report.rules == fxlrp.rule_set("gradient")
    rows = {row["candidate"]: row for row in report.to_rows()}
    assert rows["exact"]["mean"] == pytest.approx(0, abs=1e-12)
    even = PARTS.sum(1, keepdim=True) / LENGTH
    wanted = -(even - PARTS).norm(dim=1)
    trial = next(trial for trial in report.trials if trial.name == "even")
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trial.scores, wanted[order][: len(trial.scores)], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("metric", ["flipping", "leave_one_out"])
def test_the_parts_of_a_linear_model_are_the_best_that_a_measure_can_get(metric: str) -> None:
    report = tune(MODEL, X, TARGET, metric=metric)
    assert report.best == "exact"
    assert report.metric == metric
    if metric == "leave_one_out":
        assert report.trials[0].scores == pytest.approx(torch.ones(SAMPLES).tolist())


def test_scores_are_those_of_evaluate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3))
    said = model(x).detach().argmax(1)
    relevance = fxlrp.compile(model, rules="epsilon_plus")(x).relevance
    found = fxlrp.tune(model, x, candidates=["epsilon_plus"], patch=2, batch=3, seed=3, progress=False).trials[0]
    wanted = flip_patches(model, x, relevance, said, patch=2).abpc
    torch.testing.assert_close(found.scores, wanted[order], rtol=1e-6, atol=1e-9)
    segments = torch.arange(36).view(6, 6) // 12
    drops = drop_each(model, x, said, segments, constant())
    found = fxlrp.tune(
        model,
        x,
        candidates=["epsilon_plus"],
        metric="leave_one_out",
        segments=segments,
        baseline=constant(),
        progress=False,
    ).trials[0]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.scores, compare_with_drops(relevance, drops, segments)[order])


def test_token_ids_with_the_default_candidates() -> None:
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.tokens(ids).tanh().mean(1)), "other": ids}

    ids = torch.randint(20, (4, 5))
    report = fxlrp.tune(Tokens().eval(), ids, 1, baseline=constant(0), progress=False)
    assert report.rungs == (4,)
    assert {trial.name for trial in report.trials} == {"auto", "attnlrp", "epsilon", "gradient"}


def test_tokens_whose_positions_are_computed_of_them() -> None:
    """These have relevance too, which is none of the tokens'."""
    torch.manual_seed(0)

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places, self.head = nn.Embedding(20, 4), nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            given = ids.ne(0).long()
            return self.head((self.tokens(ids) + self.places(given.cumsum(1) * given)).tanh().mean(1))

    model, ids = Counted().double().eval(), torch.randint(1, 20, (4, 5))
    found = tune(model, ids, 1, candidates=["attnlrp"], metric="leave_one_out", baseline=constant(0), seed=2)
    relevance = fxlrp.compile(model)(ids, target=1).relevance["ids"]
    drops = drop_each(model, ids, torch.ones(4, dtype=torch.int64), torch.arange(5), constant(0))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(2))
    wanted = compare_with_drops(relevance, drops, torch.arange(5))[order]
    torch.testing.assert_close(found.trials[0].scores, wanted)


def test_the_same_is_told_sample_by_sample() -> None:
    """A sample with large relevance does not hide that others differ."""
    one = torch.tensor([[1e6, 0.0], [1.0, 2.0]])
    assert is_same(one, one * (1 + 1e-4))
    assert not is_same(one, one + torch.tensor([[0.0, 0.0], [0.0, 1e-1]]))
    assert not is_same(one, torch.zeros_like(one))


def test_the_model_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    capture = programs.capture
    monkeypatch.setattr(programs, "capture", lambda *args, **kwargs: made.append(args) or capture(*args, **kwargs))
    report = tune(MODEL, X, TARGET, batch=5)
    assert report.rungs == (6, 12)
    assert len(made) == 1


def test_the_same_call_gives_the_same_report() -> None:
    one, other = (tune(MODEL, X, TARGET, first=2) for _ in range(2))
    assert strip(one) == strip(other)
    assert one.rungs == (2, 4, 8, 12)
    assert [trial.name for trial in one.trials] == [trial.name for trial in other.trials]


def test_a_bar_is_shown_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, shown in ((True, "30/30"), (False, "")):  # three candidates on 6 samples, two on 6 more
        stream = StringIO()
        console = Console(file=stream, force_terminal=terminal, width=120)
        module = importlib.import_module("fxlrp.tuning.tune")
        monkeypatch.setattr(module, "open_stderr_console", lambda console=console: nullcontext(console))
        tune(MODEL, X, TARGET, progress=True)
        assert shown in stream.getvalue()
        assert bool(stream.getvalue()) == terminal


def test_the_largest_class_is_explained_unless_told_otherwise() -> None:
    largest = MODEL(X).argmax(1)
    assert strip(tune(MODEL, X)) == strip(tune(MODEL, X, largest)) != strip(tune(MODEL, X, TARGET))
    assert strip(tune(MODEL, X, 1)) == strip(tune(MODEL, X, [1] * SAMPLES)) == strip(tune(MODEL, X, -2))


def test_candidates_that_are_the_same_in_a_model_are_dropped() -> None:
    report = tune(MODEL, X, TARGET, candidates=["gradient", "cp_lrp", "epsilon_plus", "epsilon"])
    reasons = {trial.name: trial.dropped for trial in report.trials}
    assert report.best == "gradient"
    assert reasons.pop("gradient") == ""
    assert set(reasons.values()) == {"the same relevance as gradient"}
    assert report.rivals == ()
    assert "nothing left to compare" in report.verdict


def test_candidates_that_cannot_be_measured_are_dropped_with_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(make_linear(), nn.Tanh()).eval()
    monkeypatch.delitem(RULES, torch.ops.aten.tanh.default)
    gone = Rule("gone", "linear", lambda site, c: tuple(part * math.nan for part in site.adjoint(c)))
    gradient = fxlrp.rule_set("gradient")
    candidates = {
        "missing": "epsilon",
        "serves nothing": gradient.where(z_plus(), module="features.*"),
        "infinite": gradient | {LINEAR: gone},
        "good": gradient,
    }
    report = tune(model, X, TARGET, candidates=candidates)
    assert report.best == "good"
    reasons = {trial.name: trial.dropped for trial in report.trials}
    assert "aten.tanh.default" in reasons["missing"]
    assert "features.*" in reasons["serves nothing"]
    assert reasons["infinite"] == "relevance is not finite for 6 of 6 samples"
    assert "not finite" in str(report)
    del candidates["good"]
    with pytest.raises(RuleError, match=r"(?s)no candidate can be measured:\n.*missing: .*tanh.*infinite: relevance"):
        tune(model, X, TARGET, candidates=candidates)


def test_a_measure_that_fails_on_a_candidate_drops_it() -> None:
    def judge(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        found = be_close(model, x, relevance, target)
        return torch.where(found < -1e-3, math.nan, found)

    report = tune(MODEL, X, TARGET, metric=judge)
    assert report.metric == "judge"
    assert [trial.dropped for trial in report.trials] == ["", *["the metric is not finite"] * 2]


def test_a_best_that_may_be_chance_is_called_so() -> None:
    sizes = iter([*range(SAMPLES), *range(SAMPLES, 0, -1)])

    def judge(model: Any, x: Tensor, relevance: Tensor, target: Tensor) -> list[int]:
        return [next(sizes) for _ in x]

    unsure = tune(MODEL, X, TARGET, metric=judge, candidates=["gradient", make_even()], first=SAMPLES)
    assert unsure.rivals == ("gradient",)
    assert "not significantly better than gradient" in unsure.verdict
    sure = tune(MODEL, X, TARGET, metric=be_close, first=SAMPLES)
    assert sure.rivals == ()
    assert "beyond chance" in sure.verdict
    assert all(row["high"] < 0 for row in sure.to_rows()[1:])


def make_even() -> fxlrp.RuleSet:
    return fxlrp.rule_set({LINEAR: flat()}).named("even")


def test_reports_are_rows_json_tables_and_pictures(tmp_path: Path) -> None:
    report = tune(MODEL, X, TARGET)
    first, *others = report.to_rows()
    assert list(first) == ["candidate", "samples", "mean", "difference", "low", "high", "seconds", "dropped"]
    assert first["difference"] == first["low"] == first["high"] == 0
    assert all(row["low"] < row["difference"] < row["high"] for row in others)
    assert '"best": "exact"' in report.to_json()
    assert "exact" in str(report)
    assert report.plot(tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_printed_of_rules_makes_them() -> None:
    assert "rules=report.rules" in tune(MODEL, X, TARGET, candidates=[make_even()]).usage()
    assert tune(MODEL, X, TARGET, candidates=["gradient"]).usage() == "fxlrp.compile(model, rules='gradient')"
    mine = fxlrp.tuning.candidates.combine_rules(dense=z_plus())
    usage = tune(MODEL, X, TARGET, candidates=[mine]).usage()
    names: dict[str, Any] = {"fxlrp": fxlrp, "model": MODEL}
    exec(usage.replace("fxlrp.compile", "made = fxlrp.compile"), names)
    assert names["made"].rules == mine


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"x": X[:1]}, SignatureError, r"two samples or more .* not \(1, 6\)"),
        ({"x": [X]}, SignatureError, "two samples or more .* not list"),
        ({"model": torch.export.export(MODEL, (X,))}, SignatureError, "give a module, not ExportedProgram"),
        ({"model": nn.Sequential(make_linear())}, CaptureError, "training mode"),
        ({"model": nn.Sequential(MODEL, nn.Unflatten(1, (3, 1))).eval()}, SignatureError, "choose a part of it by out"),
        ({"baseline": None}, SignatureError, r"give baseline=.*constant\(0\)"),
        ({"x": X.view(SAMPLES, 2, 3), "model": nn.Sequential(nn.Flatten(), MODEL).eval()}, SignatureError, "segments="),
        ({"metric": "insertion"}, SignatureError, "metric='insertion' is none of 'flipping', 'leave_one_out'"),
        (
            {"metric": lambda model, x, r, target: r.sum()},
            SignatureError,
            r"<lambda> returned the shape \(\) for 6 samp",
        ),
        ({"eta": 1}, SignatureError, "eta=1, but it has to be 2 or more"),
        ({"first": 1}, SignatureError, "first=1, but it has to be 2 or more"),
        ({"batch": 0}, SignatureError, "batch=0"),
        ({"target": [0, 1]}, TargetError, "2 targets for a batch of 12 samples"),
        ({"target": 3}, TargetError, "out of range"),
        ({"target": torch.zeros(SAMPLES, CLASSES)}, TargetError, "a seed is no class"),
        ({"target": fxlrp.contrast(0, 1)}, TargetError, "none of"),
        ({"candidates": []}, RuleError, "there are no candidates"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"model": MODEL, "x": X, "target": TARGET, **changes}
    with pytest.raises(error, match=says):
        tune(**given)
