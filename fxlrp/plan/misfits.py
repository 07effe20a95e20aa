"""What does not fit between a model and a rule set: no path, ops without a rule, rules without an op."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from torch import fx

from fxlrp.errors import MissingRules, RuleError, SignatureError
from fxlrp.ir.program import Captured, find_op
from fxlrp.ir.provenance import describe, find_modules, source_line
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import Override, RuleSet

MOST_NAMES = 6
"""Names that an error lists at most."""


def check_reached(captured: Captured, live: Collection[fx.Node]) -> None:
    """Refuse a model in which no relevance would reach an input.

    Raises:
        SignatureError: If there are no live nodes.
    """
    if not live:
        raise SignatureError(
            "no differentiable path leads from an input to the explained output, so there is nothing to attribute; "
            f"inputs: {', '.join(n.name for n in captured.inputs)}"
        )


def report_missing(missing: Sequence[fx.Node], strict: bool) -> None:
    """Report the live nodes that no rule serves, all at once: an error if ``strict``, else a warning.

    Raises:
        MissingRules: With the count of each op, its first source line, and what can be done.
    """
    if not missing:
        return
    counts = Counter(str(node.target) for node in missing)
    first = {str(node.target): node for node in reversed(missing)}
    lines = [f"  {op}  x{count}  {source_line(first[op])}" for op, count in counts.most_common()]
    ops, have = ("op", "has") if len(counts) == 1 else ("ops", "have")
    text = f"{len(counts)} {ops} on the path from the inputs to the output {have} no rule\n" + "\n".join(lines)
    if strict:
        op = f"torch.ops.{lines[0].split()[0]}"
        raise MissingRules(
            f"{text}\nRegister one with @fxlrp.rule({op}), give rules=... | {{{op}: rule}}, "
            "or compile with strict=False to use the plain adjoint (Taylor) there."
        )
    warnings.warn(f"{text}\nThe plain adjoint (Taylor) is used there.", stacklevel=2)


def check_overrides(
    rules: RuleSet, path: Sequence[fx.Node], assigned: Mapping[fx.Node, Rule], live: Collection[fx.Node]
) -> None:
    """Refuse a rule set of which something that must serve a node serves none.

    Args:
        rules: The rule set.
        path: The ops between the inputs and the output.
        assigned: Rule by node.
        live: Nodes that relevance reaches.

    Raises:
        RuleError: With names that are close to those that fit nothing.
    """
    asked = [override for override in rules.overrides if override.missing == "error"]
    asked += [Override(rules.table[op], frozenset({op})) for op in rules.required]
    for override in asked:
        fitting = override.choose(path)
        if not fitting:
            raise RuleError(
                f"rule {override.rule} for {override} fits no op between the inputs and the explained output\n"
                f"{explain_misfit(override, path)}\n{ALLOW_HINT}"
            )
        if not any(node in live or (node in assigned and assigned[node].stops) for node in fitting):
            raise RuleError(
                f"rule {override.rule} for {override} fits only ops that pass no relevance on, as they are held fixed "
                f"or behind a rule that stops it\n  {describe(fitting[0])}\n{ALLOW_HINT}"
            )


ALLOW_HINT = 'To allow it, give missing="ignore" to where() or to fxlrp.rule_set().'


def explain_misfit(override: Override, path: Sequence[fx.Node]) -> str:
    """Name the conditions that nothing meets, each with what is close to it."""
    alone = override.conditions()
    lines = [f"  nothing has {text}{suggest_names(one, path)}" for text, one in alone.items() if not one.choose(path)]
    return "\n".join(lines) or "  each condition fits some op, but no op meets all of them"


def suggest_names(condition: Override, path: Sequence[fx.Node]) -> str:
    """Suggest names in the graph that are like that of a condition, else the first that there are."""
    if condition.ops is not None:
        given, known = [shorten_name(str(op)) for op in condition.ops], [str(find_op(node)) for node in path]
    elif condition.module is not None:
        given, known = [condition.module], [name for node in path for name in find_modules(node) if name]
    elif condition.kind is not None:
        kinds = [kind for node in path for kind in find_modules(node).values()]
        given, known = [shorten_name(condition.kind)], [kind.rpartition(".")[2] for kind in kinds]
    else:
        return ""
    there = list(dict.fromkeys(known))
    close = [name for name in there if get_close_matches(shorten_name(name).lower(), [g.lower() for g in given], 1)]
    return f". {'Close to it' if close else 'There'}: {', '.join((close or there)[:MOST_NAMES]) or 'nothing'}"


def shorten_name(name: str) -> str:
    """Return ``conv2d`` for ``aten.conv2d.default``; the last part of a class name; any other name as it is."""
    parts = name.split(".")
    return parts[1] if name.startswith("aten.") else parts[-1] if parts[0] == "torch" else name


def check_served(chosen: Mapping[fx.Node, Rule], slots: Mapping[fx.Node, tuple[int, ...]]) -> None:
    """Refuse a rule for an op that it cannot serve.

    Raises:
        RuleError: With the rule's reason, and the op's place.
    """
    for node, rule in chosen.items():
        why = "" if rule.refuses is None else rule.refuses(node, slots[node])
        if why:
            raise RuleError(f"rule {rule} {why}\n  at {describe(node)}")
