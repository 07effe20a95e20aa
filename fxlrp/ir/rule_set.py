"""Rule sets: which rule serves which node."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from fxlrp._torch import OpOverload
from fxlrp.errors import RuleError
from fxlrp.ir.closures import FrozenTable
from fxlrp.ir.ops import check_overload, collect_overloads
from fxlrp.ir.program import find_op, is_batch_norm
from fxlrp.ir.provenance import find_modules
from fxlrp.ir.rule import RULES, Rule, check_rule

Region = Callable[[Sequence[fx.Node]], Sequence[fx.Node]]
"""All ops between the inputs and the output of a model, in graph order, to those of a part of it, in graph order."""

MISSING_CHOICES = ("error", "ignore")
"""What can happen to an override that fits nothing in a model."""


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
        region: A function of all ops between the inputs and the output, in graph order, to those of a part of a model.
        missing: ``"error"`` if it must fit something in every model, or ``"ignore"``.
        reason: Why, for reports.
    """

    rule: Rule
    ops: frozenset[OpOverload] | None = None
    module: str | None = None
    kind: str | None = None
    position: str | None = None
    predicate: Callable[[fx.Node], bool] | None = None
    region: Region | None = None
    missing: str = "error"
    reason: str = ""

    def fits(self, node: fx.Node) -> bool:
        """Return whether the node meets the conditions, region and position left aside."""
        inside = find_modules(node)
        return (
            (self.ops is None or find_op(node) in self.ops)
            and (self.module is None or any(is_named(path, self.module) for path in inside))
            and (self.kind is None or any(f".{name}".endswith(f".{self.kind}") for name in inside.values()))
            and (self.predicate is None or self.predicate(node))
        )

    def choose(self, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        """Return the nodes that the override serves."""
        inside = nodes if self.region is None else self.region(nodes)
        fitting = [node for node in inside if self.fits(node)]
        return {"first": fitting[:1], "last": fitting[-1:], None: fitting}[self.position]

    def conditions(self) -> dict[str, Override]:
        """Return each condition by itself, as it is printed."""
        ops = None if self.ops is None else sorted(map(str, self.ops))
        shown = {
            "ops": ops,
            "module": self.module,
            "kind": self.kind,
            "predicate": self.predicate,
            "region": self.region,
        }
        return {
            f"{name}={getattr(value, '__name__', value)}": Override(self.rule, **{name: getattr(self, name)})
            for name, value in shown.items()
            if value is not None
        }

    def __str__(self) -> str:
        position = [] if self.position is None else [f"position={self.position}"]
        return ", ".join([*self.conditions(), *position]) or "everything"


def is_named(call: str, pattern: str) -> bool:
    """Return whether a pattern fits the path of a module's call, or of the module."""
    return any(fnmatch.fnmatchcase(path, pattern) for path in (call, call.partition("@")[0]))


@dataclass(frozen=True)
class RuleSet:
    """Which rule serves which node: an immutable value to print, change with ``|`` and `where`, compare and hash.

    What ``|`` and `where` add must fit something in every model that the rule set is compiled for, see `optional`.

    Attributes:
        name: Name in reports.
        summary: One line on what it is and where it was published.
        table: What differs from the default table.
        overrides: Conditions, in order; the first that fits wins over every table.
        default: A rule for every op that ``table`` does not name, in place of the default table.
        freeze: Whether gates and normalising statistics are held fixed inside products.
        invariant: Whether a chain of products counts as one product of all its factors.
        required: Ops of the table that a model must have.
        norms: Batch norms in evaluation mode: ``"merged"`` into the linear ops beside them, or ``"apart"``.
    """

    name: str
    summary: str = ""
    table: Mapping[OpOverload, Rule] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    default: Rule | None = None
    freeze: bool = True
    invariant: bool = False
    required: frozenset[OpOverload] = frozenset()
    norms: str = "merged"

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", FrozenTable(self.table))
        object.__setattr__(self, "overrides", tuple(self.overrides))
        check_choice("norms", self.norms, ("merged", "apart"))

    def __or__(self, table: Mapping[OpOverload, Rule]) -> RuleSet:
        """Return the same rule set with other rules for the ops in ``table``, wherever they stand.

        Raises:
            RuleError: If a key is no overload of an op, or a value no rule.
        """
        for op, rule in table.items():
            check_overload(op)
            check_rule(rule)
        name, required = f"{self.name} (changed)", self.required | set(table)
        over = tuple(
            Override(rule, frozenset({op}), missing="ignore")
            for op, rule in table.items()
            if any(override.ops is None or op in override.ops for override in self.overrides)
        )
        overrides = (*over, *self.overrides)
        return replace(self, name=name, table={**self.table, **table}, overrides=overrides, required=required)

    def optional(self) -> RuleSet:
        """Return the same rule set for models too in which some of its overrides fit nothing."""
        overrides = tuple(replace(override, missing="ignore") for override in self.overrides)
        return replace(self, overrides=overrides, required=frozenset())

    def without_bias(self) -> RuleSet:
        """Return the same rule set with biases left out of what its weighted rules divide by, so that they keep none.

        The model's output stays as it is.

        Raises:
            RuleError: If no rule of the set divides by a sum with a bias.
        """
        overrides = tuple(replace(o, rule=o.rule.unbiased or o.rule) for o in self.overrides)
        table = {op: rule.unbiased or rule for op, rule in self.table.items()}
        default = self.default and (self.default.unbiased or self.default)
        changed = replace(self, table=table, overrides=overrides, default=default)
        if changed == self:
            raise RuleError(
                f"no rule of {self.name} divides by a sum with a bias, so that there is none to leave out; weighted "
                "rules do, such as fxlrp.rules.weighted.epsilon() and gamma()"
            )
        return changed.named(f"{self.name} (without bias)")

    def with_norms_apart(self, rule: Rule | None = None) -> RuleSet:
        """Return the same rule set for batch norms that stay what they are, ``x * s + t``, and are merged nowhere.

        Both ops get ``rule``, as `fxlrp.rules.unchanged.passed`, or else the set's own: epsilon for sums is the norm's.
        """
        changed = self if rule is None else self.where(rule, predicate=is_batch_norm)
        return replace(changed, name=f"{self.name} (norms apart)", norms="apart")

    def named(self, name: str) -> RuleSet:
        """Return the same rule set under another name."""
        return replace(self, name=name)

    def where(
        self,
        rule: Rule,
        *,
        ops: OpOverload | Iterable[OpOverload] | None = None,
        module: str | None = None,
        kind: str | type | None = None,
        position: str | None = None,
        predicate: Callable[[fx.Node], bool] | None = None,
        region: Region | None = None,
        missing: str = "error",
        reason: str = "",
    ) -> RuleSet:
        """Return the same rule set with ``rule`` for the nodes that fit; conditions as in `Override`.

        The newest override is asked first.

        Raises:
            RuleError: If no node can meet a condition; when a model is compiled, also if none of its nodes meets all,
                unless ``missing="ignore"``.
        """
        check_rule(rule)
        check_choice("position", position, (None, "first", "last"))
        check_choice("missing", missing, MISSING_CHOICES)
        chosen = None if ops is None else frozenset(collect_overloads(ops))
        if isinstance(kind, type):
            kind = f"{kind.__module__}.{kind.__qualname__}"
        override = Override(rule, chosen, module, kind, position, predicate, region, missing, reason)
        return replace(self, name=f"{self.name} (changed)", overrides=(override, *self.overrides))

    def assign(
        self, nodes: Sequence[fx.Node], overrides: Mapping[fx.Node, Override] | None = None
    ) -> dict[fx.Node, Rule]:
        """Assign a rule to each node; a node that no rule serves is left out.

        Args:
            nodes: All ops between the inputs and the output, in graph order.
            overrides: What `find_overrides` finds for them, if that is known.
        """
        table = self.table if self.default else {**RULES, **self.table}
        found = {n: r for n in nodes if (r := table.get(find_op(n), self.default)) is not None}
        chosen = self.find_overrides(nodes) if overrides is None else overrides
        return found | {node: override.rule for node, override in chosen.items()}

    def find_overrides(self, nodes: Sequence[fx.Node]) -> dict[fx.Node, Override]:
        """Find the override that serves each node, where one does."""
        return {node: one for one in reversed(self.overrides) for node in one.choose(nodes)}

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.summary}"]
        lines += [f"  {op}: {rule}" for op, rule in self.table.items()]
        lines += [f"  where {o}: {o.rule}{o.reason and f' ({o.reason})'}" for o in self.overrides]
        lines.append(f"  every other op: {self.default or 'the default table'}")
        lines.append(f"  gates and statistics held fixed: {self.freeze}; product chains as one: {self.invariant}")
        lines += ["  batch norms: apart"] * (self.norms == "apart")
        return "\n".join(lines)


def check_choice(name: str, value: object, known: tuple[str | None, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in known:
        raise RuleError(f"{name} is {' or '.join(repr(k) for k in known if k)}, not {value!r}")
