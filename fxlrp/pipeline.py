"""The compiler: canonical graph, analyses, rules, program."""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import fx

from fxlrp import passes
from fxlrp.emit import emit, read
from fxlrp.errors import MissingRules, SignatureError
from fxlrp.passes import analyses
from fxlrp.passes.factors import factors
from fxlrp.program import Captured, Program, Source
from fxlrp.propagate import Env, Twin
from fxlrp.provenance import source_line
from fxlrp.registry import Rule
from fxlrp.rules.taylor import adjoint
from fxlrp.rulesets import RuleSet
from fxlrp.targets import Form


@dataclass(frozen=True)
class Plan:
    """Every decision of the compiler about a captured model, before anything is emitted.

    Attributes:
        captured: The model as a canonical graph.
        sources: Where relevance is read.
        twins: Rule and operands of every live node that passes relevance on.
        missing: Live nodes that no rule serves (served by the adjoint if not strict).
        reads: Further nodes to read relevance at, by name.
        rewrites: Number of rewrites of each pass.
    """

    captured: Captured
    sources: tuple[Source, ...]
    twins: Mapping[fx.Node, Twin]
    missing: tuple[fx.Node, ...]
    reads: Mapping[str, fx.Node]
    rewrites: Mapping[str, int]


def plan(captured: Captured, rules: RuleSet, read: Sequence[str], strict: bool) -> Plan:
    """Bring the graph into canonical form and decide on every live node.

    Raises:
        MissingRules: If ``strict`` and a live op has no rule.
        SignatureError: If a name in ``read`` fits nothing, or no input reaches the output.
    """
    rewrites = passes.run(captured.module, passes.CANONICAL)
    graph, end = captured.graph, captured.explained  # after the passes: they may replace the explained node
    sources = analyses.sources(captured)
    starts = {source.node for source in sources}
    dependent = analyses.dependents(graph, starts)
    assigned = rules.assign(n for n in graph.nodes if n in dependent and n.op == "call_function")
    hold = analyses.freeze(factors(graph, dependent), assigned, rules.freeze)
    slots = analyses.live(graph, starts, end, assigned, hold)
    missing = tuple(node for node in slots if slots[node] and node not in assigned)
    if missing:
        report_missing(missing, strict)
    if not slots:
        raise SignatureError(
            "no differentiable path leads from an input to the explained output, so there is nothing to attribute; "
            f"inputs: {', '.join(n.name for n in captured.inputs)}"
        )
    chosen: dict[fx.Node, Rule] = {node: assigned.get(node, adjoint) for node in slots if slots[node]}
    facts = analyses.facts(graph, slots, chosen, end, rules.invariant)
    twins = {node: Twin(chosen[node], slots[node], facts[node]) for node in chosen}
    return Plan(captured, tuple(sources), twins, missing, find_reads(graph, read, slots), rewrites)


def lower(made: Plan, form: Form) -> Program:
    """Emit the program of a plan for one form of target, and clean it up."""
    outputs = [n for n in made.captured.outputs if isinstance(n, fx.Node)]
    names = tuple(dict.fromkeys(source.name for source in made.sources))

    def results(env: Env, found: Env) -> list[Any]:
        relevances: dict[str, Any] = dict.fromkeys(names, 0.0)
        for s in made.sources:
            relevances[s.name] = relevances[s.name] + read(env[s.node], found.get(s.node), s.trailing)
        reads = [read(env[n], found.get(n)) for n in made.reads.values()]
        return [*(env[n] for n in outputs), *relevances.values(), *reads]

    module = emit(made.captured, made.twins, form, results)
    passes.run(module, passes.CLEANUP)
    return Program(module, len(outputs), names, tuple(made.reads))


def report_missing(missing: Sequence[fx.Node], strict: bool) -> None:
    """Raise or warn, once, for all of them."""
    counts = Counter(str(node.target) for node in missing)
    first = {str(node.target): node for node in reversed(missing)}
    lines = [f"  {op}  x{count}  {source_line(first[op])}" for op, count in counts.most_common()]
    text = (
        f"{len(counts)} op{'s' if len(counts) > 1 else ''} on the path from the inputs to the output "
        f"{'have' if len(counts) > 1 else 'has'} no rule\n" + "\n".join(lines)
    )
    if strict:
        op = f"torch.ops.{lines[0].split()[0]}"
        raise MissingRules(
            f"{text}\nRegister one with @fxlrp.rule({op}), give rules=... | {{{op}: rule}}, "
            "or compile with strict=False to use the plain adjoint (Taylor) there."
        )
    warnings.warn(f"{text}\nThe plain adjoint (Taylor) is used there.", stacklevel=2)


def find_reads(graph: fx.Graph, patterns: Sequence[str], slots: analyses.Slots) -> dict[str, fx.Node]:
    """Nodes by name for patterns over module paths and node names.

    Raises:
        SignatureError: If a pattern fits nothing, or only what relevance does not reach.
    """
    names = {name: node for node in graph.nodes for name in (node.name, *node.meta.get("reads", []))}
    found: dict[str, fx.Node] = {}
    for pattern in patterns:
        fitting = {name: names[name] for name in names if fnmatch.fnmatchcase(name, pattern)}
        reached = {name: node for name, node in fitting.items() if node in slots}
        if not reached:
            close = ", ".join(get_close_matches(pattern, [n for n in names if names[n] in slots], 5, 0.3))
            why = (
                "fits only nodes that relevance does not reach"
                if fitting
                else "fits no module output and no graph node"
            )
            raise SignatureError(f"read={pattern!r} {why}. Close to it: {close or 'nothing'}")
        found |= reached
    return found
