"""Relevance that starts or is masked inside the model: what a call adds to the form of its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError, TargetError
from fxlrp.ir.numerics import widen_dtype
from fxlrp.ir.program import find_device
from fxlrp.ir.targets import Form, Target, split_target
from fxlrp.plan.named_places import find_passing_point
from fxlrp.plan.read_points import Point
from fxlrp.session.signature import CapturedSignature


def lower_conditions(
    signature: CapturedSignature,
    sizes: Mapping[Any, int],
    target: Target,
    inject: Mapping[str, Tensor] | None,
    keep: Mapping[str, Tensor] | None,
) -> tuple[Form, list[Tensor], list[Tensor]]:
    """Return the form of a target or of coefficients to start from, its tensors, and masks.

    Raises:
        TargetError: If there is a target besides ``inject``, or it does not fit the output.
        SignatureError: If a name or a tensor does not fit the graph.
    """
    if inject is not None and not inject:
        raise SignatureError("inject is empty: give a coefficient by the name of a node")
    if inject is None:
        form, given = split_target(target, signature.shape(sizes))
        numbers = [tensor.to(find_device(signature.plan.captured.explained)) for tensor in given]
    elif target is None:
        form, numbers = Form((), (), starts=tuple(inject)), fit_to_nodes(signature, sizes, inject, "inject")
    else:
        raise TargetError("give a target, at the output, or inject=, where relevance starts in its place; not both")
    masks = keep or {}
    return replace(form, kept=tuple(masks)), numbers, fit_to_nodes(signature, sizes, masks, "keep")


def lower_targets(
    signature: CapturedSignature, sizes: Mapping[Any, int], targets: Any, chunk: Any, keep: Mapping[str, Tensor] | None
) -> tuple[Form, list[Tensor], list[Tensor]]:
    """Return the form of many targets, their tensors with a leading dimension for them, and masks that serve them all.

    Raises:
        TargetError: If there is none, they are not of one form, or one does not fit the output.
        SignatureError: If a mask does not fit the graph.
    """
    listed = isinstance(targets, Sequence) or getattr(targets, "ndim", 0) > 0  # a tensor, or an array of numpy
    if not listed or isinstance(targets, str) or not len(targets):
        raise TargetError(f"targets={targets!r} is no list of targets: give one or more of what target= takes")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise TargetError(f"chunk={chunk!r} is no number of targets: give 1 or more")
    lowered = [split_target(target, signature.shape(sizes)) for target in targets]
    form = lowered[0][0]
    for i, (other, _) in enumerate(lowered):
        if other != form:
            raise TargetError(
                f"targets[{i}] is of another kind than targets[0]: give only classes, only indices with None in the "
                "same places, only contrasts, or only seeds; make one call for each kind"
            )
    device = find_device(signature.plan.captured.explained)
    stacks = [torch.stack(tensors).to(device) for tensors in zip(*(t for _, t in lowered), strict=True)]
    masks = keep or {}
    return replace(form, kept=tuple(masks)), stacks, fit_to_nodes(signature, sizes, masks, "keep")


def fit_to_nodes(
    signature: CapturedSignature, sizes: Mapping[Any, int], tensors: Mapping[str, Tensor], option: str
) -> list[Tensor]:
    """Expand tensors to the nodes that they are for, whose device and type they take.

    Raises:
        SignatureError: If a name or a tensor does not fit the graph.
    """
    found = []
    points = [find_passing_point(signature.plan.captured, name, signature.plan.twins, option) for name in tensors]
    if len(set(points)) < len(points):
        raise SignatureError(f"{option}: two names are of one node, {', '.join(tensors)}")
    for point, (name, given) in zip(points, tensors.items(), strict=True):
        node = point.node
        shape, dtype = signature.shape(sizes, node), widen_dtype(node.meta["val"].dtype)
        tensor = torch.as_tensor(given)
        if not tensor.isfinite().all():
            raise SignatureError(f"{option}={name!r} has entries that are not finite")
        try:
            found.append(tensor.to(device=find_device(node), dtype=dtype).expand(shape).contiguous())
        except RuntimeError:
            raise SignatureError(
                f"{option}={name!r} has shape {tuple(tensor.shape)}, which does not expand to the node's, {shape}"
            ) from None
        if option == "inject" and (channels := find_lost_channels(point, found[-1], signature.plan.captured.constants)):
            raise SignatureError(
                f"inject={name!r}: relevance would start in channels {', '.join(map(str, channels))}, which the norm "
                f"{point.norms[0].name} behind it multiplies by 0; in the merged op there are no weights to pass it on"
            )
    return found


def find_lost_channels(point: Point, c: Tensor, constants: Mapping[Any, Any]) -> list[int]:
    """Find channels that something starts in and that norms behind the point multiply by 0."""
    if not point.norms:
        return []
    with torch.no_grad():
        started = (point.find_silent(constants) & (c != 0)).transpose(0, 1).flatten(1).any(1)
    return [int(i) for i in started.nonzero()]
