"""The account of relevance: what came in at every node, what went on, and where the rest stayed."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx

from fxlrp import numerics, passes
from fxlrp.emit import emit, read
from fxlrp.inputs import relevance
from fxlrp.passes.analyses import leaves
from fxlrp.passes.constants import additive, origins
from fxlrp.pipeline import Plan
from fxlrp.propagate import Env, Twin
from fxlrp.provenance import module_path, source_line
from fxlrp.registry import Parts, Rule, Site
from fxlrp.targets import Form

AMPLIFICATION = 1e3
"""Relevance at a node beyond this multiple of the explained value is worth a warning."""
FIRST_TOKEN = 0.5
"""So is this share of all token relevance on the first token."""


@dataclass(frozen=True)
class Entry:
    """The account of one node, summed over the batch.

    Attributes:
        node: Name in the graph.
        op: ATen overload.
        rule: Name of its rule.
        module: Path of the module that it runs in.
        source: Source line.
        received: Relevance at its output.
        passed: Relevance that it gave to its operands.
        absorbed: What its constants (biases, tokens, tables) keep if the rule has no stabiliser.
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
    entries: tuple[Entry, ...]
    first_token: Mapping[str, float]

    @property
    def absorbed(self) -> float:
        """Relevance that constants kept."""
        return sum(e.absorbed for e in self.entries)

    @property
    def leaked(self) -> float:
        """Relevance that rules did not pass on."""
        return sum(e.leaked for e in self.entries)

    @property
    def stabiliser(self) -> float:
        """Relevance that stabilisers kept."""
        return sum(e.stabiliser for e in self.entries)

    @property
    def gap(self) -> float:
        """What the account does not explain: 0 up to rounding."""
        return self.explained - sum(self.inputs.values()) - self.absorbed - self.leaked - self.stabiliser

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looks unhealthy: amplified relevance, relevance that gathers on the first token."""
        found = []
        worst = max(self.entries, key=lambda e: e.magnitude, default=None)
        if worst is not None and worst.magnitude > AMPLIFICATION * abs(self.explained):
            found.append(
                f"relevance grows to {worst.magnitude / abs(self.explained):.3g} times the explained value at "
                f"{worst.node} ({worst.module or 'the model'}, {worst.source}); read it with care"
                if self.explained
                else f"the explained value is 0, with relevance up to {worst.magnitude:.3g} at {worst.node}"
            )
        found += [
            f"{100 * share:.0f} % of the relevance of '{name}' is on its first token"
            for name, share in self.first_token.items()
            if share > FIRST_TOKEN
        ]
        return tuple(found)

    def by_module(self, depth: int = 2) -> dict[str, dict[str, float]]:
        """Absorbed, leaked and stabiliser per module, paths cut to ``depth`` parts."""
        columns = ("absorbed", "leaked", "stabiliser")
        found: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(columns, 0.0))
        for e in self.entries:
            row = found[".".join(e.module.split(".")[:depth])]
            for column in columns:
                row[column] += getattr(e, column)
        return dict(found)

    def by_constant(self) -> dict[str, float]:
        """Absorbed relevance by the names of the constants that kept it, largest first."""
        found: dict[str, float] = defaultdict(float)
        for e in self.entries:
            if e.absorbers:
                found[" + ".join(e.absorbers)] += e.absorbed
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def to_rows(self) -> list[dict[str, Any]]:
        """Entries as dictionaries, ready for ``pandas.DataFrame``."""
        return [asdict(e) for e in self.entries]

    def to_json(self) -> str:
        """The whole account as JSON."""
        totals = {name: getattr(self, name) for name in ("absorbed", "leaked", "stabiliser", "gap", "warnings")}
        return json.dumps({**asdict(self), **totals}, indent=2)

    def table(self, depth: int = 2) -> Table:
        """The account as a rich table: totals, then where relevance stayed by module."""
        table = Table(title="Relevance ledger", title_justify="left")
        table.add_column("account")
        for name in ("relevance", "absorbed", "leaked", "stabiliser"):
            table.add_column(name, justify="right")
        table.add_row("explained output", f"{self.explained:.6g}", "", "", "", style="bold")
        for name, value in self.inputs.items():
            table.add_row(f"input '{name}'", f"{value:.6g}", "", "", "")
        for module, row in self.by_module(depth).items():
            if any(row.values()):
                table.add_row(module or "the model itself", "", *(f"{v:.6g}" for v in row.values()))
        totals = (self.absorbed, self.leaked, self.stabiliser)
        table.add_row("all modules", "", *(f"{v:.6g}" for v in totals), style="bold", end_section=True)
        table.add_row("unexplained gap", f"{self.gap:.3g}", "", "", "")
        table.caption = "\n".join(self.warnings) or None
        return table

    def __str__(self) -> str:
        buffer = io.StringIO()
        Console(file=buffer, width=150).print(self.table())
        return buffer.getvalue().rstrip()


class Book:
    """Emits the accounting program of a plan and reads its numbers."""

    def __init__(self, plan: Plan, form: Form) -> None:
        self.plan = plan
        self.passed: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        twins = {node: replace(twin, rule=self.recorded(node, twin.rule)) for node, twin in plan.twins.items()}
        with numerics.at_least(torch.float64):
            self.module = emit(plan.captured, twins, form, self.results)
        passes.run(self.module, passes.CLEANUP)

    def recorded(self, node: fx.Node, rule: Rule) -> Rule:
        """The rule, which also notes what it passes on, and what it would without its stabiliser."""

        def apply(site: Site, c: Tensor) -> Parts:
            parts = rule(site, c)
            passed = total(site, parts)
            self.passed[node] = passed, passed if rule.limit is None else total(site, rule.limit(site, c))
            return parts

        return replace(rule, apply=apply)

    def results(self, env: Env, found: Env) -> list[Tensor]:
        """Rows of (received, passed, passed without stabiliser, magnitude) per node; then the sources."""
        zero = torch.zeros((), dtype=numerics.opmath(env[self.plan.captured.explained].dtype))
        rows = []
        for node in self.plan.twins:
            r = read(env[node], found.get(node))
            passed = self.passed.get(node, (zero, zero))
            rows.append(torch.stack([number(v, zero) for v in (r.sum(), *passed, r.abs().sum())]))
        end = self.plan.captured.explained
        sources = [relevance(s, env, found) for s in self.plan.sources]
        return [torch.stack(rows), number(read(env[end], found[end]).sum(), zero), *sources]

    def close(self, flat: Sequence[Tensor]) -> Ledger:
        """The ledger from the program's results."""
        rows, explained, *sources = flat
        inputs: dict[str, float] = defaultdict(float)
        first: dict[str, float] = {}
        for source, r in zip(self.plan.sources, sources, strict=True):
            inputs[source.name] += float(r.real.sum())
            if source.dims is not None and r.ndim > 1 and r.shape[1] > 1 and r.any():
                first[source.name] = float(r[:, 0].abs().sum() / r.abs().sum())
        constants = origins(self.plan.captured)
        numbers = zip(self.plan.twins.items(), rows.tolist(), strict=True)
        entries = tuple(entry(node, twin, row, constants) for (node, twin), row in numbers)
        return Ledger(float(explained), dict(inputs), entries, first)


