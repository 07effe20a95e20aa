"""The benchmarks, on small models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import fxlrp
from fxlrp.datasets.ray_workers import silence_stderr

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="benchmark")
def _benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``benchmarks/coverage.py`` as a module, under a name that no package has."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = spec_from_file_location("coverage_benchmark", FOLDER / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Small(nn.Module):
    """A sum of two branches, one of which ends in ``last``."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.last = last
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.inner(x).relu(), self.last(x)], 1)
        return self.head(x + 1.0)


@torch.library.custom_op("benchmarks::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    """An op without a rule."""
    return x.sin()


@unknown.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return unknown(x)


class Gated(nn.Module):
    """A gate, which a product holds fixed."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def small(benchmark: ModuleType, last: nn.Module | None = None, paper: str = "") -> object:
    inputs = torch.zeros(1, 4, device="meta")
    build = lambda: (Small(last or nn.Tanh()), (inputs,), {})  # noqa: E731
    return benchmark.Architecture("small", "dense", build, paper)


def test_counts_of_a_model_that_is_covered(benchmark: ModuleType) -> None:
    m = benchmark.measure(small(benchmark), fxlrp.rule_set("attnlrp"), emit=True)
    assert Counter(m.kinds) == {"linear": 4, "pointwise": 2}
    assert (m.nodes, m.live, m.covered, m.unique_ops) == (6, 6, 6, 5)
    assert (m.promises, m.density) == (2, round(2 / 6, 4))
    assert m.parameters == 4 * 5 + 2 * 9
    assert m.strict
    assert m.missing == []
    assert m.program_nodes > m.nodes


def test_what_a_rule_holds_fixed_is_counted_apart(benchmark: ModuleType) -> None:
    m = benchmark.measure(small(benchmark, Gated()), fxlrp.rule_set("attnlrp"))
    assert (m.live, m.held, m.held_covered) == (6, 1, 1)
    m = benchmark.measure(small(benchmark, Gated()), fxlrp.rule_set("gradient"))
    assert (m.live, m.held) == (7, 0)


def test_an_op_without_a_rule_is_named(benchmark: ModuleType) -> None:
    m = benchmark.measure(small(benchmark, Unknown()), fxlrp.rule_set("attnlrp"))
    assert not m.strict
    (missing,) = m.missing
    assert missing[:2] == ("benchmarks.unknown.default", 1)
    assert m.covered == m.live - 1


def test_report_is_json_with_versions_and_totals(benchmark: ModuleType) -> None:
    rules = fxlrp.rule_set("attnlrp")
    found = [benchmark.measure(small(benchmark, paper=paper), rules) for paper in ("GPT-2", "")]
    report = json.loads(json.dumps(benchmark.summary(found, {}, "attnlrp")))
    assert report["totals"]["all"]["live"] == 12
    assert report["totals"]["of the paper"] == report["totals"]["others"] | {
        "seconds": report["totals"]["of the paper"]["seconds"]
    }
    assert report["versions"]["torch"] == torch.__version__
    assert len(report["models"]) == 2


def test_table_shows_every_model(benchmark: ModuleType) -> None:
    m = benchmark.measure(small(benchmark, paper="GPT-2"), fxlrp.rule_set("attnlrp"))
    console = Console(record=True, width=200)
    console.print(benchmark.table([m]))
    shown = console.export_text()
    assert "small" in shown
    assert "885/885" in shown


def test_every_model_of_the_paper_is_there(benchmark: ModuleType) -> None:
    assert sorted(a.paper for a in benchmark.ARCHITECTURES.values() if a.paper) == sorted(benchmark.PAPER)
    assert len(benchmark.ARCHITECTURES) >= len(benchmark.PAPER) + 25


def test_rows_of_an_earlier_run_are_kept_for_the_same_versions(benchmark: ModuleType, tmp_path: Path) -> None:
    m = replace(benchmark.measure(small(benchmark), fxlrp.rule_set("attnlrp")), name="google/flan-t5-large")
    report = benchmark.summary([m], {}, "attnlrp")
    path = tmp_path / "coverage.json"
    assert benchmark.earlier(path, "attnlrp") == {}
    path.write_text(json.dumps(report))
    assert benchmark.earlier(path, "attnlrp") == {m.name: m}
    assert benchmark.earlier(path, "epsilon") == {}
    path.write_text(json.dumps(report | {"versions": report["versions"] | {"torch": "2.0"}}))
    assert benchmark.earlier(path, "attnlrp") == {}


@pytest.fixture(name="script")
def _script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a script of the benchmarks on tiny models and return what it wrote."""
    monkeypatch.syspath_prepend(FOLDER)

    def run(name: str, *options: str) -> dict[str, Any]:
        out = tmp_path / f"{name}.json"
        threads = str(torch.get_num_threads())
        found = import_module(name).main(
            [*options, "--tiny", "--repeats", "2", "--threads", threads, "--out", str(out)]
        )
        assert found == 0
        assert out.with_suffix(".svg").exists()
        report: dict[str, Any] = json.loads(out.read_text())
        assert report["versions"]["torch"] == torch.__version__
        return report

    return run


def test_speed_compares_with_autograd(script: Callable[..., dict[str, Any]]) -> None:
    report = script("speed", "--models", "vgg16", "llama", "--backends", "eager", "--targets", "3", "--chunk", "2")
    methods = {r["method"] for r in report["rows"] if r["kind"] == "one target"}
    assert {"forward", "gradient x input", "epsilon_gamma_box, eager", "attnlrp, eager"} <= methods
    assert "attnlrp, eager, bfloat16" in methods
    assert 0 < report["errors of bfloat16"]["llama, attnlrp"] < 0.05
    assert {r["kind"] for r in report["rows"] if r["model"] == "llama"} == {"one target", "many targets"}
    assert all(r["seconds"]["count"] == 2 for r in report["rows"])


def test_conditions_are_those_of_calls_apart(script: Callable[..., dict[str, Any]]) -> None:
    report = script("conditions", "--models", "vgg16", "--channels", "3", "--chunks", "2", "--rules", "epsilon")
    assert [r["method"] for r in report["rows"]] == ["3 calls", "one call, 2 at a time"]
    assert report["differences"]["vgg16, epsilon"] < 1e-6


def measure_faithfulness(task: str, methods: list[str], folder: Path) -> tuple[str, dict[str, Any], str]:
    """Run the benchmark on one task; return what it prints, its account and its plot."""
    out, plot, script = folder / "results.json", folder / "plot.svg", FOLDER / "faithfulness" / "run.py"
    command = [sys.executable, str(script), "--tasks", task, "--out", str(out), "--methods", *methods]
    done = subprocess.run([*command, "--plot", str(plot)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())[task], plot.read_text()


@pytest.mark.parametrize(
    ("task", "methods"),
    [
        ("smoke_tokens", ["auto", "random", "attention rollout", "integrated gradients", "Shapley sampling"]),
        ("smoke_sanity", ["auto", "gradient"]),
        ("smoke_volumes", ["auto", "zennit epsilon_plus", "GradCAM", "occlusion", "SmoothGrad"]),
    ],
)
def test_faithfulness_of_every_method_is_measured(
    tmp_path: Path, task: str, methods: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "weights"))
    printed, kept, drawn = measure_faithfulness(task, methods, tmp_path)
    assert set(kept) == set(methods)
    assert all(len(found["scores"]) == 3 for found in kept.values())
    assert all(method in printed and method in drawn for method in methods)


def test_faithfulness_goes_on_where_it_was(tmp_path: Path) -> None:
    methods = ["attnlrp", "zennit epsilon_plus", "GradCAM", "random"]
    _, first, _ = measure_faithfulness("smoke", methods[:2], tmp_path)
    printed, kept, drawn = measure_faithfulness("smoke", methods, tmp_path)
    assert list(kept) == methods
    assert {method: kept[method] for method in first} == first  # to the second: they were not measured again
    assert all(method in printed and method in drawn for method in methods)


def test_contributions_to_networks_set_by_hand_are_found(tmp_path: Path) -> None:
    out, names = tmp_path / "results.json", ("sum", "difference", "redundant", "surroundings", "unseen")
    command = [sys.executable, str(FOLDER / "faithfulness" / "run.py"), "--out", str(out), "--methods", "attnlrp"]
    command += ["--tasks", *(f"hand_set_{name}" for name in names)]
    subprocess.run(command, check=True, capture_output=True)
    found = [task["attnlrp"] for task in json.loads(out.read_text()).values()]
    assert len(found) == len(names)
    assert min(min(f["scores"] + f["mass"] + f["rank"]) for f in found) > 0.999


def test_peers_agree_where_the_method_is_the_same(script: Callable[..., dict[str, Any]]) -> None:
    (first, *_) = rows = script(
        "peers", "--here", "--methods", "zennit", "captum", "--models", "vgg16", "--backends", "eager"
    )["rows"]
    assert [r["agrees"] for r in rows] == [True, True, True, None]
    assert first["versions"]["zennit"] == version("zennit")
    assert {"forward", "gradient_x_input", "zennit", "fxlrp"} == set(first["seconds"])


def test_memory_is_measured_in_a_process_of_its_own(script: Callable[..., dict[str, Any]]) -> None:
    base, ours = script("memory", "--models", "resnet50", "--methods", "gradient_x_input", "epsilon:eager")["rows"]
    assert base["kept"] == 0
    assert ours["kept"] > 0  # weights with batch norm folded
    assert min(base["allocated"], ours["allocated"]) > 0


def test_compile_time_compares_with_export(script: Callable[..., dict[str, Any]]) -> None:
    (row,) = script("compile_time", "--methods", "capture", "--models", "bert")["capture"]
    assert set(row["ratios"]) == {"export, our decompositions", "export, core ATen", "fxlrp.compile"}
    assert row["nodes"] > 0


def test_scaling_fits_exponents(script: Callable[..., dict[str, Any]]) -> None:
    sizes = ("--layers", "1", "2", "--tokens", "8", "16", "--batch", "--targets", "--width", "32")
    report = script("scaling", *sizes)
    assert len(report["points"]) == 8
    assert {f["of"] for f in report["exponents"]} == {
        "time",
        "memory",
        "compilation",
        "time by ops",
        "compilation by ops",
    }


def test_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    measure = import_module("measure")
    assert measure.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert measure.ratio([2.0, 6.0, 8.0], [1.0, 2.0, 2.0]) == measure.Spread(3.0, 2.5, 3.5, 2.0, 3)
    turns = iter(range(6))
    taken = measure.alternate({"a": lambda: float(next(turns)), "b": lambda: float(next(turns))}, repeats=2)
    assert taken == {"a": [2.0, 4.0], "b": [3.0, 5.0]}
    x = torch.ones(1000)
    with silence_stderr():
        assert measure.peak_bytes(lambda: (x + 1).exp().sin_()) == 2 * x.nbytes
        assert measure.peak_bytes(lambda: x.exp_()) == 0


def test_the_service_is_measured_beside_its_artefact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    spec = spec_from_file_location("serve_benchmark", FOLDER / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    few = ["--models", "digits", "--clients", "2", "--requests", "4", "--repeats", "1"]
    assert module.main([*few, "--out", str(tmp_path / "serve.json")]) == 0
    rows = json.loads((tmp_path / "serve.json").read_text())["rows"]
    assert len(rows) == 2 + 2 * 2
    assert all(rate > 0 for row in rows for rate in row["rates"])


def test_the_service_is_attacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether it is quick enough is for a quiet machine to say; that no answer is wrong or lost is said here."""
    monkeypatch.syspath_prepend(FOLDER)
    attack = import_module("attack")
    few = ["--seconds", "0.5", "--requests", "30", "--repeats", "1", "--drain", "0.5"]
    attack.main([*few, "--attacks", "deep nesting", "slow bodies x 200", "--out", str(tmp_path / "attack.json")])
    report = json.loads((tmp_path / "attack.json").read_text())
    assert [row["beside"]["wrong"] for row in report["attacks"]] == [0, 0]
    assert all(sum(row["seen"].values()) > 0 for row in report["attacks"])
    assert report["ends"]["ok"]
    assert report["triton"]["ok"]


@pytest.fixture(name="geometries")
def _geometries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("geometries")


def test_random_geometries_are_right(geometries: ModuleType) -> None:
    """A sample of the sweep, in this process."""
    for kind, indices in (("convolutions", range(100, 115)), ("products", range(75, 81))):
        verdicts = geometries.judge(geometries.Task(7, kind, tuple(indices), ("eager", "packed")))
        assert len(verdicts) == 8 * len(indices)
        assert [verdict for verdict in verdicts if not verdict.right] == []


def test_a_wrong_number_is_found(geometries: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = geometries.run

    def off(*args: Any) -> list[Tensor]:
        output, *relevances = compared(*args)
        relevances[1] = relevances[1] * 1.001
        return [output, *relevances]

    monkeypatch.setattr(geometries, "run", off)
    found = geometries.judge(geometries.Task(7, "products", (0, 1, 2), ("eager",)))
    assert {(v.name, v.what, v.dtype) for v in found if not v.right} == {("products/1", "relevance", "float32")}


def test_crashes_hangs_and_errors_are_traced_to_a_case(
    geometries: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(geometries, "SECONDS", {"eager": 2})

    def judge(task: Any) -> list[Any]:
        if 3 in task.indices:
            os.kill(os.getpid(), signal.SIGSEGV)
        if 9 in task.indices:
            time.sleep(60)
        if 12 in task.indices:
            raise ValueError("no convolution")
        results = [("output", 1.0 if index == 5 else 0.1) for index in task.indices]
        names = [f"{task.kind}/{index}" for index in task.indices]
        return [
            geometries.Verdict(name, "float32", "eager", what, error, 0.5)
            for name, (what, error) in zip(names, results, strict=True)
        ]

    path = tmp_path / "account.json"
    account = geometries.Account(path, 0)
    tasks = geometries.packs(geometries.Task(0, "products", (), ("eager",)), 16)
    import_module("forked").sweep(tasks, 2, judge, account.add)
    found = json.loads(path.read_text())
    failures = {f["name"]: f.get("reason", f.get("error")) for f in found["failures"]}
    expected = {3: "SIGSEGV", 5: 1.0, 9: "hangs", 12: "ValueError: no convolution"}
    assert failures == {f"products/{index}": reason for index, reason in expected.items()}
    assert found["cases"] == {"products, float32, eager": 13}
    assert len(found["judged"]) == 16
    assert geometries.Account(path, 0).judged == set(found["judged"])
    assert geometries.Account(path, 1).judged == set()
