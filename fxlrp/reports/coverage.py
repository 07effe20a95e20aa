"""Which op got which rule."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import fx

from fxlrp.ir.program import MergedNorm
from fxlrp.ir.provenance import source_line
from fxlrp.plan.decide import Plan
from fxlrp.reports.terminal import write_table
from fxlrp.reports.treatments import Treatment, count_treatments

PROMISE_OPS = ("add", "sub", "sum", "mean", "cat", "stack", "unbind", "split")
"""Ops whose operands a backward walk over an autograd graph has to promise, because their nodes do not keep them."""


@dataclass(frozen=True)
class CoverageRow:
    """One kind of op in the model.

    Attributes:
        op: ATen overload.
        kind: Mathematical kind of its rule.
        rule: Name of the rule with its parameters, or ``MISSING``.
        formula: The rule in one line.
        count: How many live nodes.
        source: Source line of the first of them.
    """

    op: str
    kind: str
    rule: str
    formula: str
    count: int
    source: str


@dataclass(frozen=True)
class Coverage:
    """The coverage report of a compiled model.

    Attributes:
        rules: Name of the rule set.
        rows: One row per op and rule, most frequent first.
        nodes: Ops in the canonical graph.
        live: Ops on a path from an input to the explained output.
        covered: How many of them a rule serves.
        promises_eliminated: Live ops that need no promise in coefficient form.
        rewrites: Rewrites of each canonical pass.
        merged: Batch norms that became part of a linear op's weights, by the path of their module.
        apart: Why the others are ops of their own, ``x * s + t``.
        treatments: What becomes of gates, routers, divisors, selective scans and initial states.
        choices: Rules that the rule set chose for a part of the model, and why.
    """

    rules: str
    rows: tuple[CoverageRow, ...]
    nodes: int
    live: int
    covered: int
    promises_eliminated: int
    rewrites: dict[str, int]
    merged: tuple[str, ...] = ()
    apart: dict[str, str] = field(default_factory=dict)
    treatments: tuple[Treatment, ...] = ()
    choices: tuple[str, ...] = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """Return rows as dictionaries, ready for ``pandas.DataFrame``."""
        return [asdict(row) for row in self.rows]

    def to_json(self) -> str:
        """Write the whole report as JSON."""
        return json.dumps(asdict(self), indent=2)

    @property
    def norms(self) -> str:
        """Say what became of batch norms; nothing if there are none."""
        if not self.merged and not self.apart:
            return ""
        lines = [f"\nbatch norms: {len(self.merged)} merged, {len(self.apart)} ops of their own"]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.apart.items())])

    def table(self) -> Table:
        """Return the report as a rich table."""
        share = 100 * self.covered / max(self.live, 1)
        caption = (
            f"{self.covered} of {self.live} live ops covered ({share:.2f} %), {self.nodes} ops in the graph, "
            f"{self.promises_eliminated} promises eliminated{self.norms}"
        )
        caption = "\n".join([caption, *self.choices, *map(str, self.treatments)])
        table = Table(
            title=f"Rule coverage: {self.rules}",
            caption=caption,
            title_justify="left",
            caption_justify="left",
            expand=True,
        )
        table.add_column("op", overflow="fold")
        for name in ("kind", "rule"):
            table.add_column(name, no_wrap=True)
        table.add_column("count", justify="right", no_wrap=True)
        table.add_column("first source line", overflow="ellipsis", no_wrap=True, ratio=1)
        for row in self.rows:
            style = "bold red" if row.rule == "MISSING" else "yellow" if row.kind == "taylor" else None
            source = Text(row.source)  # brackets in it are not markup
            table.add_row(row.op, row.kind, row.rule, str(row.count), source, style=style)
        return table

    def __str__(self) -> str:
        return write_table(self.table())


def report_coverage(plan: Plan, rules: str) -> Coverage:
    """Report on a plan."""
    groups: dict[tuple[str, str, str, str], list[fx.Node]] = defaultdict(list)
    for node, twin in plan.twins.items():
        rule = twin.rule
        known = ("missing", "MISSING", "the plain adjoint")
        kind, name, formula = known if node in plan.missing else (rule.kind, rule.name, rule.formula)
        groups[str(node.target), kind, name, formula].append(node)
    rows = [
        CoverageRow(op, kind, name, formula, len(nodes), source_line(nodes[0]))
        for (op, kind, name, formula), nodes in groups.items()
    ]
    promises = sum(row.count for row in rows if row.op.split(".")[1] in PROMISE_OPS)
    return Coverage(
        rules=rules,
        rows=tuple(sorted(rows, key=lambda row: (row.rule != "MISSING", -row.count, row.op))),
        nodes=sum(node.op == "call_function" for node in plan.captured.graph.nodes),
        live=len(plan.twins),
        covered=len(plan.twins) - len(plan.missing),
        promises_eliminated=promises,
        rewrites=dict(plan.rewrites),
        merged=tuple(dict.fromkeys(norm.name for key in ("merged", "fronted") for norm in collect_norms(plan, key))),
        apart=dict(node.meta["apart"] for node in plan.captured.graph.nodes if "apart" in node.meta),
        treatments=count_treatments(plan),
        choices=tuple(f"{override.rule} ({count}): {override.reason}" for override, count in plan.reasons.items()),
    )


def collect_norms(plan: Plan, key: str) -> list[MergedNorm]:
    """Collect what the nodes say of the norms that were merged into them."""
    return [norm for node in plan.captured.graph.nodes for norm in node.meta.get(key, ())]
