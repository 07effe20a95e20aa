"""Tensors that are no plain arrays: sparse, quantised and nested ones are refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp._torch import keystr, tree_leaves_with_path
from fxlrp.errors import CaptureError, SignatureError
from fxlrp.ir.provenance import describe


def find_remedy(leaf: object) -> str:
    """Tell what a tensor is and what to do about it; empty for a plain one."""
    if not isinstance(leaf, Tensor):
        return ""
    if leaf.is_nested:
        return "is a nested tensor; pad it first, torch.nested.to_padded_tensor(x, 0.0), and give the model a mask"
    if leaf.layout is not torch.strided:
        kind = str(leaf.layout).removeprefix("torch.").replace("_", " ")
        return f"is a tensor of {kind} layout; make it dense first, x.to_dense()"
    if leaf.is_quantized:
        return f"is quantised ({leaf.dtype}); explain the floating point version, x.dequantize()"
    return ""


def check_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse such inputs.

    Raises:
        SignatureError: Naming the first.
    """
    for given, name in ((args, "args"), (kwargs, "kwargs")):
        for path, leaf in tree_leaves_with_path(given):
            if what := find_remedy(leaf):
                raise SignatureError(f"input {name}{keystr(path)} {what}")


def check_model(model: nn.Module) -> None:
    """Refuse such parameters and buffers.

    Raises:
        CaptureError: Naming the first.
    """
    named: Iterable[tuple[str, Tensor]] = (*model.named_parameters(), *model.named_buffers())
    for name, tensor in named:
        if what := find_remedy(tensor):
            raise CaptureError(f"{type(model).__name__}.{name} {what}")
    packed = (m for m in model.modules() if type(m).__module__.startswith("torch.ao.nn.quantized"))
    if (module := next(packed, None)) is not None:
        raise CaptureError(
            f"{type(model).__name__} contains {type(module).__module__}.{type(module).__name__}, a quantised module; "
            "explain the model before it was quantised"
        )


def check_graph(graph: fx.Graph) -> None:
    """Refuse ops that make or take such tensors.

    Raises:
        CaptureError: Naming the first.
    """
    for node in graph.nodes:
        val = node.meta.get("val")
        for part in val if isinstance(val, (tuple, list)) else (val,):
            if what := find_remedy(part):
                raise CaptureError(f"the value of {describe(node)} {what}")
