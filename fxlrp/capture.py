"""From a model and example inputs to a functional ATen graph."""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec

from fxlrp._torch import tree_map, tree_map_only
from fxlrp.decompositions import decompositions
from fxlrp.errors import CaptureError
from fxlrp.hold import HOLD
from fxlrp.layouts import check_graph, check_inputs, check_model
from fxlrp.outputs import Objective, Output, explain
from fxlrp.program import Captured, floating
from fxlrp.provenance import describe, modules
from fxlrp.sizes import AUTO, Fixed, automatic, closed, specialised, with_batch_of_two

aten = torch.ops.aten

REMEDIES = {
    "data-dependent": "The model branches on the values of a tensor. Use torch.where instead of `if`, "
    "or pass the input that avoids the branch (for transformers: an explicit attention_mask).",
    "Constraints violated": "The model does not work for every size in dynamic_shapes; fix the named dimension.",
}


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
    exported, fixed = open_export(model, args, kwargs, dynamic_shapes)
    check_graph(exported.graph)
    check_masks(exported.graph)
    hold_detached(exported.graph_module)
    with warnings.catch_warnings():
        # torch 2.13 copies tree specs of a class that it deprecated itself
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        try:
            exported = exported.run_decompositions(dict(decompositions()))
        except Exception as error:
            raise CaptureError(explanation(model, error)) from error
    spec = exported.graph_signature
    unsupported = {OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION} & {s.kind for s in spec.output_specs}
    if unsupported:
        raise CaptureError(
            f"{type(model).__name__} changes its buffers or inputs while it runs, so that a second call would differ. "
            "Explain a version of it that returns the new state instead."
        )
    module = fx.GraphModule(exported.graph_module, exported.graph)
    by_name = {node.name: node for node in module.graph.nodes}
    constants, names, parameters, inputs = {}, {}, set(), []
    for s in spec.input_specs:
        node = by_name[s.arg.name]
        if s.kind is InputKind.TOKEN:
            continue
        if s.kind is InputKind.USER_INPUT:
            node.meta["user_input"] = True
            inputs.append(node)
            continue
        assert s.target is not None
        stored = exported.state_dict if s.target in exported.state_dict else exported.constants
        constants[node], names[node] = stored[s.target], s.target
        if s.kind is InputKind.PARAMETER:
            parameters.add(node)
    mark_module_outputs(module.graph)
    outputs = drop_effects(module.graph, spec.output_specs)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    explained, added = explain(module.graph, outputs, out_spec, output, objective)
    module.graph.output_node().args = ((*outputs, explained),)
    return Captured(
        module=module,
        constants=constants | added,
        names=names | {node: node.name for node in added},
        parameters=frozenset(parameters),
        inputs=tuple(inputs),
        in_spec=in_spec,
        out_spec=out_spec,
        ranges=exported.range_constraints,
        fixed=tuple(fixed),
    )


def open_export(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> tuple[ExportedProgram, list[Fixed]]:
    """Export a module and, if sizes are to be left open automatically, say which could not be."""
    if dynamic_shapes != AUTO:
        return export(model, args, kwargs, dynamic_shapes), []
    try:
        with specialised() as fixed:
            return export(model, args, kwargs, dynamic_shapes), fixed
    except CaptureError as error:
        if not isinstance(error.__cause__, KeyError):
            raise
    # torch 2.13 fails to report a size that depends on data once its value is known; without reports it goes on
    exported = export(model, args, kwargs, dynamic_shapes)
    return exported, closed(exported)


def export(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """Export a module; an exported program is taken as it is."""
    if isinstance(model, ExportedProgram):
        return model
    if not isinstance(model, nn.Module):
        raise CaptureError(f"a model is an nn.Module or an ExportedProgram, not {type(model).__name__}")
    if model.training:
        raise CaptureError(
            f"{type(model).__name__} is in training mode, where dropout and batch norm make the output random or "
            "dependent on the batch. Call model.eval() first."
        )
    check_model(model)
    check_inputs(args, dict(kwargs))
    # one tensor given twice would be one input of the graph, and a view would be guarded by the tensor behind it
    args, kwargs = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs)))
    if isinstance(dynamic_shapes, str):
        args, kwargs = with_batch_of_two((args, kwargs))
        dynamic_shapes = automatic(model, args, kwargs)
    try:
        # gradients on, so that the model's own no-grad regions show
        with torch.enable_grad(), warnings.catch_warnings():
            # recurrent modules keep a list of their own weights, which export takes for new attributes
            warnings.filterwarnings("ignore", ".*_flat_weights.*were assigned during export", UserWarning)
            exported = functools.partial(torch.export.export, args=args, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
            try:
                return exported(model, strict=False)
            except RuntimeError as error:
                if "in output, which is not a known type" not in str(error):
                    raise
            return exported(known_outputs(model), strict=False)
    except Exception as error:
        raise CaptureError(explanation(model, error)) from error


def known_outputs(model: nn.Module) -> nn.Module:
    """The model with None for each part of its output that a graph cannot return, such as a key-value cache.

    A dataclass that torch has not been told of becomes a dictionary. The result shares everything with the model,
    which is not changed.
    """
    forward = model.forward

    def part(x: Any) -> Any:
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return {f.name: tree_map(part, getattr(x, f.name)) for f in dataclasses.fields(x)}
        return x if isinstance(x, (Tensor, int, float, str)) else None

    @functools.wraps(forward)
    def known(*args: Any, **kwargs: Any) -> Any:
        return tree_map(part, forward(*args, **kwargs))

    shared = copy.copy(model)
    shared.forward = known
    return shared


def explanation(model: nn.Module | ExportedProgram, error: Exception) -> str:
    """What failed, the user's source line, and what to do."""
    skipped = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<string>")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(skipped)]
    place = f"{frames[-1].filename}:{frames[-1].lineno}  {frames[-1].line}" if frames else "unknown source"
    what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    known = (remedy for key, remedy in REMEDIES.items() if key in type(error).__name__ or key in str(error))
    remedy = next(known, "First make the model run on these inputs by itself, then under torch.export.export.")
    return f"{type(model).__name__} could not be captured\n  {what}\n  at {place}\n{remedy}"


def check_masks(graph: fx.Graph) -> None:
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


def hold_detached(module: fx.GraphModule) -> None:
    """Replace ``detach`` and no-grad regions, which decomposition would drop, by an op that lasts.

    The author of the model stopped the gradient there, and relevance stops with it.
    """
    for node in module.graph.nodes:
        if node.target is aten.detach.default:
            node.target = HOLD
        elif node.target is torch.ops.higher_order.wrap_with_set_grad_enabled and node.args[0] is False:
            region = getattr(module, node.args[1].target)
            hold_outputs(region.graph)
            region.recompile()
    module.recompile()


def hold_outputs(graph: fx.Graph) -> None:
    """Hold every floating output of a no-grad region."""
    end = graph.output_node()
    for value in end.all_input_nodes:
        if floating(value):
            with graph.inserting_before(end):
                held = graph.call_function(HOLD, (value,))
            held.meta.update(value.meta)
            end.replace_input_with(value, held)


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
        if node.op == "call_function" and floating(node) and isinstance(node.meta["val"], Tensor):
            for path in modules(node):
                if any(path not in modules(user) for user in node.users):
                    last[path] = node
    for path, node in last.items():
        if path:
            node.meta.setdefault("reads", []).append(path)
