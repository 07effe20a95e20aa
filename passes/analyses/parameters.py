"""Relevance of the model's own parameters, read without changing that of anything else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor, fx

from fxlrp.errors import RuleError
from fxlrp.ir.decisions import Twin
from fxlrp.ir.program import is_floating
from fxlrp.ir.provenance import describe
from fxlrp.ir.rule import Facts, Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.passes.analyses.liveness import flatten_arguments


def find_derived(graph: fx.Graph, parameters: Collection[fx.Node], dependent: Collection[fx.Node]) -> set[fx.Node]:
    """Find the parameters and what is computed of them alone: folded weights, expanded tokens, rows of tables.

    Args:
        graph: The canonical graph.
        parameters: Placeholders of constants.
        dependent: Nodes with a differentiable path from a source.
    """
    found = set(parameters)
    for node in graph.nodes:
        if node not in dependent and is_floating(node) and any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def find_leading(graph: fx.Graph, made: Collection[fx.Node], live: Collection[fx.Node]) -> set[fx.Node]:
    """Find those of ``made`` from which a live node is computed."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in made and any(user in live or user in found for user in node.users):
            found.add(node)
    return found


def extend_twins(
    graph: fx.Graph, twins: Mapping[fx.Node, Twin], ends: Collection[fx.Node], made: Collection[fx.Node], rules: RuleSet
) -> dict[fx.Node, Twin]:
    """Make twins that also pass relevance on to what is made of parameters.

    The operands get what they get without it: each rule is applied twice, to the operands with the parameters fixed,
    and to the parameters with the operands fixed.

    Args:
        graph: The canonical graph.
        twins: Twins of the live nodes.
        ends: Live nodes where relevance ends, such as lookups of tokens.
        made: Parameters and what is made of them, see `find_derived`.
        rules: The rule set.

    Returns:
        Twins of the nodes that take one of ``made``, by node.
    """
    constant = [n for n in graph.nodes if n in made and n.op == "call_function"]
    found = {}
    ruled = {n: t.rule for n, t in twins.items()}
    others = [n for n in graph.nodes if n in ends and n not in twins and n.op == "call_function"]
    ruled |= replace(rules, overrides=()).assign([*constant, *others])
    for node, rule in ruled.items():
        slots = tuple(i for i, leaf in enumerate(flatten_arguments(node)) if isinstance(leaf, fx.Node) and leaf in made)
        held = rule.holds(node, slots) if slots and rule.holds is not None else ()
        if slots := tuple(slot for slot in slots if slot not in set(held)):
            own = twins.get(node, Twin(rule, (), Facts()))
            found[node] = replace(own, rule=apply_twice(rule, node, own.slots, slots), slots=(*own.slots, *slots))
    return found


def apply_twice(rule: Rule, node: fx.Node, operands: tuple[int, ...], parameters: tuple[int, ...]) -> Rule:
    """Make a rule that is applied to operands, then to parameters."""

    def apply(site: Site, c: Tensor) -> Parts:
        own: Parts = rule(replace(site, slots=operands), c) if operands else ()
        try:
            return *own, *rule(replace(site, slots=parameters, facts=Facts()), c)
        except RuleError as error:
            raise RuleError(
                f"rule {rule} gives the parameters of {describe(node)} no relevance of their own; "
                "read them with rules such as epsilon or attnlrp"
            ) from error

    return replace(rule, apply=apply)
