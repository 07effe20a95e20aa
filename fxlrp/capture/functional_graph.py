"""From a model and example inputs to a functional ATen graph."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec

from fxlrp._torch import decompose
from fxlrp.capture.author_stops import keep_stops
from fxlrp.capture.decompositions import make_decompositions
from fxlrp.capture.explained_output import Objective, Output, append_explained
from fxlrp.capture.export import explain_capture_failure, export_open
from fxlrp.capture.quiet import silence_torch
from fxlrp.capture.unsupported import check_graph
from fxlrp.errors import CaptureError
from fxlrp.ir.guards import Guards
from fxlrp.ir.program import Captured, is_floating
from fxlrp.ir.provenance import describe, find_modules

aten = torch.ops.aten


def capture(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    output: Output = None,
    objective: Objective = None,
    dynamic_shapes: Any = None,
) -> Captured:
    """Export a model and decompose it to core ATen, less the ops in `decompositions.KEEP_WHOLE`.

    Args:
        model: The model in evaluation mode, or a program that torch.export made of it.
        args: Example positional arguments.
        kwargs: Example keyword arguments.
        output: What to explain: None (a tensor, else ``logits``, else the first floating tensor), a name,
            an index, or a function of the model's output.
        objective: A function of that tensor to one number per sample.
        dynamic_shapes: As in `torch.export.export`, or ``"auto"``.

    Raises:
        CaptureError: If the model cannot be exported, or is in training mode.
        SignatureError: If ``output`` names nothing.
    """
    with silence_torch():
        exported, fixed = export_open(model, args, kwargs, dynamic_shapes)
        exported = decompose_exported(model, exported)
    signature = exported.graph_signature
    check_state(model, signature.output_specs)
    module = fx.GraphModule(exported.graph_module, exported.graph)
    by_name = {node.name: node for node in module.graph.nodes}
    given = {by_name[s.arg.name]: s for s in signature.input_specs if s.kind is not InputKind.TOKEN}
    inputs = tuple(node for node, s in given.items() if s.kind is InputKind.USER_INPUT)
    for node in inputs:
        node.meta["user_input"] = True
    specs = {node: s for node, s in given.items() if node not in inputs}
    bound = bind_constants(model, exported, specs)
    constants, names = {n: t for n, (_, t) in bound.items()}, {n: name for n, (name, _) in bound.items()}
    parameters = {
        n for n, s in specs.items() if s.kind is InputKind.PARAMETER or isinstance(constants[n], nn.Parameter)
    }
    for node in parameters:
        node.meta["parameter"] = True
    mark_module_outputs(module.graph)
    outputs = drop_effects(module.graph, signature.output_specs)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    explained, added = append_explained(module.graph, outputs, out_spec, output, objective)
    module.graph.output_node().args = ((*outputs, explained),)
    return Captured(
        module=module,
        constants=constants | added,
        names=names | {node: node.name for node in added},
        parameters=frozenset(parameters),
        inputs=inputs,
        in_spec=in_spec,
        out_spec=out_spec,
        guards=Guards(explained.meta["val"].fake_mode.shape_env, exported.range_constraints),
        fixed=tuple(fixed),
    )


def check_state(model: nn.Module | ExportedProgram, outputs: Sequence[OutputSpec]) -> None:
    """Refuse a model that changes its buffers or inputs while it runs.

    Raises:
        CaptureError: If one of the outputs is such a change.
    """
    if {OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION} & {s.kind for s in outputs}:
        raise CaptureError(
            f"{type(model).__name__} changes its buffers or inputs while it runs, so that a second call would differ. "
            "Explain a version of it that returns the new state instead."
        )


def bind_constants(
    model: nn.Module | ExportedProgram, exported: ExportedProgram, specs: Mapping[fx.Node, InputSpec]
) -> dict[fx.Node, tuple[str, Any]]:
    """Return the name and the value of every parameter, buffer and other constant, by placeholder."""
    own = {describe_memory(t): (name, t) for name, t in list_tensors(model)}
    bound: dict[fx.Node, tuple[str, Any]] = {}
    for node, spec in specs.items():
        assert spec.target is not None
        stored = exported.state_dict if spec.target in exported.state_dict else exported.constants
        bound[node] = spec.target, stored[spec.target]
        if spec.kind is InputKind.CONSTANT_TENSOR:  # of the model's own: a function in it reaches past its double
            bound[node] = own.get(describe_memory(stored[spec.target]), bound[node])
    return bound


def decompose_exported(model: nn.Module | ExportedProgram, exported: ExportedProgram) -> ExportedProgram:
    """Decompose the program to core ATen, with an op that lasts wherever its author stopped a gradient."""
    for graph in list_graphs(exported.graph_module):
        check_graph(graph)
        check_random_masks(graph)
    keep_stops(exported.graph_module)
    for graph in list_graphs(exported.graph_module):
        pass_through_dropout(graph)
    name_outputs(exported)
    with warnings.catch_warnings():
        # torch 2.13 copies tree specs of a class that it deprecated itself
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        try:
            return decompose(exported, make_decompositions())
        except Exception as error:
            raise CaptureError(explain_capture_failure(model, error)) from error


def list_graphs(module: fx.GraphModule) -> list[fx.Graph]:
    """List the graph of a module and those of its regions."""
    return [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]


def name_outputs(exported: ExportedProgram) -> None:
    """Tell the signature of an exported program which nodes its outputs are now."""
    outputs: Any = exported.graph.output_node().args[0]
    for spec, node in zip(exported.graph_signature.output_specs, outputs, strict=True):
        if isinstance(node, fx.Node):
            spec.arg.name = node.name


def list_tensors(model: nn.Module | ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers of a module."""
    if isinstance(model, nn.Module):
        yield from model.named_buffers()
        yield from model.named_parameters()


