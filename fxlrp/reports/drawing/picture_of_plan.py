"""From the compiler's decisions to a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx

from fxlrp.ir import topology
from fxlrp.ir.program import Program
from fxlrp.ir.provenance import find_modules, source_line
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import RuleSet
from fxlrp.passes.analyses.liveness import find_dependents, find_path
from fxlrp.plan.decide import Plan
from fxlrp.reports.drawing.picture import KIND_OF_RULE, Boxes, Edge, Node, Picture, View
from fxlrp.reports.edge_relevance import Flow, find_live_operands
from fxlrp.reports.treatments import describe_treatments


def make_picture(
    plan: Plan,
    rules: RuleSet,
    program: Program,
    *,
    title: str = "model",
    flow: Flow | None = None,
    numbers: Mapping[str, Mapping[str, float]] | None = None,
) -> Picture:
    """Collect what there is to see.

    Args:
        plan: The compiler's decisions.
        rules: The rule set that they were made with.
        program: The relevance program.
        title: Name of the model.
        flow: Relevance along the edges, if it was measured.
        numbers: Further numbers by name of a node, such as rows of a ledger.
    """
    known = {name: dict(row) for name, row in (flow.nodes if flow else {}).items()}
    for name, row in (numbers or {}).items():
        known.setdefault(name, {}).update(row)
    model = view_model(plan, rules, flow, known)
    emitted = view_program(program, {node.name: node for node in model.nodes})
    relevance = topology.to_flow_graph({node: find_live_operands(node, twin) for node, twin in plan.twins.items()})
    inputs = [source.node.name for source in plan.sources]
    end = plan.captured.explained.name
    missing = {n.name: tuple(topology.find_cut_off_inputs(relevance, [n.name], inputs, end)) for n in plan.missing}
    notes = {
        "ops": f"{sum(n.op == 'call_function' for n in plan.captured.graph.nodes)}, {len(plan.twins)} of them live",
        "longest path": f"{len(topology.find_longest_path(relevance))} live ops",
        "on every path": f"{len(topology.find_bottlenecks(relevance, inputs, end))} ops",
        "program": f"{len(emitted.nodes)} nodes",
    }
    return Picture(title, rules.name, {"model": model, "relevance program": emitted}, missing, notes)


def view_model(plan: Plan, rules: RuleSet, flow: Flow | None, numbers: Mapping[str, Mapping[str, float]]) -> View:
    """View the model's canonical graph."""
    graph, end = plan.captured.graph, plan.captured.explained
    look, treatments = find_appearances(plan, rules), describe_treatments(plan)
    boxes = place_nodes(graph, {n: tuple((p, c) for p, c in find_modules(n).items() if p) for n in graph.nodes})
    nodes, edges = [], []
    for node in graph.nodes:
        kind, rule, formula = look[node]
        name = plan.captured.names.get(node)
        notes = [": ".join(treatments[node])] if node in treatments else []
        notes += ["This is the explained output."] if node is end else []
        shape, dtype = describe_value(node)
        nodes.append(
            Node(
                name=node.name,
                op=f"parameter {name}" if name else name_op(node),
                kind=kind,
                rule=rule,
                formula=" ".join(filter(None, [formula, *notes])),
                shape=shape,
                dtype=dtype,
                boxes=boxes[node],
                source=source_line(node) if node.op == "call_function" else "",
                numbers=numbers.get(node.name, {}),
            )
        )
        live = set(find_live_operands(node, plan.twins[node])) if node in plan.twins else set()
        for n in node.all_input_nodes:
            weight = flow.edges.get((n.name, node.name), 0.0) if flow and n in live else None
            edges.append(Edge(n.name, node.name, n in live, weight))
    return View(tuple(nodes), tuple(edges))


def find_appearances(plan: Plan, rules: RuleSet) -> dict[fx.Node, tuple[str, str, str]]:
    """Find kind, rule and formula of every node of the model."""
    graph = plan.captured.graph
    starts = {source.node: source.name for source in plan.sources}
    dependent = find_dependents(graph, starts)
    assigned = rules.assign(find_path(graph, dependent, plan.captured.explained))
    used = {plan.captured.explained}
    found: dict[fx.Node, tuple[str, str, str]] = {}
    for node in reversed(graph.nodes):
        if node in used:
            used.update(node.all_input_nodes)
        rule = plan.twins[node].rule if node in plan.twins else None
        if node in plan.missing:
            found[node] = "missing", "MISSING", "no rule: the plain adjoint is used"
        elif rule is not None:
            found[node] = KIND_OF_RULE.get(rule.kind, "other"), rule.name, rule.formula
        elif node in starts:
            found[node] = "input", "", f"its relevance is reported as '{starts[node]}'"
        else:
            fixed, constant = node in dependent and node in used, node in plan.captured.names
            found[node] = describe_unruled(node, assigned.get(node), fixed, constant)
    return found


