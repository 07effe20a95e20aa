"""Rule sets: which rule serves which node."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from fxlrp._torch import OpOverload
from fxlrp.errors import RuleError
from fxlrp.overloads import check_overload
from fxlrp.program import overload
from fxlrp.provenance import modules
from fxlrp.registry import RULES, Rule


@dataclass(frozen=True)
class Override:
    """A rule for the nodes that fit every given condition.

    Attributes:
        rule: The rule.
        ops: Overloads, or None for all.
        module: Pattern (``features.*``) for the path of a module that the node runs in, at any call of it;
            ``path@1`` is its second call only.
        kind: Class name of such a module, bare (``Conv2d``) or in full.
        position: ``"first"`` or ``"last"``: only the first or last fitting node in graph order.
        predicate: A function of the node.
    """

    rule: Rule
    ops: frozenset[OpOverload] | None = None
    module: str | None = None
    kind: str | None = None
    position: str | None = None
    predicate: Callable[[fx.Node], bool] | None = None

    def fits(self, node: fx.Node) -> bool:
        """Whether the node meets the conditions, the position left aside."""
        inside = modules(node)
        return (
            (self.ops is None or overload(node) in self.ops)
            and (self.module is None or any(is_named(path, self.module) for path in inside))
            and (self.kind is None or any(f".{name}".endswith(f".{self.kind}") for name in inside.values()))
            and (self.predicate is None or self.predicate(node))
        )

    def choose(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """The nodes that the override serves."""
        fitting = [node for node in nodes if self.fits(node)]
        return {"first": fitting[:1], "last": fitting[-1:], None: fitting}[self.position]


def is_named(call: str, pattern: str) -> bool:
    """Whether a pattern fits the path of a module's call, or of the module."""
    return any(fnmatch.fnmatchcase(path, pattern) for path in (call, call.partition("@")[0]))


@dataclass(frozen=True)
class RuleSet:
    """Which rule serves which node: a value to print, change with ``|`` and `where`, and compare.

    Attributes:
        name: Name in reports.
        summary: One line on what it is and where it was published.
        table: What differs from the default table.
        overrides: Conditions, in order; the first that fits wins over every table.
        default: A rule for every op, in place of the default table.
        freeze: Whether gates and normalising statistics are held fixed inside products.
        invariant: Whether a chain of products counts as one product of all its factors.
    """

    name: str
    summary: str = ""
    table: Mapping[OpOverload, Rule] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    default: Rule | None = None
    freeze: bool = True
    invariant: bool = False

    def __or__(self, table: Mapping[OpOverload, Rule]) -> RuleSet:
        """The same rule set with other rules for the ops in ``table``."""
        for op in table:
            check_overload(op)
        return replace(self, name=f"{self.name} (changed)", table={**self.table, **table})

    def named(self, name: str) -> RuleSet:
        """The same rule set under another name."""
        return replace(self, name=name)

    def where(
        self,
        rule: Rule,
        *,
        ops: Iterable[OpOverload] | None = None,
        module: str | None = None,
        kind: str | None = None,
        position: str | None = None,
        predicate: Callable[[fx.Node], bool] | None = None,
    ) -> RuleSet:
        """The same rule set with ``rule`` for the nodes that fit; conditions as in `Override`.

        The newest override is asked first.
        """
        if position not in (None, "first", "last"):
            raise RuleError(f"position is 'first' or 'last', not {position!r}")
        chosen = None if ops is None else frozenset(ops)
        override = Override(rule, chosen, module, kind, position, predicate)
        return replace(self, name=f"{self.name} (changed)", overrides=(override, *self.overrides))

    def assign(self, nodes: Iterable[fx.Node]) -> dict[fx.Node, Rule]:
        """Rule of each node; a node that no rule serves is left out."""
        nodes = list(nodes)
        table: Mapping[Any, Rule] = {**RULES, **self.table}
        found = {n: r for n in nodes if (r := self.default or table.get(overload(n))) is not None}
        for override in reversed(self.overrides):
            found.update(dict.fromkeys(override.choose(nodes), override.rule))
        return found

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.summary}"]
        lines += [f"  {op}: {rule}" for op, rule in self.table.items()]
        for o in self.overrides:
            ops = None if o.ops is None else sorted(map(str, o.ops))
            shown = {"ops": ops, "module": o.module, "kind": o.kind, "position": o.position}
            conditions = ", ".join(f"{k}={v}" for k, v in shown.items() if v is not None)
            lines.append(f"  where {conditions or o.predicate}: {o.rule}")
        lines.append(f"  every other op: {self.default or 'the default table'}")
        lines.append(f"  gates and statistics held fixed: {self.freeze}; product chains as one: {self.invariant}")
        return "\n".join(lines)
