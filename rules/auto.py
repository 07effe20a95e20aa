"""The rule set that serves each part of a model as measurements say; it is the default.

The parts are found from the graph: what sees images, what reads words, and state spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Flag, auto
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import AFFINE, CONVOLUTIONS, LOOKUPS
from fxlrp.ir.program import find_op, is_floating
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.products import signal_takes_all
from fxlrp.rules.published.recurrent import is_selection
from fxlrp.rules.published.residuals import is_stream_addition, residual_gamma, skip_passing
from fxlrp.rules.softmax import stopped
from fxlrp.rules.weighted import gamma, z_plus

aten = torch.ops.aten

PLANE = 4
"""Dimensions of the weight of a convolution over two; one over volumes has five."""


class Origin(Flag):
    """What a value was computed from."""

    NOTHING = 0
    INPUT = auto()
    INTEGERS = auto()
    WORDS = auto()
    IMAGES = auto()


def find_image_convolutions(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find convolutions over planes and volumes, and others of what they computed, but not from words.

    Of a model that reads pictures and words they are in the part in front of the words. Their weights are fixed.
    """
    origins = find_origins(nodes)
    return [
        node
        for node in nodes
        if find_op(node) in CONVOLUTIONS
        and origins[node] & (Origin.IMAGES | Origin.WORDS) == Origin.IMAGES
        and not any(Origin.INPUT in origins[given] for given in node.args[1:] if isinstance(given, fx.Node))
    ]


def find_first_convolutions(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find the convolutions over images in front of which there is none: they read the image itself."""
    origins = find_origins(nodes)
    return [n for n in find_image_convolutions(nodes) if Origin.IMAGES not in origins[n.all_input_nodes[0]]]


def find_word_region(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find what is computed from entries of a table that integers of the input chose, such as embeddings of tokens."""
    origins = find_origins(nodes)
    return [node for node in nodes if Origin.WORDS in origins[node]]


def find_state_spaces(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find what is computed from what selects in a state space, such as Mamba's, to the linear op behind it."""
    selections = {node for node in nodes if is_selection(node)}
    inside = set(selections)
    for node in nodes:
        if any(n in selections or (n in inside and find_op(n) not in AFFINE) for n in node.all_input_nodes):
            inside.add(node)
    return [node for node in nodes if node in inside]


def find_word_streams(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find what is computed from words, but for the sums that take the output of a state space up."""
    inside = set(find_state_spaces(nodes))
    return [node for node in find_word_region(nodes) if inside.isdisjoint(map(skip_passing, node.all_input_nodes))]


def find_origins(nodes: Sequence[fx.Node]) -> dict[fx.Node, Origin]:
    """Find what each node of the graph of some nodes was computed from."""
    found: dict[fx.Node, Origin] = {}
    for node in nodes[0].graph.nodes if nodes else ():
        given = Origin.INPUT if node.meta.get("user_input") else Origin.NOTHING
        for operand in node.all_input_nodes:
            given |= found[operand]
        if is_floating(node):
            first: Any = node.args[0] if node.args else None
            if Origin.INTEGERS in given and find_op(node) in LOOKUPS and Origin.INPUT not in found[first]:
                given |= Origin.WORDS  # rows of the input that integers choose are no words
            if is_spatial_convolution(node) and Origin.INPUT in found[first]:
                given |= Origin.IMAGES
            given &= ~Origin.INTEGERS
        elif Origin.INPUT in given and node.op == "placeholder":
            given |= Origin.INTEGERS
        found[node] = given
    return found


def is_spatial_convolution(node: fx.Node) -> bool:
    """Say whether a node is a convolution over two or more dimensions."""
    if find_op(node) not in CONVOLUTIONS:
        return False
    weight: Any = node.args[1]
    return len(weight.meta["val"].shape) >= PLANE


AUTO = (
    RuleSet("auto", "AttnLRP, with gamma where images are seen, and more for streams of words and state spaces")
    .where(
        residual_gamma(1.0),
        ops=aten.add.Tensor,
        predicate=is_stream_addition,
        region=find_word_streams,
        reason="additions to a stream without norms: large terms that cancel would blow relevance up",
    )
    .where(
        gamma(0.1),
        ops=CONVOLUTIONS,
        region=find_image_convolutions,
        reason="convolutions over images: without gamma, relevance of both signs adds up to speckle",
    )
    .where(
        z_plus(),
        ops=CONVOLUTIONS,
        region=find_first_convolutions,
        reason="first convolutions over images: what adds to outputs counts, as signs of scaled pixels say nothing",
    )
    .where(
        stopped,
        ops=AFFINE,
        predicate=is_selection,
        reason="what selects in a state space: it steers the signal, as gates do",
    )
    .where(
        signal_takes_all,
        ops=aten.mul.Tensor,
        region=find_state_spaces,
        reason="gates of a state space: constants, so that the signal takes all",
    )
    .named("auto")
    .optional()
)
"""Every row is the best of what was tried on the models of its kind in benchmarks/faithfulness."""
