"""The pages for newcomers: their commands run, their Python is well typed, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from fxlrp.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", ".github/SHIPPING.md", ".github/CONTRIBUTING.md")}
MODULE = "# mypackage/models.py\n"
NOT_RUN = {
    "pip install": "needs a network",
    "pre-commit install": "writes into the repository",
    ".ci/": "runs for minutes, and these tests too",
    "pytest": "is what runs this",
    "ruff": "is a check of its own",
    "fxlrp demo": "trains for a minute: tests/demos and .ci/run",
    "fxlrp serve": "does not end: tests/serving",
    "curl": "needs the service: tests/serving",
    "fxlrp batch": "needs Ray, for minutes: tests/datasets",
    "fxlrp --install-completion": "changes the shell of whoever runs the tests",
    "fxlrp export mypackage.models:build --out native.pt2": "compiles C++ for minutes: tests/artifacts",
    "cmake": "compiles C++: tests/artifacts",
    "build/explain": "needs the compiled consumer: tests/artifacts",
    "fxlrp explain hf:./folder": "needs a model of transformers: tests/cli",
    "fxlrp new-rule aten.foo.default": "stands for an op of the reader's",
    "fxlrp rules --markdown": "rewrites a page: tests/rules",
}
"""Commands by how they begin, and why they are not run here; all others are."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page, text in PAGES.items():
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield page, block


COMMANDS = [
    (page, re.sub(r"\s{2,}#.*", "", line).strip())
    for page, block in blocks("sh")
    for line in block.splitlines()
    if line
]


def reason(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


RUN = [command for page, command in COMMANDS if not reason(command)]


def test_every_reason_is_that_of_a_command() -> None:
    assert [start for start in NOT_RUN if not any(command.startswith(start) for _, command in COMMANDS)] == []


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if pair[1].startswith("fxlrp ")])
def test_commands_have_the_options_that_pages_give(page: str, command: str) -> None:
    group: Any = get_command(app)
    name, *words = shlex.split(command)[1:]
    if name.startswith("-"):
        assert name in {option for parameter in group.params for option in parameter.opts}
        return
    options = {option for parameter in group.commands[name].params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given <= options, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    text = PAGES[page]
    links = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    anchors = {
        re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-")
        for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert [path for path, _, _ in links if path and not (ROOT / page).parent.joinpath(path).exists()] == []
    assert [anchor for path, _, anchor in links if anchor and not path and anchor not in anchors] == []
    named = re.findall(r"`((?:fxlrp|passes|rules|tests|benchmarks|\.ci|\.github)/[\w./-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = re.findall(r"`(fxlrp(?:\.[a-z_]+){2,})`", text)
    paths = [Path(*module.split(".")) for module in modules]
    assert [path for path in paths if not ((ROOT / path).is_dir() or (ROOT / path).with_suffix(".py").exists())] == []


def test_issues_are_asked_for_what_shows_them() -> None:
    forms = {
        path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[1-4]*")
    }
    assert len(forms) == 4
    asked = {name: {field["id"] for field in form["body"]} for name, form in forms.items()}
    assert all({"model", "verify", "versions"} <= fields for name, fields in asked.items() if "feature" not in name)


@pytest.mark.slow
def test_python_is_well_typed(tmp_path: Path) -> None:
    """All blocks as one file, under the project's settings except that functions need no annotations."""
    parts = [block for _, block in blocks("python") if not block.startswith(MODULE)]
    (tmp_path / "pages.py").write_text("\n\n".join(parts))
    (tmp_path / "models.py").write_text(next(block for _, block in blocks("python") if block.startswith(MODULE)))
    lax = ["--allow-untyped-defs", "--allow-untyped-calls", "--allow-untyped-decorators", "--allow-incomplete-defs"]
    lax += ["--no-warn-unused-ignores"]  # of fxlrp, where these allow what is ignored there
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *config, *lax, str(tmp_path / "pages.py"), str(tmp_path / "models.py")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    """One after the other in an empty folder, as a reader would type them."""
    programs, package = tmp_path / "bin", tmp_path / "mypackage"
    programs.mkdir()
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(next(block for _, block in blocks("python") if block.startswith(MODULE)))
    for name, call in {"fxlrp": '-c "from fxlrp.cli.app import main; main()"', "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (programs / name).chmod(0o755)
    search = f"{programs}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": search, "PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    failed = {}
    for command in RUN:
        found = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        if found.returncode:
            failed[command] = found.stdout + found.stderr
    assert failed == {}
