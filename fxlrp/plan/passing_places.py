"""Places where a call starts or masks relevance, by the names and views that `read=` knows too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, fx

from fxlrp.errors import SignatureError
from fxlrp.ir.program import Captured
from fxlrp.plan.module_inputs import find_module_input, note_hidden_norm
from fxlrp.plan.named_places import Place, apply_views
from fxlrp.plan.read_points import Point


def find_passing_point(
    captured: Captured, points: Mapping[str, Point], name: str, twins: Collection[fx.Node], option: str
) -> Point:
    """Find the point of that name, which passes relevance on.

    Args:
        captured: The canonical model.
        points: All of its points, from `name_points`.
        name: The name.
        twins: Nodes that pass relevance on.
        option: What an error calls the name.

    Raises:
        SignatureError: If there is none.
    """
    point = points.get(name)
    if point is None or point.node not in twins:
        known = [other for other, one in points.items() if one.node in twins]
        close = ", ".join(get_close_matches(name, known, 5, 0.3))
        raise SignatureError(
            f"{option}={name!r} is no module output and no graph node that passes relevance on. "
            f"Close to it: {close or 'nothing'}{note_hidden_norm(captured.graph, name)}"
        )
    return point


def find_passing_place(
    captured: Captured, points: Mapping[str, Point], name: str, twins: Collection[fx.Node], option: str
) -> Place:
    """Find the place of a name with views behind colons, which passes relevance on; arguments as above.

    Raises:
        SignatureError: If there is none, or a view does not fit.
    """
    path, *views = name.split(":")
    inside, label = views[:1] == ["input"], f"{option}={name!r}"
    point = (
        find_module_input(captured.graph, path, twins, label)
        if inside
        else find_passing_point(captured, points, path, twins, option)
    )
    place = apply_views(point, views[inside:], label)
    if place.coefficient:
        raise SignatureError(f"{label}: what is given is a coefficient or a mask already; leave :coefficient out")
    if place.node not in twins:
        raise SignatureError(f"{label}: {place.node.name} passes no relevance on")
    return place


def pull_back(place: Place, given: Tensor, shape: Sequence[int]) -> Tensor:
    """Expand a tensor to what a place shows, and bring it back to the value behind the views.

    Entries that a view leaves out get 0, and the terms of what it sums get the number of their sum each.

    Args:
        place: The place.
        given: Shaped as what the place shows, or expanding to it.
        shape: Of the value of the place's node.

    Raises:
        RuntimeError: If it does not expand.
    """

    def show(x: Tensor) -> Tensor:
        for view in place.views:
            x = view(x)
        return x

    if not place.views:
        return given.expand(tuple(shape))
    shown, adjoint, *_ = torch.func.vjp(show, given.new_zeros(tuple(shape)))
    (found,) = adjoint(given.expand(shown.shape))
    assert isinstance(found, Tensor)
    return found
