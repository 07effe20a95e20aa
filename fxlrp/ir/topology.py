"""Questions about a graph's shape, answered with networkx."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import networkx as nx
from torch import fx


def to_networkx(graph: fx.Graph) -> nx.DiGraph:
    """Return every node by name, with its ``op``, and an edge from each operand to each user."""
    found = nx.DiGraph()
    for node in graph.nodes:
        found.add_node(node.name, op=str(node.target))
        found.add_edges_from((n.name, node.name) for n in node.all_input_nodes)
    return found


def to_flow_graph(operands: Mapping[fx.Node, Iterable[fx.Node]]) -> nx.DiGraph:
    """Return only the edges that relevance takes, against their direction: from each live operand to its user."""
    found = nx.DiGraph()
    for node, given in operands.items():
        found.add_node(node.name, op=str(node.target))
        found.add_edges_from((n.name, node.name) for n in given)
    return found


def find_longest_path(graph: nx.DiGraph) -> list[str]:
    """Find the nodes of the longest chain, in order."""
    return list(nx.dag_longest_path(graph))


def find_cut_off_inputs(graph: nx.DiGraph, ops: Collection[str], inputs: Collection[str], end: str) -> list[str]:
    """Find the inputs that lose every path to ``end`` if these ops pass nothing on."""
    whole = find_all_ancestors(graph, end)
    rest = find_all_ancestors(graph.subgraph(graph.nodes - set(ops)), end)
    return [name for name in inputs if name in whole and name not in rest]


def find_all_ancestors(graph: nx.DiGraph, end: str) -> set[str]:
    """Find ``end`` and everything with a path to it; nothing if it is not there."""
    return {end} | nx.ancestors(graph, end) if end in graph else set()


def find_relevance_cut(graph: nx.DiGraph, inputs: Sequence[str], end: str) -> set[str]:
    """Find the fewest nodes between inputs and ``end`` that all relevance runs through; none if they are neighbours."""
    cut = graph.copy()
    start = object()
    cut.add_edges_from((start, name) for name in inputs if name in graph)
    if start not in cut or not nx.has_path(cut, start, end) or any(cut.has_edge(name, end) for name in inputs):
        return set()
    return set(nx.minimum_node_cut(cut, start, end))


def find_bottlenecks(graph: nx.DiGraph, inputs: Sequence[str], end: str) -> list[str]:
    """Find the nodes that every path from an input to ``end`` runs through, from the inputs on."""
    whole = graph.copy()
    start = object()
    whole.add_edges_from((start, name) for name in inputs if name in graph)
    if start not in whole or not nx.has_path(whole, start, end):
        return []
    before = nx.immediate_dominators(whole, start)
    chain, node = [], before[end]
    while node is not start:
        chain.append(node)
        node = before[node]
    return chain[::-1]