def describe_unruled(node: fx.Node, rule: Rule | None, fixed: bool, constant: bool) -> tuple[str, str, str]:
    """Return kind, rule and formula of a node that passes no relevance on."""
    if constant or node.op in ("output", "placeholder"):
        return ("constant" if constant else {"output": "output"}.get(node.op, "step")), "", ""
    if fixed and rule is not None and rule.stops:
        return "stopped", rule.name, rule.formula
    if fixed:
        return "frozen", "held fixed", "a constant as far as relevance is concerned"
    return "quiet", "", ""


def view_program(program: Program, model: Mapping[str, Node]) -> View:
    """View the emitted graph: what computes the output, then what computes relevance."""
    graph = program.module.graph
    origins = {n: origin for n in graph.nodes if (origin := n.meta.get("custom", {}).get("node")) in model}
    roles = {n: n.meta["custom"]["fxlrp"] for n in origins}
    parts = {n: "forward pass" if role == "forward" else "relevance pass" for n, role in roles.items()}
    used = {n for n, part in parts.items() if part == "relevance pass"}
    for n in reversed(graph.nodes):
        if n in used:
            used.update(n.all_input_nodes)
        if n.op == "call_function" and n not in parts:
            parts[n] = "target" if n in used else "results"
    chains = {n: ((part, ""), *(model[origins[n]].boxes if n in origins else ())) for n, part in parts.items()}
    for n in graph.nodes:  # a parameter stands where the model has it, and not between the passes
        first = [chains[user] for user in n.users if parts.get(user) == "forward pass"]
        if n.op == "get_attr" and first:
            chains[n] = find_common_modules(first)
    boxes = place_nodes(graph, {n: chains.get(n, ()) for n in graph.nodes})
    nodes, edges = [], []
    for node in graph.nodes:
        twin = model.get(origins.get(node, ""))
        kind = twin.kind if twin is not None else {"get_attr": "constant", "output": "output"}.get(node.op, "step")
        shape, dtype = describe_value(node)
        nodes.append(
            Node(
                name=node.name,
                op=name_op(node),
                kind=kind,
                rule=roles.get(node, ""),
                formula=twin.formula if twin is not None else "",
                shape=shape,
                dtype=dtype,
                boxes=boxes[node],
                source=twin.source if twin is not None else "",
                origin=origins.get(node, ""),
            )
        )
        carry = ("target", "relevance pass", "results")
        edges += [
            Edge(n.name, node.name, parts.get(node) in carry and parts.get(n) in carry) for n in node.all_input_nodes
        ]
    return View(tuple(nodes), tuple(edges))


def name_op(node: fx.Node) -> str:
    """Say what the node does."""
    if node.op == "call_function":
        return str(node.target) if hasattr(node.target, "_schema") else node._pretty_print_target(node.target)
    return {"placeholder": "input", "get_attr": f"parameter {node.target}"}.get(node.op, node.op)


def place_nodes(graph: fx.Graph, boxes: Mapping[fx.Node, Boxes]) -> dict[fx.Node, Boxes]:
    """Find the modules around each node; a constant is where all its users are."""
    found = dict(boxes)
    for node in graph.nodes:
        free = node.op in ("placeholder", "get_attr") and not node.meta.get("user_input")
        if free and node.users and not found[node]:
            found[node] = find_common_modules(boxes[user] for user in node.users)
    return found


def find_common_modules(chains: Iterable[Boxes]) -> Boxes:
    """Find what all of them begin with."""
    first, *rest = chains
    size = next((i for i, box in enumerate(first) if any(chain[i : i + 1] != (box,) for chain in rest)), len(first))
    return first[:size]


def describe_value(node: fx.Node) -> tuple[str, str]:
    """Return shape and dtype of a node's value."""
    val: Any = node.meta.get("val")
    if isinstance(val, Tensor):
        return str(tuple(val.shape)).replace(",)", ")"), str(val.dtype).removeprefix("torch.")
    if isinstance(val, (tuple, list)):
        return ", ".join(str(tuple(v.shape)) for v in val if isinstance(v, Tensor)), ""
    return ("" if val is None else str(val)), ""
