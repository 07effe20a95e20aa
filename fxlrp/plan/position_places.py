"""Relevance of positions, read where they enter the model."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.errors import SignatureError
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env, Twin, build_site
from fxlrp.ir.program import Captured
from fxlrp.ir.provenance import describe, module_path
from fxlrp.passes.manager import is_same_shape, shape_of
from fxlrp.plan.read_points import Point
from fxlrp.rules.published.positional import differs_by_position, find_held

VIEW = ":positions"
"""The view that reads relevance of positions."""


@dataclass(frozen=True)
class PositionPlace:
    """Where one table, rotation or bias of positions enters one module.

    Attributes:
        uses: The nodes that take it, with their twins: queries and keys of one layer share a rotation.
        explained: The explained output, whose first dimension is that of samples.
    """

    uses: tuple[tuple[fx.Node, Twin], ...]
    explained: fx.Node

    def read(self, env: Env, found: Mapping[Any, Any]) -> Tensor:
        """Return what positions take here, ``(samples, positions, features)``; zeros if nothing arrived."""
        return torch.stack([self.read_use(node, twin, env, found) for node, twin in self.uses]).sum(0)

    def read_use(self, node: fx.Node, twin: Twin, env: Env, found: Mapping[Any, Any]) -> Tensor:
        """Return what positions take of one node."""
        _, site = build_site(node, env, twin)
        c = numerics.to_coefficient(found.get(node, torch.zeros_like(site.out)), site.out)
        assert twin.rule.positions is not None
        r, samples = twin.rule.positions(site, c), env[self.explained].shape[0]
        if is_same_shape(shape_of(node)[:1], shape_of(self.explained)[:1]):
            return r
        whole: Tensor = r.reshape(samples, -1, *r.shape[1:]).movedim(1, -1).flatten(2)  # heads of a sample in sequence
        return whole


def find_position_places(
    captured: Captured, patterns: Collection[str], twins: Mapping[fx.Node, Twin]
) -> dict[str, PositionPlace]:
    """Find the places for patterns such as ``*:positions``.

    Args:
        captured: The canonical model.
        patterns: Names or patterns of places, each with the view behind it. A place is called after the module
            and the rule there, such as ``layers.0.attn.rotation``; the next one of a module is ``rotation_1``.
        twins: Rule and operands of every live node.

    Raises:
        SignatureError: If a pattern fits nothing, or positions are in the dimension of samples.
    """
    known = name_uses(captured, twins) if patterns else {}
    found: dict[str, PositionPlace] = {}
    for pattern in patterns:
        names = fnmatch.filter(known, pattern.removesuffix(VIEW))
        if not names:
            close = ", ".join(get_close_matches(pattern.removesuffix(VIEW), known, 5, 0.3) or list(known)[:5])
            raise SignatureError(
                f"read={pattern!r} fits no place where positions enter. There are: {close or 'none'}. "
                "They are found from the graph, with rules='pa_lrp'; positions that are computed from integers of an "
                "input have their own relevance in the result"
            )
        found |= {f"{name}{VIEW}": PositionPlace(tuple(known[name]), captured.explained) for name in names}
    return found


def name_uses(captured: Captured, twins: Mapping[fx.Node, Twin]) -> dict[str, list[tuple[fx.Node, Twin]]]:
    """Name the places where positions enter, each with the nodes of one module that take the same value."""
    known: dict[str, dict[fx.Node, list[tuple[fx.Node, Twin]]]] = defaultdict(lambda: defaultdict(list))
    for node, twin in twins.items():
        if twin.rule.positions is not None and differs_by_position(held := find_held(node), captured.constants):
            if twin.rule.kind == "positions":
                refuse_first_dimension(node, held, captured.explained)
            known[".".join(filter(None, (module_path(node), twin.rule.name)))][held].append((node, twin))
    return {
        f"{name}_{i}" if i else name: uses for name, places in known.items() for i, uses in enumerate(places.values())
    }


def refuse_first_dimension(node: fx.Node, held: fx.Node, explained: fx.Node) -> None:
    """Refuse what lies along the first dimension of a sum or product, which has to be that of samples."""
    whole = shape_of(node)
    sizes = (1,) * (len(whole) - len(shape_of(held))) + shape_of(held)
    ones = (1,) * len(whole[1:-1])
    alone = is_same_shape(sizes[1:-1], ones) and not is_same_shape(whole[1:-1], ones)
    if not is_same_shape(sizes[:1], (1,)) and (alone or not is_same_shape(whole[:1], shape_of(explained)[:1])):
        raise SignatureError(
            f"positions are in the first dimension of {node.name}, of shape {tuple(whole)}, where samples have to be, "
            f"so that their relevance cannot be told by sample\n  at {describe(node)}\n"
            "Give the model sequences with the batch first, or read other places."
        )


def refuse_masked_places(reads: Iterable[object], kept: Iterable[Point]) -> None:
    """Refuse masks at places where relevance of positions is read, which would not know of them."""
    masked = {point.node for point in kept}
    for place in reads:
        if isinstance(place, PositionPlace) and (nodes := [n.name for n, _ in place.uses if n in masked]):
            raise SignatureError(
                f"relevance of positions is read at {nodes[0]}, where keep= masks it; mask what is behind it, or do "
                "not read positions there"
            )
