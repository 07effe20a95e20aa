"""What a call asks: targets, relevance that starts inside the model, and masks on its way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError, TargetError
from fxlrp.ir.numerics import widen_dtype
from fxlrp.ir.program import find_device
from fxlrp.ir.targets import Form, Target, split_target
from fxlrp.plan.named_places import Place
from fxlrp.plan.passing_places import find_passing_place, pull_back
from fxlrp.plan.read_points import Point
from fxlrp.session.signature import CapturedSignature

Condition = Mapping[str, Any]
"""What goes on at some places: indices of channels, or a mask, by the name of the place."""


def lower_target(
    signature: CapturedSignature, sizes: Mapping[Any, int], target: Target, inject: Mapping[str, Tensor] | None
) -> tuple[Form, list[Tensor]]:
    """Return the form of a target or of coefficients to start from, and its tensors.

    Raises:
        TargetError: If there is a target besides ``inject``, or it does not fit the output.
        SignatureError: If a name or a tensor does not fit the graph.
    """
    if inject is None:
        form, given = split_target(target, signature.shape(sizes))
        return form, [tensor.to(find_device(signature.plan.captured.explained)) for tensor in given]
    if not inject:
        raise SignatureError("inject is empty: give a coefficient by the name of a node")
    if target is not None:
        raise TargetError("give a target, at the output, or inject=, where relevance starts in its place; not both")
    started = fit_to_nodes(signature, sizes, inject, "inject")
    for name, (point, c) in zip(inject, started.items(), strict=True):
        if channels := find_lost_channels(point, c, signature.plan.captured.constants):
            raise SignatureError(
                f"inject={name!r}: relevance would start in channels {', '.join(map(str, channels))}, which the norm "
                f"{point.norms[0].name} behind it multiplies by 0; in the merged op there are no weights to pass it on"
            )
    return Form((), (), starts=name_points(signature, started)), list(started.values())


def lower_targets(signature: CapturedSignature, sizes: Mapping[Any, int], targets: Any) -> tuple[Form, list[Tensor]]:
    """Return the form of many targets, and their tensors with a leading dimension for them.

    Raises:
        TargetError: If there is none, they are not of one form, or one does not fit the output.
    """
    listed = isinstance(targets, Sequence) or getattr(targets, "ndim", 0) > 0  # a tensor, or an array of numpy
    if not listed or isinstance(targets, str) or not len(targets):
        raise TargetError(f"targets={targets!r} is no list of targets: give one or more of what target= takes")
    lowered = [split_target(target, signature.shape(sizes)) for target in targets]
    form = lowered[0][0]
    for i, (other, _) in enumerate(lowered):
        if other != form:
            raise TargetError(
                f"targets[{i}] is of another kind than targets[0]: give only classes, only indices with None in the "
                "same places, only contrasts, or only seeds; make one call for each kind"
            )
    device = find_device(signature.plan.captured.explained)
    return form, [torch.stack(tensors).to(device) for tensors in zip(*(t for _, t in lowered), strict=True)]


def check_chunk(chunk: Any) -> None:
    """Refuse what is no number of targets.

    Raises:
        TargetError: If it is none.
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise TargetError(f"chunk={chunk!r} is no number of targets: give 1 or more")


def lower_masks(
    signature: CapturedSignature,
    sizes: Mapping[Any, int],
    keep: Mapping[str, Tensor] | None,
    conditions: Sequence[Condition] | None,
) -> tuple[tuple[str, ...], list[Tensor], int]:
    """Return names of points, the mask of each, and how many of the last have a leading dimension for conditions.

    Raises:
        SignatureError: If a name, an index or a tensor does not fit the graph.
    """
    masks = fit_to_nodes(signature, sizes, keep or {}, "keep")
    if conditions is None:
        return name_points(signature, masks), list(masks.values()), 0
    listed: Any = conditions
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(given, Mapping) for given in listed):
        raise SignatureError("conditions= is a list of dictionaries, each with indices of channels by names of places")
    fitted = [
        fit_to_nodes(signature, sizes, dict(mask_places(signature, given)), f"conditions[{i}]")
        for i, given in enumerate(conditions)
    ]
    places = dict.fromkeys(point for given in fitted for point in given)
    if twice := [point for point in places if point in masks]:
        raise SignatureError(f"keep= and conditions= are both of {', '.join(name_points(signature, twice))}")
    stacks = []
    for place in places:
        known = next(given[place] for given in fitted if place in given)
        stacks.append(torch.stack([given.get(place, torch.ones_like(known)) for given in fitted]))
    return name_points(signature, [*masks, *places]), [*masks.values(), *stacks], len(stacks)


