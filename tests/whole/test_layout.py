"""The layout of the project: one copy of each module, short modules, and a README that runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from journey import count_entries
from torch import nn

import fxlrp
import fxlrp.api


def linked(folder: Path) -> bool:
    """Whether a folder is reached through one of the links."""
    return folder.resolve() != folder


ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = ("fxlrp", "passes", "rules")
FOLDERS = sorted(
    path.parent for folder in TOP for path in (ROOT / folder).rglob("__init__.py") if not linked(path.parent)
)
MODULES = sorted(path for folder in FOLDERS for path in folder.glob("*.py"))
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_build_list_equals_the_folders() -> None:
    build = PROJECT["tool"]["setuptools"]
    names = [".".join(folder.relative_to(ROOT).parts) for folder in FOLDERS]
    assert sorted(build["packages"]) == sorted(n if n.startswith("fxlrp") else f"fxlrp.{n}" for n in names)
    assert build["package-dir"] == {"fxlrp": "fxlrp", "fxlrp.passes": "passes", "fxlrp.rules": "rules"}
    real = {path.resolve() for folder in TOP for path in (ROOT / folder).rglob("*.py")}
    assert real == {path.resolve() for path in MODULES}


@pytest.mark.parametrize("name", ["passes", "rules"])
def test_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "fxlrp" / name
    assert link.is_symlink()
    assert not Path(link.readlink()).is_absolute()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["passes", "rules"])
def test_packages_are_one_copy(name: str) -> None:
    """A second copy of a module would register its contents twice."""
    package = importlib.import_module(f"fxlrp.{name}")
    names = {info.name for info in pkgutil.walk_packages(package.__path__, f"fxlrp.{name}.")} | {package.__name__}
    for module in names:
        assert ROOT / name in Path(importlib.import_module(module).__file__).resolve().parents
    files = {key: getattr(module, "__file__", None) for key, module in sys.modules.items()}
    loaded = {key for key, file in files.items() if file and ROOT / name in Path(file).resolve().parents}
    assert loaded == names


def test_helpers_of_tests_hide_no_package_of_the_benchmarks() -> None:
    """Both folders are searched for modules when benchmarks are tested."""
    packages = {path.name for path in (ROOT / "benchmarks").iterdir() if (path / "__init__.py").exists()}
    assert packages.isdisjoint(path.stem for path in (ROOT / "tests" / "support").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py" or folder.name == "fxlrp"]
    assert len(modules) <= (8 if folder.name == "fxlrp" else 15)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_say_what_they_take_and_return(folder: Path) -> None:
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert doc
    assert folder.name == "fxlrp" or (re.search(r"[Tt]akes? ", doc) and re.search(r"[Rr]eturns? ", doc))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_parts_of_torch_are_in_one_module(path: Path) -> None:
    pattern = r"\btorch(?!\.ops)(?:\.\w+)*\._[a-z]\w*|^from torch[\w.]* import _\w+"
    private = re.findall(pattern, path.read_text(), re.MULTILINE)
    assert path.name == "_torch.py" or not private


def test_the_core_is_short() -> None:
    core = (ROOT / "fxlrp" / "emit" / "walk.py", ROOT / "fxlrp" / "ir" / "rule.py")
    assert sum(len(path.read_text().splitlines()) for path in core) < 250


def test_a_call_goes_straight_through_the_rooms() -> None:
    """The first one goes down the pipeline; later ones find everything in the session, and run it.

    Each room is entered twice at most, but for passes, as each decision of the plan asks an analysis.
    """
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 1, 4, 4)
    made: list[fxlrp.Attributor] = []

    entries = count_entries(lambda: made.append(fxlrp.compile(model)))
    assert entries == {"api": 1, "attributor": 1, "session": 2, "backends": 1}
    entries = count_entries(lambda: made[0](x, target=1))
    assert entries.keys() == {"attributor", "session", "capture", "plan", "passes", "emit", "backends"}
    assert all(count <= 2 for room, count in entries.items() if room != "passes")
    once = dict.fromkeys(("attributor", "session", "capture", "backends"), 1)
    assert count_entries(lambda: made[0](x, target=1)) == once
    made[0](x, targets=[0, 1])
    assert count_entries(lambda: made[0](x, targets=[0, 1])) == {**once, "backends": 2}  # the halves of its program


def test_import_brings_no_compiler_of_torch() -> None:
    """`fxlrp.compile` may be looked at without dynamo and Inductor, which take longer to import than torch."""
    slow = "torch._dynamo", "torch._inductor"
    code = f"import sys, fxlrp; fxlrp.compile; print(*(name for name in sys.modules if name.startswith({slow})))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_public_names_have_one_home() -> None:
    names = [name for names in fxlrp.HOMES.values() for name in names]
    assert len(set(names)) == len(names)
    errors = {name for name, value in vars(fxlrp.errors).items() if isinstance(value, type)}
    assert set(fxlrp.__all__) == {*names, "rules", "vision", *(errors & set(fxlrp.__all__))}


def test_public_names_exist_and_are_documented() -> None:
    for name in fxlrp.__all__:
        value = getattr(fxlrp, name)
        assert value.__doc__, name
    assert sorted(fxlrp.__all__, key=lambda name: (not name.isupper(), name)) == fxlrp.__all__  # constants first


def test_version_is_that_of_the_project() -> None:
    assert fxlrp.__version__ == PROJECT["project"]["version"]


def test_readme_has_examples() -> None:
    assert BLOCKS


@pytest.mark.slow
def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(BLOCKS):
        if ">>>" in block:
            example = doctest.DocTestParser().get_doctest(block, names, f"block {number}", "README.md", 0)
            assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False).failed == 0
        else:
            exec(compile(block, f"README.md, block {number}", "exec"), names)


def test_docstring_examples_run() -> None:
    outcome = doctest.testmod(fxlrp.api)
    assert outcome.attempted > 0
    assert outcome.failed == 0
