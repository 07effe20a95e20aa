"""Decide, for every node of a canonical graph, which rule serves it, and for every result where it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from fxlrp import passes
from fxlrp.ir.decisions import Twin
from fxlrp.ir.program import AttributedInput, Captured
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import Override, RuleSet
from fxlrp.passes.analyses import liveness, parameters
from fxlrp.passes.analyses import sources as lookups
from fxlrp.passes.analyses.factors import find_factors
from fxlrp.plan import misfits, named_places
from fxlrp.plan.named_places import Place
from fxlrp.plan.position_places import VIEW, PositionPlace, find_position_places
from fxlrp.rules.taylor import adjoint


@dataclass(frozen=True)
class Plan:
    """Every decision of the compiler about a captured model, before anything is emitted.

    Attributes:
        captured: The model as a canonical graph.
        sources: Where relevance is read.
        twins: Rule and operands of every live node that passes relevance on.
        missing: Live nodes that no rule serves (served by the adjoint if not strict).
        reads: Further places to read relevance at, by name.
        readers: Twins that also pass relevance on to the parameters among them.
        rewrites: Number of rewrites of each pass.
        reasons: How many twins each override that says why serves.
    """

    captured: Captured
    sources: tuple[AttributedInput, ...]
    twins: Mapping[fx.Node, Twin]
    missing: tuple[fx.Node, ...]
    reads: Mapping[str, Place | PositionPlace]
    readers: Mapping[fx.Node, Twin]
    rewrites: Mapping[str, int]
    reasons: Mapping[Override, int]


def make_plan(captured: Captured, rules: RuleSet, read: Sequence[str], strict: bool) -> Plan:
    """Bring the graph into canonical form and decide on every live node.

    Args:
        captured: The model; its graph is rewritten.
        rules: Which rule serves which node.
        read: Names or patterns of further places to read relevance at.
        strict: Whether a live op without a rule is an error, and not served by the adjoint.

    Raises:
        MissingRules: If ``strict`` and a live op has no rule.
        RuleError: If a rule of the user's serves nothing, or cannot serve the op that it is for.
        SignatureError: If a name in ``read`` fits nothing, or no input reaches the output.
    """
    rewrites = passes.run_passes(captured.module, passes.FORMS[rules.norms])
    graph, end = captured.graph, captured.explained  # after the passes: they may replace the explained node
    sources = tuple(lookups.find_sources(captured))
    starts = {source.node for source in sources}
    dependent = liveness.find_dependents(graph, starts)
    path = liveness.find_path(graph, dependent, end)
    overrides = rules.find_overrides(path)
    assigned = rules.assign(path, overrides)
    hold = liveness.make_hold(find_factors(graph, dependent), assigned, rules.freeze)
    slots = liveness.find_live(graph, starts, end, assigned, hold)
    misfits.check_reached(captured, slots)
    missing = tuple(node for node in slots if slots[node] and node not in assigned)
    misfits.report_missing(missing, strict)
    chosen: dict[fx.Node, Rule] = {node: assigned.get(node, adjoint) for node in slots if slots[node]}
    misfits.check_overrides(rules, path, assigned, slots)
    misfits.check_served(chosen, slots)
    facts = liveness.prove_facts(graph, slots, chosen, end, rules.invariant)
    twins = {node: Twin(chosen[node], slots[node], facts[node]) for node in chosen}
    constants = parameters.find_derived(graph, captured.names, dependent)
    named = [name for name in read if not name.endswith(VIEW)]
    places = named_places.find_places(captured, named, slots, parameters.find_leading(graph, constants, slots))
    made = parameters.find_derived(graph, {place.node for place in places.values()} & captured.names.keys(), dependent)
    readers = parameters.extend_twins(graph, twins, starts, made, rules) if made else {}
    reads = places | find_position_places(captured, [name for name in read if name.endswith(VIEW)], twins)
    reasons = Counter(overrides[node] for node in twins if node in overrides and overrides[node].reason)
    return Plan(captured, sources, twins, missing, reads, readers, rewrites, reasons)