def mask_places(signature: CapturedSignature, condition: Condition) -> list[tuple[str, Any]]:
    """Write indices as names with a view of these entries alone, whose mask is 1; leave masks as they are.

    Raises:
        SignatureError: If it does not say of which dimension indices are.
    """
    found: list[tuple[str, Any]] = []
    for name, given in condition.items():
        indices = [given] if isinstance(given, int) else given
        if isinstance(indices, (list, tuple, range)) and all(type(i) is int for i in indices):
            found.append((f"{name_dimension(signature, name)}={','.join(map(str, indices))}", 1.0))
        else:
            found.append((name, given))
    return found


def name_dimension(signature: CapturedSignature, name: str) -> str:
    """Return a name with the view that its indices are of: what it ends with, or channels.

    Raises:
        SignatureError: If a value of three dimensions is named alone: they may be its channels or its features.
    """
    if name.endswith((":channels", ":neurons")):
        return name
    place = find_passing_place(signature.plan.captured, signature.points, name, signature.plan.twins, "conditions")
    if place.views or place.node.meta["val"].ndim == 3:
        raise SignatureError(
            f"conditions: say what the indices of {name!r} are of, '{name}:channels' (dimension 1) or "
            f"'{name}:neurons' (the last), or give a mask"
        )
    return f"{name}:channels"


def fit_to_nodes(
    signature: CapturedSignature, sizes: Mapping[Any, int], tensors: Mapping[str, Tensor], option: str
) -> dict[Point, Tensor]:
    """Expand tensors to the nodes that they are for, whose device and type they take.

    Raises:
        SignatureError: If a name or a tensor does not fit the graph.
    """
    found: dict[Point, Tensor] = {}
    for name, given in tensors.items():
        place = find_passing_place(signature.plan.captured, signature.points, name, signature.plan.twins, option)
        if place.point in found:
            raise SignatureError(f"{option}: two names are of one node, {', '.join(tensors)}")
        found[place.point] = fit_to_place(signature, sizes, place, given, f"{option}={name!r}")
    return found


def fit_to_place(
    signature: CapturedSignature, sizes: Mapping[Any, int], place: Place, given: Any, label: str
) -> Tensor:
    """Expand a tensor to the value of a place.

    Raises:
        SignatureError: If it does not fit.
    """
    node = place.node
    shape, dtype = signature.shape(sizes, node), widen_dtype(node.meta["val"].dtype)
    tensor = torch.as_tensor(given)
    if not tensor.isfinite().all():
        raise SignatureError(f"{label} has entries that are not finite")
    try:
        return pull_back(place, tensor.to(device=find_device(node), dtype=dtype), shape).contiguous()
    except RuntimeError:
        shown = " seen through its views" if place.views else ""
        raise SignatureError(
            f"{label} has shape {tuple(tensor.shape)}, which does not expand to the node's, {shape}{shown}"
        ) from None


def name_points(signature: CapturedSignature, points: Iterable[Point]) -> tuple[str, ...]:
    """Return the first name of each point, by which programs know them."""
    return tuple(next(name for name, known in signature.points.items() if known == point) for point in points)


def find_lost_channels(point: Point, c: Tensor, constants: Mapping[Any, Any]) -> list[int]:
    """Find channels that something starts in and that norms behind the point multiply by 0."""
    if not point.norms:
        return []
    with torch.no_grad():
        started = (point.find_silent(constants) & (c != 0)).transpose(0, 1).flatten(1).any(1)
    return [int(i) for i in started.nonzero()]
