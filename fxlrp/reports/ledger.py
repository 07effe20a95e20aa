"""The account of relevance: what came in at every node, what went on, and where the rest stayed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.table import Table

from fxlrp.reports.terminal import write_table
from fxlrp.session.doubts import MAX_ABSORBED

T = TypeVar("T")
MAX_AMPLIFICATION = 1e3
"""Relevance at a node beyond this multiple of the explained value is worth a warning."""
MAX_FIRST_TOKEN = 0.5
"""So is this share of all token relevance on the first token."""


@dataclass(frozen=True)
class LedgerEntry:
    """The account of one node, summed over the batch.

    Attributes:
        node: Name in the graph.
        op: ATen overload.
        rule: Name of its rule.
        module: Path of the module that it runs in.
        source: Source line.
        received: Relevance at its output.
        passed: Relevance that it gave to its operands.
        absorbed: What its constants (biases, tokens, tables) and positions keep if the rule has no stabiliser.
        leaked: What its rule does not pass on without constants to keep it.
        stabiliser: What the operands lose to the stabiliser of the rule.
        absorbers: Names of the constants.
        magnitude: Sum of absolute relevance at its output.
    """

    node: str
    op: str
    rule: str
    module: str
    source: str
    received: float
    passed: float
    absorbed: float
    leaked: float
    stabiliser: float
    absorbers: tuple[str, ...]
    magnitude: float


@dataclass(frozen=True)
class Ledger:
    """Where the explained value went: ``explained = inputs + absorbed + leaked + stabiliser + gap``.

    Attributes:
        explained: Sum of the explained outputs over the batch.
        inputs: Relevance that arrived, by name of the input.
        entries: One per live node, in graph order.
        first_token: Share of absolute relevance on the first token, by token input.
    """

    explained: float
    inputs: Mapping[str, float]
    entries: tuple[LedgerEntry, ...]
    first_token: Mapping[str, float]

    @property
    def absorbed(self) -> float:
        """Sum the relevance that constants kept."""
        return sum(e.absorbed for e in self.entries)

    @property
    def leaked(self) -> float:
        """Sum the relevance that rules did not pass on."""
        return sum(e.leaked for e in self.entries)

    @property
    def stabiliser(self) -> float:
        """Sum the relevance that stabilisers kept."""
        return sum(e.stabiliser for e in self.entries)

    @property
    def gap(self) -> float:
        """Return what the account does not explain: 0 up to rounding."""
        return self.explained - sum(self.inputs.values()) - self.absorbed - self.leaked - self.stabiliser

    def share(self, value: float) -> float | None:
        """Return a part of the account in percent of the explained value; None if that is 0."""
        return 100 * value / self.explained if self.explained else None

    @property
    def shares(self) -> dict[str, float | None]:
        """Return the account in percent of the explained value: inputs, then where the rest stayed, largest first."""
        kept = {name: getattr(self, name) for name in ("absorbed", "leaked", "stabiliser")}
        parts = sort_by_size({f"input '{name}'": value for name, value in self.inputs.items()}, abs) | sort_by_size(
            kept, abs
        )
        return {name: self.share(value) for name, value in parts.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say what looks unhealthy: lost or amplified relevance, relevance that gathers on the first token."""
        found = []
        lost = self.share(self.explained - sum(self.inputs.values()))
        if lost is not None and lost > 100 * MAX_ABSORBED:
            found.append(
                f"{lost:.2f} % of the explained value does not reach the inputs: constants keep "
                f"{self.share(self.absorbed):.2f} %, rules leak {self.share(self.leaked):.2f} %"
            )
        worst = max(self.entries, key=lambda e: e.magnitude, default=None)
        if worst is not None and worst.magnitude > MAX_AMPLIFICATION * abs(self.explained):
            found.append(
                f"relevance grows to {worst.magnitude / abs(self.explained):.3g} times the explained value at "
                f"{worst.node} ({worst.module or 'the model'}, {worst.source}); read it with care"
                if self.explained
                else f"the explained value is 0, with relevance up to {worst.magnitude:.3g} at {worst.node}"
            )
        found += [
            f"{100 * share:.0f} % of the relevance of '{name}' is on its first token"
            for name, share in self.first_token.items()
            if share > MAX_FIRST_TOKEN
        ]
        return tuple(found)

    def by_module(self, depth: int = 2) -> dict[str, dict[str, float]]:
        """Sum absorbed, leaked and stabiliser per module, paths cut to ``depth`` parts; what keeps most comes first."""
        columns = ("absorbed", "leaked", "stabiliser")
        found: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(columns, 0.0))
        for e in self.entries:
            row = found[".".join(e.module.split(".")[:depth])]
            for column in columns:
                row[column] += getattr(e, column)
        return sort_by_size(found, lambda row: sum(map(abs, row.values())))

    def by_constant(self) -> dict[str, float]:
        """Sum absorbed relevance by the names of the constants that kept it, largest first."""
        found: dict[str, float] = defaultdict(float)
        for e in self.entries:
            if e.absorbers:
                found[" + ".join(e.absorbers)] += e.absorbed
        return sort_by_size(found, abs)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return entries as dictionaries, ready for ``pandas.DataFrame``."""
        return [asdict(e) for e in self.entries]

    def to_json(self) -> str:
        """Write the whole account as JSON."""
        totals = {
            name: getattr(self, name) for name in ("absorbed", "leaked", "stabiliser", "gap", "shares", "warnings")
        }
        return json.dumps({**asdict(self), **totals}, indent=2)

    def table(self, depth: int = 2) -> Table:
        """Return the account as a rich table: totals, then where relevance stayed by module, largest first.

        Shares are in percent of the explained value.
        """
        table = Table(title="Relevance ledger", title_justify="left")
        table.add_column("account")
        for name in ("relevance", "absorbed", "leaked", "stabiliser", "share"):
            table.add_column(name, justify="right")

        def percent(value: float) -> str:
            share = self.share(value)
            return "" if share is None else f"{share:.2f} %"

        table.add_row("explained output", f"{self.explained:.6g}", "", "", "", percent(self.explained), style="bold")
        for name, value in sort_by_size(self.inputs, abs).items():
            table.add_row(f"input '{name}'", f"{value:.6g}", "", "", "", percent(value))
        for module, row in self.by_module(depth).items():
            if any(row.values()):
                kept = (f"{v:.6g}" for v in row.values())
                table.add_row(module or "the model itself", "", *kept, percent(sum(row.values())))
        totals = (self.absorbed, self.leaked, self.stabiliser)
        kept = (f"{v:.6g}" for v in totals)
        table.add_row("all modules", "", *kept, percent(sum(totals)), style="bold", end_section=True)
        table.add_row("unexplained gap", f"{self.gap:.3g}", "", "", "", "")
        table.caption = "\n".join(self.warnings) or None
        return table

    def __str__(self) -> str:
        return write_table(self.table())


def sort_by_size(found: Mapping[str, T], size: Callable[[T], float]) -> dict[str, T]:
    """Sort entries, largest first."""
    return dict(sorted(found.items(), key=lambda item: -size(item[1])))
