"""Relevance that starts or is masked inside the model: what a call adds to the form of its target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError, TargetError
from fxlrp.numerics import opmath
from fxlrp.places import passing
from fxlrp.signatures import Entry
from fxlrp.targets import Form, Target, lower


def conditioned(
    entry: Entry,
    sizes: Mapping[Any, int],
    target: Target,
    inject: Mapping[str, Tensor] | None,
    keep: Mapping[str, Tensor] | None,
) -> tuple[Form, list[Tensor]]:
    """Form and tensors of a target, of coefficients to start from, and of masks.

    Raises:
        TargetError: If there is a target besides ``inject``, or it does not fit the output.
        SignatureError: If a name or a tensor does not fit the graph.
    """
    if inject is not None and not inject:
        raise SignatureError("inject is empty: give a coefficient by the name of a node")
    if inject is None:
        form, numbers = lower(target, entry.shape(sizes))
    elif target is None:
        form, numbers = Form((), (), starts=tuple(inject)), fitted(entry, sizes, inject, "inject")
    else:
        raise TargetError("give a target, at the output, or inject=, where relevance starts in its place; not both")
    masks = keep or {}
    return replace(form, kept=tuple(masks)), [*numbers, *fitted(entry, sizes, masks, "keep")]


def fitted(entry: Entry, sizes: Mapping[Any, int], tensors: Mapping[str, Tensor], option: str) -> tuple[Tensor, ...]:
    """The tensors, expanded to the nodes that they are for."""
    found = []
    nodes = [passing(entry.plan.captured, name, entry.plan.twins, option) for name in tensors]
    if len(set(nodes)) < len(nodes):
        raise SignatureError(f"{option}: two names are of one node, {', '.join(tensors)}")
    for node, (name, given) in zip(nodes, tensors.items(), strict=True):
        shape, dtype = entry.shape(sizes, node), opmath(node.meta["val"].dtype)
        tensor = torch.as_tensor(given)
        if not tensor.isfinite().all():
            raise SignatureError(f"{option}={name!r} has entries that are not finite")
        try:
            found.append(tensor.to(device=node.meta["val"].device, dtype=dtype).expand(shape).contiguous())
        except RuntimeError:
            raise SignatureError(
                f"{option}={name!r} has shape {tuple(tensor.shape)}, which does not expand to the node's, {shape}"
            ) from None
    return tuple(found)
