"""The values that the stages of the compiler hand to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxlrp._torch import FakeTensor, OpOverload, TreeSpec, tree_unflatten
from fxlrp.ir.guards import Guards

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class FixedSize:
    """A size that could not be left open.

    Attributes:
        input: The input.
        dim: Its dimension.
        size: The only value.
        source: The line of the model that asks for it.
    """

    input: str
    dim: int
    size: int
    source: str

    def __str__(self) -> str:
        return f"{self.input}, dimension {self.dim}: always {self.size}\n    {self.source}"


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
    fixed: tuple[FixedSize, ...] = ()

    @property
    def graph(self) -> fx.Graph:
        """The forward graph."""
        return self.module.graph

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Nodes (or plain values) of the model's own outputs, flattened."""
        return tuple(self.graph.output_node().args[0][:-1])  # type: ignore[index, arg-type]

    def output(self, values: Sequence[Any]) -> Any:
        """Put the model's output together, as the user knows it, from the values of its nodes."""
        given = iter(values)
        return tree_unflatten([next(given) if isinstance(n, fx.Node) else n for n in self.outputs], self.out_spec)

    @property
    def explained(self) -> fx.Node:
        """The node whose entries a target selects; its first dimension is the batch."""
        return self.graph.output_node().args[0][-1]  # type: ignore[index, return-value]


@dataclass(frozen=True)
class AttributedInput:
    """A node whose relevance is part of the result.

    Attributes:
        node: Where the relevance is read.
        name: Key in the result.
        dims: Of a lookup, the dimensions that its indices are laid out in; the others are summed.
        steps: The nodes from an input to the lookup, each with the node before it; numbers are brought back along them.
    """

    node: fx.Node
    name: str
    dims: tuple[int, ...] | None = None
    steps: tuple[tuple[fx.Node, fx.Node], ...] = ()


@dataclass(frozen=True)
class MergedNorm:
    """A norm in evaluation mode that was merged into a linear op, as ``x * scale + shift`` along dimension 1.

    Attributes:
        scale: One number per channel.
        shift: One number per channel.
        outputs: Module calls whose output the merged op no longer shows: of the linear op in front of the norm, whose
            value is ``x``, or of the norm in front of the linear op.
        inside: Module calls that the norm runs in.
        name: Path of its module, or name of its node.
    """

    scale: fx.Node
    shift: fx.Node
    outputs: tuple[str, ...]
    inside: frozenset[str]
    name: str


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
        """Return the program as a graph of node names, for questions that networkx answers."""
        from fxlrp.ir.topology import to_networkx

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
        """Return the chosen output."""
        return self.op(*args, **kwargs)[self.index]

    def __str__(self) -> str:
        return str(self.op)


def find_op(node: fx.Node) -> Any:
    """Return the op of a node, the key of the rule table."""
    return node.target.op if isinstance(node.target, OneOutput) else node.target


def is_batch_norm(node: fx.Node) -> bool:
    """Return whether a node is a part of a batch norm that stayed apart, ``x * s + t``."""
    return "norm" in node.meta


def is_floating(node: object) -> bool:
    """Return whether a node holds floating point or complex numbers."""
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    parts = val if isinstance(val, (tuple, list)) else [val]
    return any(isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) for v in parts)


def find_device(node: fx.Node) -> torch.device:
    """Return where the value is; a fake tensor itself says meta while another thread computes with its like."""
    val = node.meta["val"]
    return val.fake_device if isinstance(val, FakeTensor) else val.device
