"""Relevance that a call starts or masks inside the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.rule import Parts, Site
from fxlrp.plan.read_points import Point, list_points


def start_and_mask(
    twins: Mapping[fx.Node, Twin], starts: Mapping[Point, Tensor], masks: Mapping[Point, Tensor], env: Env
) -> tuple[Mapping[fx.Node, Twin], dict[fx.Node, Tensor], dict[Any, Any]]:
    """Make twins start what starts inside their ops, and multiply what arrives by masks before they pass it on.

    Args:
        twins: Twins by node.
        starts: Coefficients to start from, each shaped as the value of its node.
        masks: What the coefficient is multiplied by, likewise.
        env: Value of every node.

    Returns:
        The twins; the coefficients that nodes start from; what arrives inside of nodes, found by the walk.
    """
    arrived: dict[Any, Any] = {}

    def wrap(node: fx.Node, twin: Twin) -> Twin:
        def apply(site: Site, c: Tensor) -> Parts:
            for point in list_points(node):
                if point.norms and point in starts:
                    c = c + point.start(starts[point], env)
                if point.norms:
                    arrived[point] = c
                c = c * masks[point] if point in masks else c
            return twin.rule(site, c)

        return replace(twin, rule=replace(twin.rule, apply=apply))

    changed = {*(point.node for point in masks), *(node for node in twins if "merged" in node.meta)}
    # the innermost first: what starts at the value of a node replaces the zeros for what starts inside it
    ordered = sorted(starts.items(), key=lambda item: -len(item[0].norms))
    seed = {point.node: torch.zeros_like(c) if point.norms else c for point, c in ordered}
    return {**twins, **{node: wrap(node, twins[node]) for node in changed}}, seed, arrived