def describe_memory(tensor: Any) -> tuple[Any, ...]:
    """Return the memory that a tensor shows, and how."""
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        return (id(tensor),)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def check_random_masks(graph: fx.Graph) -> None:
    """Refuse dropout and other random masks, which decomposition would hide in comparisons with random numbers.

    Raises:
        CaptureError: Naming the first.
    """
    for node in graph.nodes:
        name = str(node.target)
        probability, training = (*node.args[1:3], None, None)[:2]
        if "bernoulli" in name or (name.endswith("dropout.default") and probability and training):
            raise CaptureError(
                f"a random mask is drawn: {describe(node)}\n"
                "Another call would differ. Call model.eval(), or use the mean."
            )


def pass_through_dropout(graph: fx.Graph) -> None:
    """Say of dropout that drops nothing that it returns its input: torch copies it, or since 2.14 leaves no node."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default):
        node.target, node.args, node.kwargs = torch.ops.aten.alias.default, node.args[:1], {}
    graph.owning_module.recompile()  # type: ignore[union-attr]


def drop_effects(graph: fx.Graph, specs: Sequence[OutputSpec]) -> tuple[Any, ...]:
    """Drop checks that export orders by tokens, such as those of linear algebra; return the user's outputs."""
    end = graph.output_node()
    outputs = [n for n, s in zip(end.args[0], specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]  # type: ignore[arg-type]
    end.args = (tuple(outputs),)
    for node in reversed(graph.nodes):
        effect = node.target is torch.ops.higher_order.with_effects or node.name.startswith("token")
        if not node.users and (effect or node.target is operator.getitem):
            graph.erase_node(node)
    return tuple(outputs)


def mark_module_outputs(graph: fx.Graph) -> None:
    """Write into each node's ``meta["reads"]`` the module calls whose output it is."""
    last: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and is_floating(node) and isinstance(node.meta["val"], Tensor):
            for path in find_modules(node):
                if any(path not in find_modules(user) for user in node.users):
                    last[path] = node
    for path, node in last.items():
        if path:
            node.meta.setdefault("reads", []).append(path)