def total(site: Site, parts: Parts) -> Tensor:
    """Relevance that a rule gives to all operands."""
    return sum((numerics.relevance(p, x).sum() for p, x in zip(parts, site.operands, strict=True)), torch.zeros(()))


def number(value: Tensor, like: Tensor) -> Tensor:
    """A real scalar of the ledger's dtype and device; the relevance of complex values is real in total."""
    return (value.real if value.is_complex() else value).to(like)


def entry(node: fx.Node, twin: Twin, row: Sequence[float], constants: Mapping[fx.Node, tuple[str, ...]]) -> Entry:
    """The account of one node from its four sums."""
    received, passed, exact, magnitude = row
    absorbers = [n for n in additive(node, constants) if n not in leaves_of(node, twin)]
    kept = received - exact
    return Entry(
        node=node.name,
        op=str(node.target),
        rule=twin.rule.name,
        module=module_path(node),
        source=source_line(node),
        received=received,
        passed=passed,
        absorbed=kept if absorbers else 0.0,
        leaked=0.0 if absorbers else kept,
        stabiliser=exact - passed,
        absorbers=tuple(dict.fromkeys(name for n in absorbers for name in constants[n] or (n.name,))),
        magnitude=magnitude,
    )


def leaves_of(node: fx.Node, twin: Twin) -> list[Any]:
    """The nodes in the live slots of a twin."""
    given = leaves(node)
    return [given[i] for i in twin.slots]
