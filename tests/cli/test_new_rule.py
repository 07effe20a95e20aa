"""The command that begins a rule: what it says of ops, and that what it writes passes the tests of rules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fxlrp
from fxlrp.cli.app import app
from fxlrp.cli.op_samples import Traits, draw_sample, find_op, measure
from fxlrp.ir.rule import RULES

ROOT = Path(__file__).resolve().parents[2]


@torch.library.custom_op("newrule::swish", mutates_args=())
def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


@torch.library.custom_op("newrule::raised", mutates_args=())
def raised(x: torch.Tensor, y: torch.Tensor, label: str) -> torch.Tensor:
    return x**2 * y


swish.register_fake(torch.empty_like)


def run(*args: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["new-rule", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output


def measured(name: str) -> Traits:
    sample = draw_sample(find_op(name))
    assert sample is not None
    return measure(sample)


@pytest.mark.parametrize(
    ("op", "kind", "keeps"),
    [
        ("aten.deg2rad.default", "linear", 1.0),
        ("aten.linalg_cross.default", "products", 1.0),
        ("aten.special_bessel_j1.default", "pointwise", 1.0),
        ("aten.special_entr.default", "taylor", None),
        ("aten.sinc.default", "taylor", None),
        ("aten.relu.default", "pointwise", 1.0),
        ("aten.mul.Tensor", "products", 1.0),
        ("aten.matmul.default", "products", 1.0),
        ("aten.cat.default", "linear", 1.0),
        ("aten.floor.default", "silent", 0.0),
        ("aten.rsqrt.default", "taylor", -0.5),
        ("aten.log.default", "taylor", None),
        ("newrule::swish", "pointwise", 1.0),
    ],
)
def test_suggests_a_kind(op: str, kind: str, keeps: float | None) -> None:
    found = measured(op)
    assert (found.kind, found.keeps) == (kind, keeps)


def test_tells_traits_of_samples() -> None:
    assert measured("aten.sin.default").slope == pytest.approx(1, abs=1e-8)
    assert measured("aten.sin.default").batch
    assert not measured("aten.sum.default").batch
    assert not measured("aten.rsqrt.default").zero


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("aten.nothing.default", "there is no op 'aten.nothing.default'"),
        ("newrule::nothing", "there is no op 'newrule::nothing'"),
        ("swish", "there is no op 'swish'"),
        ("aten.add", "a packet of overloads; a rule is for one of them: aten.add.Tensor, aten.add.Scalar"),
        ("aten::sinc.Tensor", "aten.sinc has no overload 'Tensor'; it has default, out"),
        ("aten.relu.default", "aten.relu.default has a rule already: fxlrp.rules.pointwise.relu"),
    ],
)
def test_refuses_in_one_line(op: str, text: str) -> None:
    said = run(op, code=2)
    assert text in said
    assert said.count("\n") == 1


def test_refuses_modules_and_folders_that_are_not_there(tmp_path: Path) -> None:
    assert "nowhere could not be imported: ModuleNotFoundError" in run("nowhere::op", "--module", "nowhere", code=2)
    assert "give the root of fxlrp's sources" in run("aten.sinc.default", "--write", "--folder", tmp_path, code=2)
    (tmp_path / "mine.py").write_text("import torch\n")
    said = run("newrule::swish", "--file", "mine.py", "--write", "--folder", tmp_path, code=2)
    assert "mine.py does not import fxlrp, which the rule needs" in said


def test_prints_where_each_part_goes() -> None:
    said = run("aten.special_bessel_j1.default")
    for text in (
        "aten::special_bessel_j1(Tensor self) -> Tensor",
        "Kind: pointwise (entry by entry, f(0) = 0).",
        "# rules/pointwise.py, at the end",
        "# tests/support/cases.py, in POINTWISE",
        "# tests/support/reference.py, at the end",
    ):
        assert text in said


def test_says_so_where_nothing_can_be_measured() -> None:
    said = run("newrule::raised")
    assert "Tensors: x, y; other arguments: label." in said
    assert "Kind: unknown (no arguments could be made up" in said
    assert "raise NotImplementedError" in said


def test_the_file_may_be_another_module_of_the_rules() -> None:
    said = run("aten.special_bessel_j1.default", "--file", "rules/reductions.py")
    assert "# rules/reductions.py, at the end\n\n@rule(aten.special_bessel_j1.default)\n" in said
    assert "# tests/support/cases.py, in SCATTERED" in said
    said = run("aten._weight_norm_interface.default", "--write", code=2)
    assert "nothing could be measured of aten._weight_norm_interface.default: name the file" in said


def test_a_module_of_ones_own_is_imported_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_here.py").write_text(
        "import torch\n@torch.library.custom_op('madehere::twice', mutates_args=())\n"
        "def twice(x: torch.Tensor) -> torch.Tensor:\n    return 2 * x\n"
    )
    said = run("madehere::twice", "--module", "made_here")
    assert "the op has no derivative" in said or "Kind: pointwise" in said
    assert "# madehere_rules.py, at the end" in said


def test_a_rule_of_an_op_of_ones_own_serves_at_once(tmp_path: Path) -> None:
    """A file that is not there is made; the rule in it needs nothing filled in."""
    run("newrule::swish", "--file", "mine.py", "--write", "--folder", tmp_path)
    source = (tmp_path / "mine.py").read_text()
    check_style(tmp_path / "mine.py")
    exec(compile(source, "mine.py", "exec"), {"__name__": "mine"})
    try:

        class Model(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.ops.newrule.swish(x)

        x = torch.tensor([[-2.0, 0.0, 3.0]])
        result = fxlrp.compile(Model().eval())(x, target=2)
        torch.testing.assert_close(result.relevance, torch.nn.functional.silu(x) * torch.tensor([0.0, 0.0, 1.0]))
    finally:
        del RULES[torch.ops.newrule.swish.default]


def check_style(*paths: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    config = next(path for path in (paths[0].parents[1] / "pyproject.toml", ROOT / "pyproject.toml") if path.exists())
    settings = ["--config", str(config), *map(str, paths)]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        found = subprocess.run([*ruff, *command, *settings], cwd=config.parent, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr


OPS = {
    "aten.deg2rad.default": None,
    "aten.linalg_cross.default": None,
    "aten.sinc.default": None,
    "aten.special_bessel_j1.default": "return sum((-1) ** k * (x / 2) ** (2 * k + 1) / math.factorial(k) / "
    "math.factorial(k + 1) for k in range(30))",
}
"""Ops without a rule, with the formula that the stub of the reference asks for."""


@pytest.mark.slow
def test_what_is_written_passes_the_tests_of_rules(tmp_path: Path) -> None:
    """In a copy of the project, once the formula is filled in."""
    for name in ("fxlrp", "passes", "rules", "tests/support", "tests/rules"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    for name in ("tests/conftest.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for op, formula in OPS.items():
        run(op, "--write", "--folder", tmp_path)
        if formula is not None:
            path = tmp_path / "tests" / "support" / "reference.py"
            stub = 'raise NotImplementedError("f(x), by Python\'s math alone")'
            assert stub in path.read_text()
            path.write_text(path.read_text().replace(stub, formula))
    written = (
        "rules/linear.py",
        "rules/products.py",
        "rules/pointwise.py",
        "rules/taylor.py",
        "tests/support/cases.py",
    )
    check_style(*(tmp_path / name for name in written))
    for op in OPS:
        assert "has a rule already" in run_in(tmp_path, "fxlrp.cli.app", "new-rule", op, code=2)
    run_in(tmp_path, "fxlrp.cli.app", "rules", "--markdown", "rules/README.md")
    chosen = " or ".join(op.split(".")[1] for op in OPS)
    every = "test_every_op or up_to_date or every_taylor or names_of_their_own or kinds_follow"
    files = ["tests/rules/test_rules.py", "tests/rules/test_catalogue.py"]
    said = run_in(tmp_path, "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", f"{chosen} or {every}", *files)
    assert "failed" not in said


def run_in(folder: Path, module: str, *args: str, code: int = 0) -> str:
    """What a module says that runs as a program in a copy of the project."""
    call = ["-c", "from fxlrp.cli.app import main; main()"] if module == "fxlrp.cli.app" else ["-m", module]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *call, *args]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert found.returncode == code, found.stdout + found.stderr
    return found.stdout + found.stderr
