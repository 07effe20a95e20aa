"""The table of rules as a page: which op has which rule, and where it was published."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table
from rich.text import Text

from fxlrp import rules
from fxlrp._torch import OpOverload
from fxlrp.ir.rule import RULES, Rule
from fxlrp.rules import weighted
from fxlrp.rules.taylor import REASONS

KIND_ORDER = (
    "linear", "products", "reductions", "pointwise", "norms", "softmax", "attention", "selection", "silent", "taylor",
)  # fmt: skip
"""The order of the page; kinds of other packages follow."""
TAYLOR_REASONS = {op: why for why, ops in REASONS.items() for op in ops}
HEAD = """# Presets and the table of rules

Made by `fxlrp rules --markdown rules/README.md`; a test fails when it is out of date.

`c` is the coefficient of an op's output, relevance divided by value; `J^T c` is the vector-Jacobian product. An op in
this table passes to its operands what its row says; one that is in no row, here or in another package, is an error.
"""


@dataclass(frozen=True)
class RuleRow:
    """What the table says of one op.

    Attributes:
        op: ATen overload.
        kind: Mathematical kind of its rule.
        rule: Name of the rule.
        formula: The rule in one line.
        source: Where it was published, if its docstring says so.
        reason: For kind ``taylor``, why nothing better is known.
    """

    op: str
    kind: str
    rule: str
    formula: str
    source: str
    reason: str


def list_rules(table: Mapping[OpOverload, Rule] = RULES) -> tuple[RuleRow, ...]:
    """List every op of a table of rules, by kind, rule and name."""
    rows = (
        RuleRow(str(op), r.kind, r.name, r.formula, find_published(r.apply.__doc__), TAYLOR_REASONS.get(op, ""))
        for op, r in table.items()
    )
    return tuple(sorted(rows, key=lambda row: (find_position(row.kind), row.kind, row.rule, row.reason, row.op)))


def find_position(kind: str) -> int:
    """Find the place of a kind in the page."""
    return KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER)


def find_published(doc: str | None) -> str:
    """Find what follows ``Source:`` in a docstring, to the end of its paragraph."""
    found = re.search(r"Source: (.*?)(?:\n\s*\n|$)", inspect.cleandoc(doc or ""), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def make_table(rows: Iterable[RuleRow]) -> Table:
    """Lay out the rows for a terminal."""
    table = Table("op", "kind", "rule", "coefficient of the operands", box=None)
    for row in rows:
        table.add_row(Text(row.op), row.kind, row.rule, Text(row.reason or row.formula.replace("``", "")))
    return table


def write_markdown(rows: Iterable[RuleRow]) -> str:
    """Write the rows as a page, a section per kind and a line per rule."""
    parts = [HEAD]
    for kind, members in groupby(rows, lambda row: row.kind):
        module = sys.modules.get(f"{rules.__name__}.{kind}")
        parts.append(f"## {kind}\n\n{escape_cell((module.__doc__ or '').strip()) if module else ''}\n")
        lines = ["| rule | coefficient of the operands | ops | source |", "|---|---|---|---|"]
        for row, same in groupby(members, lambda row: (row.rule, row.formula, row.reason, row.source)):
            name, formula, reason, published = map(escape_cell, row)
            ops = ", ".join(f"`{one.op.removeprefix('aten.')}`" for one in same)
            lines.append(f"| {name} | {formula}{f' *Why: {reason}.*' if reason else ''} | {ops} | {published} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, write_weighted_section(), write_preset_section()])


def write_weighted_section() -> str:
    """Write the section on rules that presets choose with parameters."""
    lines = [f"## weighted\n\n{escape_cell((weighted.__doc__ or '').strip().partition(chr(10))[0])}\n"]
    lines += ["| rule | what it does | source |", "|---|---|---|"]
    for name, maker in inspect.getmembers(weighted, inspect.isfunction):
        if maker.__module__ == weighted.__name__ and inspect.get_annotations(maker).get("return") == "Rule":
            doc = inspect.getdoc(maker) or ""
            given = ", ".join(write_parameter(p) for p in inspect.signature(maker).parameters.values())
            lines.append(
                f"| `{name}({given})` | {escape_cell(doc.partition(chr(10))[0])} | {escape_cell(find_published(doc))} |"
            )
    return "\n".join(lines) + "\n"


def write_parameter(parameter: inspect.Parameter) -> str:
    """Write a parameter with its default, numbers as short as they are exact."""
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={default if isinstance(default, bool) else f'{default:g}'}"


def write_preset_section() -> str:
    """Return the section on rule sets by name."""
    lines = [
        "## presets\n\nRule sets by name: the table above, and what differs from it.\n",
        "| preset | what it is |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {escape_cell(preset.summary)} |" for name, preset in rules.PRESETS.items()]
    return "\n".join(lines) + "\n"


def escape_cell(text: str) -> str:
    """Escape text so that it fits a cell of a Markdown table."""
    return text.replace("``", "`").replace("|", "\\|")
