"""The page of rules, and the command that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from fxlrp._torch import CHOLESKY
from fxlrp.cli.app import app
from fxlrp.ir.rule import RULES, Rule, Site, Table
from fxlrp.reports.rule_catalogue import KIND_ORDER, find_published, list_rules, write_markdown
from fxlrp.rules.taylor import REASONS

PAGE = Path(__file__).resolve().parents[2] / "rules" / "README.md"
OWN: Table = {op: rule for op, rule in RULES.items() if rule.apply.__module__.startswith("fxlrp.rules.")}
"""The table without what other packages register."""


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text() if CHOLESKY else PAGE.read_text().replace("`cholesky.default`, ", "")
    assert page == write_markdown(list_rules(OWN)), "run: fxlrp rules --markdown rules/README.md"


def test_every_op_has_a_row() -> None:
    rows = list_rules(OWN)
    assert {row.op for row in rows} == {str(op) for op in OWN}
    assert len(rows) == len(OWN)
    assert {row.kind for row in rows} == set(KIND_ORDER)


def test_kinds_follow_each_other_in_order() -> None:
    places = [KIND_ORDER.index(row.kind) for row in list_rules(OWN)]
    assert places == sorted(places)


def test_every_taylor_op_says_why_nothing_better_is_known() -> None:
    taylor = {row.op: row.reason for row in list_rules(OWN) if row.kind == "taylor"}
    assert set(taylor) == {str(op) for ops in REASONS.values() for op in ops}
    assert all(len(reason) > 20 for reason in taylor.values())
    assert sum(map(len, REASONS.values())) == len(taylor)


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (None, ""),
        ("``c_x = c``.", ""),
        ("``c_x = c``.\n\n    Source: Bach et al. 2015, eq. 58.\n    ", "Bach et al. 2015, eq. 58."),
        ("First.\n\n    Source: one\n    two.\n\n    More.", "one two."),
    ],
)
def test_sources_come_from_docstrings(doc: str | None, expected: str) -> None:
    assert find_published(doc) == expected


def test_rules_of_other_packages_come_last() -> None:
    def third(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c | x``, escaped in a table.

        Source: nobody, 2026.
        """
        return (c,)

    made = Rule("third", "mine", third)
    rows = list_rules({torch.ops.aten.special_bessel_j1.default: made} | OWN)
    assert (rows[-1].op, rows[-1].kind, rows[-1].source) == ("aten.special_bessel_j1.default", "mine", "nobody, 2026.")
    page = write_markdown(rows[-1:])
    assert "| third | `c_x = c \\| x`, escaped in a table. | `special_bessel_j1.default` | nobody, 2026. |" in page


def test_the_command_prints_the_table() -> None:
    result = CliRunner().invoke(app, ["rules"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for op, rule in OWN.items():
        assert any(line.split()[:3] == [str(op), rule.kind, rule.name] for line in lines), op


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rules", "--markdown", str(tmp_path / "page.md")])
    assert result.exit_code == 0
    assert "Wrote" in result.stdout
    assert (tmp_path / "page.md").read_text() == write_markdown(list_rules(RULES))
    assert all(name in (tmp_path / "page.md").read_text() for name in ("## linear", "## taylor", "gamma(g=0.25"))


def test_the_command_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rules", "--markdown", str(tmp_path / "nowhere" / "page.md")])
    assert result.exit_code == 2
