"""Sites, rules, and the one table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from fxlrp._torch import OpOverload, TreeSpec, tree_unflatten
from fxlrp.errors import RuleError
from fxlrp.ir.adjoint_cache import call_by_trace
from fxlrp.ir.closures import find_recipe
from fxlrp.ir.numerics import Relevance, apply_adjoint, to_coefficient
from fxlrp.ir.ops import check_overload, complete_arguments

Parts = tuple[Tensor | Relevance, ...]


@dataclass(frozen=True)
class Facts:
    """What the analyses proved about one site.

    Attributes:
        nonnegative: The first operand has no negative entry.
        dead_below: The coefficient of the output is 0 wherever the output is negative.
        shares: For a product in invariant mode, the part of the relevance that each operand takes.
    """

    nonnegative: bool = False
    dead_below: bool = False
    shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Site:
    """One application of an op: ``operands`` carry relevance, the other leaves are held fixed.

    Attributes:
        op: The ATen overload.
        leaves: Flattened arguments of the call, in the order of the op's schema.
        spec: How to put the leaves together again.
        slots: Which leaves are operands.
        out: The output of the call.
        facts: What the analyses proved.
    """

    op: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec
    slots: tuple[int, ...]
    out: Tensor
    facts: Facts = Facts()

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The live tensor arguments."""
        return tuple(self.leaves[i] for i in self.slots)

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by their name in the op's schema, defaults filled in."""
        return complete_arguments(self.op, *tree_unflatten(self.leaves, self.spec))

    def __call__(self, *operands: Tensor) -> Any:
        """Apply the op again to other operands."""
        leaves = list(self.leaves)
        for i, x in zip(self.slots, operands, strict=True):
            leaves[i] = x
        args, kwargs = tree_unflatten(leaves, self.spec)
        return self.op(*args, **kwargs)

    def fix(self, changes: Mapping[int, Any]) -> Site:
        """Return the same site with other leaves at some positions."""
        return replace(self, leaves=tuple(changes.get(i, leaf) for i, leaf in enumerate(self.leaves)))

    def adjoint(self, c: Tensor) -> tuple[Tensor, ...]:
        """Compute the vector-Jacobian product ``J^T c`` of the op.

        Args:
            c: Shaped as ``out``.

        Returns:
            One result per operand, with its shape and dtype; zeros where the op ignores an operand.
        """

        def direct(c: Tensor, *leaves: Any) -> tuple[Tensor, ...]:
            site = replace(self, leaves=leaves)
            return apply_adjoint(site, site.operands, c)

        return call_by_trace(direct, (self.op, self.spec, self.slots), (c, *self.leaves))


@dataclass(frozen=True)
class Rule:
    """A pure function of a site and its output's coefficient, with what reports say of it.

    Attributes:
        name: Name with parameters, such as ``gamma(0.25)``.
        kind: Mathematical kind, such as ``linear`` or ``product``.
        apply: The function; it returns one coefficient (or `Relevance`) per operand.
        holds: Given a node and the slots that relevance could take, those that are held fixed instead.
        stops: The op passes no relevance at all; liveness ends there.
        limit: The same rule without its stabiliser, by which the ledger tells what the stabiliser keeps.
        kills_negative: On a ReLU, the operand's coefficient is 0 wherever the operand is negative.
        refuses: Given a node and its live slots, why the rule cannot serve it; empty if it can.
        recipe: A function and the arguments that make the same rule, for pickles and copies.
        unbiased: The same rule with biases left out of what it divides by; none if it counts none there.
        positions: Given a site and the coefficient of its output, the relevance that positions take there:
            ``(samples, positions, features)``; none if no positions enter.
        filters: The function is not linear in the coefficient, and must see all that arrives at an op at once.
        takes_relevance: The function takes a `Relevance` too, and needs no coefficient; see `fxlrp.rules.unchanged`.
    """

    name: str
    kind: str
    apply: Callable[[Site, Any], Parts]
    holds: Callable[[fx.Node, tuple[int, ...]], Iterable[int]] | None = None
    stops: bool = False
    limit: Rule | None = None
    kills_negative: bool = False
    refuses: Callable[[fx.Node, tuple[int, ...]], str] | None = None
    recipe: tuple[Any, ...] = field(default=(), compare=False)
    takes_relevance: bool = False
    unbiased: Rule | None = None
    filters: bool = False
    positions: Callable[[Site, Tensor], Tensor] | None = None

    @property
    def formula(self) -> str:
        """First line of the function's docstring."""
        return (self.apply.__doc__ or "").strip().split("\n")[0]

    def __call__(self, site: Site, c: Tensor | Relevance) -> Parts:
        """Apply the rule.

        Args:
            site: The application of the op.
            c: Coefficient of ``site.out``, shaped as it; or a `Relevance`, which may reach outputs below 0 whatever the
                facts say of coefficients there.

        Returns:
            One coefficient (or `Relevance`) per operand, shaped as the operand.
        """
        if isinstance(c, Relevance) and not self.takes_relevance:
            site, c = replace(site, facts=replace(site.facts, dead_below=False)), to_coefficient(c, site.out)
        return self.apply(site, c)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        return find_recipe(self)


Table = dict[OpOverload, Rule]
RULES: Table = {}


def rule(
    *ops: OpOverload, kind: str | None = None, table: Table | None = None, **traits: Any
) -> Callable[[Callable[[Site, Tensor], Parts] | Rule], Rule]:
    """Register a rule for op overloads.

    Args:
        ops: Overloads such as ``torch.ops.aten.add.Tensor``.
        kind: Name of the kind in reports; the defining module's name by default.
        table: Where to register; the default table unless told otherwise.
        traits: Further attributes of `Rule`.

    Raises:
        RuleError: For what is no overload, or has a rule already.
    """
    chosen = RULES if table is None else table

    def register(function: Callable[[Site, Tensor], Parts] | Rule) -> Rule:
        own = kind or function.__module__.rpartition(".")[2]
        made = function if isinstance(function, Rule) else Rule(function.__name__, own, function, **traits)
        for op in ops:
            check_overload(op)
            if op in chosen:
                raise RuleError(f"{op} has two rules: {chosen[op]} and {made}. Override it in a rule set instead.")
            chosen[op] = made
        return made

    return register


def check_rule(rule: object) -> None:
    """Refuse what is no rule."""
    if not isinstance(rule, Rule):
        made = "call it to get one, as gamma(0.25)" if callable(rule) else "such as fxlrp.rules.weighted.gamma(0.25)"
        raise RuleError(f"a rule set is made of rules, not of {rule!r}: {made}")
