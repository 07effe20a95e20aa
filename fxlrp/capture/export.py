"""From a model to the program that torch.export makes of it, or the reason why there is none."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import tree_leaves, tree_map, tree_map_only
from fxlrp.capture.double import double_model
from fxlrp.capture.open_sizes import AUTO, choose_open_sizes, find_fixed_sizes, watch_specialisations
from fxlrp.capture.small_sizes import fix_small_declared, fix_small_exported
from fxlrp.capture.unsupported import check_inputs, check_model
from fxlrp.capture.witness import watch_gradients
from fxlrp.errors import CaptureError
from fxlrp.ir.guards import restore_guards
from fxlrp.ir.program import FixedSize
from fxlrp.ir.user_lines import find_raising_line

REMEDIES = {
    "data-dependent": "The model branches on the values of a tensor. Use torch.where instead of `if`, "
    "or pass the input that avoids the branch (for transformers: an explicit attention_mask).",
    "Constraints violated": "The model does not work for every size in dynamic_shapes; fix the named dimension.",
}


def export_open(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> tuple[ExportedProgram, list[FixedSize]]:
    """Export a module, or take an exported program as it is; say which sizes could not be left open automatically."""
    if isinstance(model, ExportedProgram):
        model = copy_exported(model)
        restore_guards(model)
        shapes = fix_small_exported(model, args, kwargs)
        return (model if shapes is None else export_module(model.module(), args, kwargs, shapes)), []
    check_module(model)
    check_inputs(args, dict(kwargs))
    # one tensor given twice would be one input of the graph, and a view would be guarded by the tensor behind it
    args, kwargs = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs)))
    model = double_model(model)
    if dynamic_shapes != AUTO:
        return export_module(model, args, kwargs, fix_small_declared(model, args, kwargs, dynamic_shapes)), []
    shared, own = (choose_open_sizes(model, args, kwargs, shared) for shared in (True, False))
    if shared != own:
        with contextlib.suppress(CaptureError):  # the model fixes a size that was to be shared
            return export_watched(model, args, kwargs, shared)
    return export_watched(model, args, kwargs, own)


def copy_exported(exported: ExportedProgram) -> ExportedProgram:
    """Return the same program with a graph and a signature of its own; tensors are shared."""
    new = copy.copy(exported)
    memo: dict[int, Any] = {id(t): t for t in tree_leaves((exported.state_dict, exported.constants))}
    new._graph_module = copy.deepcopy(exported.graph_module, memo)
    new._graph_signature = copy.deepcopy(exported.graph_signature)
    for old, node in zip(exported.graph.nodes, new.graph.nodes, strict=True):
        node.name = old.name  # the signature's; a copy of a graph avoids names of Python's own, such as input
    return new


def check_module(model: object) -> None:
    """Refuse what cannot be exported.

    Raises:
        CaptureError: If it is no module, is in training mode, or holds tensors that are not supported.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"a model is an nn.Module or an ExportedProgram, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(f"{type(model).__name__} is a module of TorchScript; explain the module that it was made of")
    if model.training:
        raise CaptureError(
            f"{type(model).__name__} is in training mode, where dropout and batch norm make the output random or "
            "dependent on the batch. Call model.eval() first."
        )
    check_model(model)


def export_watched(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> tuple[ExportedProgram, list[FixedSize]]:
    """Export, and report which sizes were fixed."""
    try:
        with watch_specialisations() as fixed:
            return export_module(model, args, kwargs, dynamic_shapes), fixed
    except CaptureError as error:
        if not isinstance(error.__cause__, KeyError):
            raise
    # torch 2.13 fails to report a size that depends on data once its value is known; without reports it goes on
    exported = export_module(model, args, kwargs, dynamic_shapes)
    return exported, find_fixed_sizes(exported)


UNKNOWN_OUTPUT = ("in output, which is not a known type", "unhashable type")
"""What torch says of an output that a graph cannot return; the second is of torch 2.11."""


def export_module(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """Return what torch.export makes of a module; parts of its output that a graph cannot return become None.

    Raises:
        CaptureError: With the line of the model where it failed.
    """
    made = functools.partial(
        torch.export.export, args=args, kwargs=dict(kwargs), dynamic_shapes=dynamic_shapes, strict=False
    )
    try:
        # gradients on, so that the model's own no-grad regions show
        with torch.enable_grad(), warnings.catch_warnings(), watch_gradients():
            # what a model writes into itself is written into its double
            warnings.filterwarnings("ignore", ".*assigned during export", UserWarning)
            try:
                return made(model)
            except (RuntimeError, TypeError) as error:
                if not any(text in str(error) for text in UNKNOWN_OUTPUT):
                    raise
            return made(drop_unknown_outputs(model))
    except Exception as error:
        raise CaptureError(explain_capture_failure(model, error)) from error


def drop_unknown_outputs(model: nn.Module) -> nn.Module:
    """Return the model with None for parts of its output that a graph cannot return, such as a key-value cache.

    A dataclass that torch has not been told of becomes a dictionary. The result shares everything with the model,
    which is not changed.
    """
    forward = model.forward

    @functools.wraps(forward)
    def known(*args: Any, **kwargs: Any) -> Any:
        return drop_unknown_parts(forward(*args, **kwargs))

    shared = copy.copy(model)
    shared.forward = known
    return shared


def drop_unknown_parts(output: Any) -> Any:
    """Put None for what a graph cannot return, and dictionaries for dataclasses unknown to torch."""

    def part(x: Any) -> Any:
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return {f.name: drop_unknown_parts(getattr(x, f.name)) for f in dataclasses.fields(x)}
        return x if isinstance(x, (Tensor, int, float, str)) else None

    return tree_map(part, output)


def explain_capture_failure(model: nn.Module | ExportedProgram, error: Exception) -> str:
    """Explain what failed, in which of the user's lines, and what to do."""
    line = find_raising_line(error)
    place = f"  at {line}\n" if line else ""
    what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    known = (remedy for key, remedy in REMEDIES.items() if key in type(error).__name__ or key in str(error))
    remedy = next(known, "First make the model run on these inputs by itself, then under torch.export.export.")
    return f"{type(model).__name__} could not be captured\n  {what}\n{place}{remedy}"
