"""Random graphs in which signs matter, and what the analyses prove of them held against walks without any proof."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from graphs import FLOOR, Choose, Graph, Pack, build
from steps import PLAIN, SIGNED
from torch import Tensor, fx

from fxlrp.emit.starts_and_masks import start_and_mask
from fxlrp.emit.walk import walk_backward
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.provenance import module_path
from fxlrp.ir.rule import Facts
from fxlrp.passes.analyses.liveness import list_operands
from fxlrp.plan.read_points import Point, drop_broken_facts
from fxlrp.rules import PRESETS

NAMES = (*SIGNED, *SIGNED, *PLAIN)
"""Steps of the graphs, those with signs twice as likely."""
LONGEST = 7
EQUAL = 1e-7
"""Relative error of relevance with proofs against relevance without; stabilisers amplify rounding."""
CHANCE = 0.3
"""Of a node to be injected at, and of a node to be masked."""


def signed(choose: Choose) -> Graph:
    """A random graph."""
    return build(choose, NAMES, LONGEST)


@dataclass(frozen=True)
class Conditions:
    """Where relevance starts, and masks on the way."""

    name: str
    starts: Mapping[fx.Node, Tensor]
    masks: Mapping[fx.Node, Tensor]


def conditions(pack: Pack, twins: Mapping[fx.Node, Twin], env: Env, rules: str) -> Iterator[Conditions]:
    """A target; then injections and masks at random nodes of every graph, others for every rule set."""
    yield Conditions("target", {pack.captured.explained: pack.seed}, {})
    starts: dict[fx.Node, Tensor] = {}
    masks: dict[fx.Node, Tensor] = {}
    chances = [random.Random(f"{graph}/{rules}") for graph in pack.graphs]
    generator = torch.Generator().manual_seed(0)
    for node in twins:
        i = member(node)
        if i is not None and chances[i].random() < CHANCE:
            starts[node] = drawn(env[node], generator)
        if i is not None and chances[i].random() < CHANCE:
            whole = drawn(env[node], generator)
            masks[node] = whole if chances[i].random() < 0.5 else (whole > 0).to(whole.dtype)
    yield Conditions("injection", starts, masks)


def drawn(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, dtype=torch.float64, generator=generator).to(numerics.widen(x).dtype)


def member(node: fx.Node) -> int | None:
    """The graph that a node belongs to; none for the row of all outputs."""
    path = module_path(node).split(".")
    return int(path[1]) if path[0] == "graphs" else None


@torch.no_grad()
def judged(graphs: Sequence[Graph], rules: str = "", traced: bool = False) -> list[str]:
    """``passes``, or what is wrong, for each of the graphs and all presets."""
    pack = Pack.of(graphs)
    plans = {name: made for name in PRESETS if (made := pack.plan(name)) is not None}
    env = pack.values(pack.inputs)
    found: dict[int, str] = {}
    for name, made in plans.items():
        for given in conditions(pack, made.twins, env, name):
            twins = drop_broken_facts(made.twins, given.starts if given.name == "injection" else ())
            for i, text in wrong(pack, env, twins, given):
                found.setdefault(i, f"{text}, {given.name}, {name}")
    return [found.get(i, "passes") for i in range(len(graphs))]


def wrong(pack: Pack, env: Env, twins: Mapping[fx.Node, Twin], given: Conditions) -> Iterator[tuple[int, str]]:
    """Graphs of which a proof does not hold, or changes relevance; where it is first seen."""
    bare = {node: replace(twin, facts=Facts(shares=twin.facts.shares)) for node, twin in twins.items()}
    masks = {Point(node): mask for node, mask in given.masks.items()}
    ruled = [start_and_mask(some, {}, masks, env)[0] for some in (twins, bare)]
    own, plain = (walk_backward(pack.captured.graph, env, some, given.starts) for some in ruled)
    wide = {node: numerics.widen(env[node]) for node in plain}
    relevance = {node: numerics.to_relevance(c, wide[node]) for node, c in plain.items()}
    scale: dict[int | None, float] = {}
    for node, r in relevance.items():
        scale[member(node)] = max(scale.get(member(node), FLOOR), largest(r))
    for node in reversed(pack.captured.graph.nodes):
        i = member(node)
        if i is None or node not in plain:
            continue
        error = largest(numerics.to_relevance(own[node], wide[node]) - relevance[node]) / scale[i]
        if not error <= EQUAL:
            yield i, f"other relevance with proofs at {node.target}: relative error {error:.1e}"
        if node in twins and (text := untrue(node, twins[node], env, plain)):
            yield i, text


def largest(r: Tensor) -> float:
    size = float(r.abs().amax()) if r.numel() else 0.0
    return size if math.isfinite(size) else math.inf


def untrue(node: fx.Node, twin: Twin, env: Env, found: Env) -> str:
    """Which proof about a node does not hold; a dead side is one of coefficients, and not of relevance without one."""
    out, carried = numerics.widen(env[node]), found[node]
    c = torch.as_tensor(carried.coefficient if isinstance(carried, numerics.Relevance) else carried)
    if twin.facts.dead_below and (c.expand(out.shape)[out < 0] != 0).any():
        return f"no dead side: {node.target}"
    if twin.facts.nonnegative and any((env[n] < 0).any() for n in list_operands(node, twin.slots)):
        return f"negative operand: {node.target}"
    return ""
