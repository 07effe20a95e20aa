"""The values that the stages of the compiler hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload, TreeSpec
from fxlrp.guards import Guards
from fxlrp.sizes import Fixed

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Captured:
    """A model as a graph of ATen ops.

    Attributes:
        module: Graph module whose placeholders are constants (parameters, buffers) and user inputs.
        constants: The model's own tensors by placeholder.
        names: Dotted name of each constant in the model.
        parameters: The placeholders that are parameters.
        inputs: Placeholders of the user's inputs, in the order of the flattened ``(args, kwargs)``.
        in_spec: How to put the inputs together again.
        out_spec: How to put the outputs together again.
        guards: For which values of its symbolic sizes it is the model.
        fixed: Sizes that were to be symbolic and are not.
    """

    module: fx.GraphModule
    constants: Mapping[fx.Node, Any]
    names: Mapping[fx.Node, str]
    parameters: frozenset[fx.Node]
    inputs: tuple[fx.Node, ...]
    in_spec: TreeSpec
    out_spec: TreeSpec
    guards: Guards
    fixed: tuple[Fixed, ...] = ()

    @property
    def graph(self) -> fx.Graph:
        """The forward graph."""
        return self.module.graph

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Nodes (or plain values) of the model's own outputs, flattened."""
        return tuple(self.graph.output_node().args[0][:-1])  # type: ignore[index, arg-type]

    @property
    def explained(self) -> fx.Node:
        """The node whose entries a target selects; its first dimension is the batch."""
        return self.graph.output_node().args[0][-1]  # type: ignore[index, return-value]


@dataclass(frozen=True)
class Source:
    """A node whose relevance is part of the result.

    Attributes:
        node: Where the relevance is read.
        name: Key in the result.
        trailing: How many trailing dimensions are summed (the features of a token).
    """

    node: fx.Node
    name: str
    trailing: int = 0


@dataclass(frozen=True)
class Program:
    """Forward and relevance pass as one flat ATen graph.

    Called with the flattened inputs of the model and the tensors of the target.

    Attributes:
        module: The graph module; its parameters are the model's own tensors.
        outputs: How many of the first results are the model's own outputs.
        relevances: Key of each relevance result behind them.
        reads: Name of each extra relevance behind those.
    """

    module: fx.GraphModule
    outputs: int
    relevances: tuple[str, ...]
    reads: tuple[str, ...]

    def to_networkx(self) -> nx.DiGraph:
        """The program as a graph of node names, for questions that networkx answers."""
        from fxlrp.topology import to_networkx

        return to_networkx(self.module.graph)


@dataclass(frozen=True)
class OneOutput:
    """One output of an op with several, as an op of its own: every node on the path has one tensor value."""

    op: OpOverload
    index: int

    @property
    def __name__(self) -> str:
        return f"output_{self.index}_of_{self.op.__name__}".replace(".", "_")

    @property
    def _schema(self) -> Any:
        return self.op._schema

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The chosen output."""
        return self.op(*args, **kwargs)[self.index]

    def __str__(self) -> str:
        return str(self.op)


def overload(node: fx.Node) -> Any:
    """The op of a node, the key of the rule table."""
    return node.target.op if isinstance(node.target, OneOutput) else node.target


def floating(node: object) -> bool:
    """Whether a node holds floating point or complex numbers."""
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    parts = val if isinstance(val, (tuple, list)) else [val]
    return any(isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) for v in parts)


def example(node: fx.Node) -> Tensor:
    """The fake tensor that stands for the node's value."""
    val = node.meta["val"]
    assert isinstance(val, torch.Tensor)
    return val
