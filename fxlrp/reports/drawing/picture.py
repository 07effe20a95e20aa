"""What there is to see of a compiled model: modules, nodes and edges, independent of how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class NodeKind:
    """How nodes of a kind look: what the legend says, the colours, and whether they are out of sight at first."""

    label: str
    fill: str
    line: str
    quiet: bool = False
    dashed: bool = False


NODE_KINDS = {
    "missing": NodeKind("NO RULE", "#d30c0c", "#7a0000"),
    "input": NodeKind("input: relevance is read here", "#334155", "#1e293b"),
    "linear": NodeKind("linear", "#cfe0fb", "#5b87cc"),
    "weighted": NodeKind("linear, weighted rule", "#8fb5f2", "#2f62b5"),
    "product": NodeKind("product", "#ffd4a3", "#c9812f"),
    "pointwise": NodeKind("pointwise", "#c2eac6", "#55a05f"),
    "selection": NodeKind("selection", "#aee5de", "#3c958b"),
    "norm": NodeKind("normaliser", "#dcd2fb", "#8a72cf"),
    "softmax": NodeKind("softmax", "#f9cbe4", "#c2669b"),
    "taylor": NodeKind("Taylor: the plain adjoint", "#fbec8d", "#b09a1d"),
    "other": NodeKind("another rule", "#e5d5c3", "#9b7f60"),
    "stopped": NodeKind("stopped: passes nothing on", "#c3c9d3", "#5d6675", dashed=True),
    "frozen": NodeKind("held fixed: gate, statistic, behind a stop", "#f3f7ff", "#7f93b8", dashed=True),
    "output": NodeKind("output", "#ffffff", "#1e293b"),
    "step": NodeKind("model input, target, result", "#f1f1ee", "#8d8d84"),
    "quiet": NodeKind("carries no relevance", "#f1f2f4", "#b3b8c1", quiet=True),
    "constant": NodeKind("parameter or constant", "#faf5e9", "#cbbf9f", quiet=True),
}
KIND_OF_RULE = {
    **dict.fromkeys(("products", "product", "attention"), "product"),
    **dict.fromkeys(("norms", "norm"), "norm"),
    **dict.fromkeys(("taylor", "adjoint"), "taylor"),
    **{kind: kind for kind in ("linear", "weighted", "pointwise", "selection", "softmax")},
}
"""Kind in a picture of each kind of rule."""


Boxes = tuple[tuple[str, str], ...]
"""Modules around a node, outermost first: path and class of each."""


@dataclass(frozen=True)
class Node:
    """A node of a picture.

    Attributes:
        name: Name in the graph.
        op: ATen overload, or what kind of input it is.
        kind: Key of `NODE_KINDS`.
        rule: Name of its rule.
        formula: The rule in one line.
        shape: Shape of its value.
        dtype: Its type.
        boxes: The modules around it.
        source: Source line.
        origin: In a relevance program, the node of the model that it was emitted for.
        numbers: Relevance received and passed on, or a row of a ledger.
    """

    name: str
    op: str
    kind: str
    rule: str = ""
    formula: str = ""
    shape: str = ""
    dtype: str = ""
    boxes: Boxes = ()
    source: str = ""
    origin: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """A value that one node takes from another.

    Attributes:
        start: Name of the node that makes it.
        end: Name of the node that takes it.
        live: Relevance runs along it.
        weight: Sum of absolute relevance that does, if it was measured.
    """

    start: str
    end: str
    live: bool
    weight: float | None = None


@dataclass(frozen=True)
class View:
    """One graph, in topological order."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Picture:
    """Everything to draw.

    Attributes:
        title: Name of the model.
        rules: Name of the rule set.
        views: The model's graph and the relevance program, by name.
        missing: For each node without a rule, the inputs that are cut off if it passes nothing on.
        notes: Facts about the graph as a whole.
    """

    title: str
    rules: str
    views: Mapping[str, View]
    missing: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, str]
