"""The layout of the project: one copy of each module, short modules, and a README that runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import fxlrp
import fxlrp.api

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = ("fxlrp", "passes", "rules")
MODULES = sorted(path for folder in TOP for path in (ROOT / folder).glob("*.py"))
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_build_list_equals_the_folders() -> None:
    build = PROJECT["tool"]["setuptools"]
    packages = {
        "fxlrp" if folder == "fxlrp" else f"fxlrp.{folder}": folder
        for folder in TOP
        if (ROOT / folder / "__init__.py").exists()
    }
    assert sorted(build["packages"]) == sorted(packages)
    assert build["package-dir"] == packages
    nested = [path for folder in TOP for path in (ROOT / folder).rglob("*.py") if not path.is_symlink()]
    real = {path.resolve() for path in nested}
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
    names = {f"fxlrp.{name}"} | {f"fxlrp.{name}.{info.name}" for info in pkgutil.iter_modules([str(ROOT / name)])}
    for module in names:
        assert Path(importlib.import_module(module).__file__).resolve().parent == ROOT / name
    files = {key: getattr(module, "__file__", None) for key, module in sys.modules.items()}
    loaded = {key for key, file in files.items() if file and Path(file).resolve().parent == ROOT / name}
    assert loaded == names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_the_core_is_short() -> None:
    core = (ROOT / "fxlrp" / "propagate.py", ROOT / "fxlrp" / "registry.py")
    assert sum(len(path.read_text().splitlines()) for path in core) < 250


def test_public_names_exist_and_are_documented() -> None:
    for name in fxlrp.__all__:
        value = getattr(fxlrp, name)
        assert value.__doc__, name
    assert sorted(fxlrp.__all__, key=lambda name: (not name.isupper(), name)) == fxlrp.__all__  # constants first


def test_version_is_that_of_the_project() -> None:
    assert fxlrp.__version__ == PROJECT["project"]["version"]


def test_readme_has_examples() -> None:
    assert BLOCKS


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
