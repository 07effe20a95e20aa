"""The rule set that serves each part of a model as measurements say; it is the default.

The parts are found from the graph: what sees images, what reads words, and attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Flag, auto
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import AFFINE, CONVOLUTIONS, LAYOUTS, LOOKUPS
from fxlrp.ir.program import find_op, is_floating
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.linear import affine
from fxlrp.rules.published.residuals import is_stream_addition, residual_gamma
from fxlrp.rules.weighted import gamma

aten = torch.ops.aten

PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default)
"""Products of matrices."""
PLANE = 4
"""Dimensions of the weight of a convolution over two; one over volumes has five."""


class Origin(Flag):
    """What a value was computed from."""

    NOTHING = 0
    INPUT = auto()
    INTEGERS = auto()
    WORDS = auto()
    IMAGES = auto()


def find_image_layers(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find convolutions over planes and volumes, and linear ops of what is computed from them but not from words.

    Of a model that reads pictures and words they are in the part in front of the words. Their weights are fixed.
    """
    origins = find_origins(nodes)
    return [
        node
        for node in nodes
        if find_op(node) in AFFINE
        and origins[node] & (Origin.IMAGES | Origin.WORDS) == Origin.IMAGES
        and not any(Origin.INPUT in origins[given] for given in node.args[1:] if isinstance(given, fx.Node))
    ]


def find_word_region(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find what is computed from entries of a table that integers of the input chose, such as embeddings of tokens."""
    origins = find_origins(nodes)
    return [node for node in nodes if Origin.WORDS in origins[node]]


def find_attention_layers(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find the linear ops that make queries, keys and values of attention, and that put the heads together again.

    Attention is the fused op, or a product of two matrices that both depend on the input.
    """
    origins = find_origins(nodes)
    attention = {node for node in nodes if is_attention(node, origins)}
    seen, layers = set[fx.Node](), set[fx.Node]()
    for node in reversed(nodes):  # from attention on to what makes its operands
        if node in attention or (node in seen and find_op(node) not in AFFINE):
            seen.update(node.all_input_nodes)
        elif node in seen:
            layers.add(node)
    behind = set[fx.Node]()
    for node in nodes:  # from attention on to what reads it as it is
        if node in attention or (find_op(node) in LAYOUTS and not behind.isdisjoint(node.all_input_nodes)):
            behind.add(node)
        elif find_op(node) in AFFINE and node.args[0] in behind:
            layers.add(node)
    return [node for node in nodes if node in layers]


def is_attention(node: fx.Node, origins: Mapping[fx.Node, Origin]) -> bool:
    """Say whether a node is fused attention, or a product of two matrices that both depend on the input."""
    if find_op(node) is aten.scaled_dot_product_attention.default:
        return True
    operands = [given for given in node.args[:2] if isinstance(given, fx.Node)]
    return find_op(node) in PRODUCTS and all(Origin.INPUT in origins[given] for given in operands)


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
    if find_op(node) not in AFFINE:
        return False
    weight: Any = node.args[1]
    return len(weight.meta["val"].shape) >= PLANE


AUTO = (
    RuleSet("auto", "AttnLRP, with gamma where images are seen and bounded residual additions where words are read")
    .where(
        residual_gamma(1.0),
        ops=aten.add.Tensor,
        predicate=is_stream_addition,
        region=find_word_region,
        reason="additions to a stream without norms: large terms that cancel would blow relevance up",
    )
    .where(
        gamma(0.05),
        ops=aten.linear.default,
        region=find_image_layers,
        reason="dense layers behind image convolutions: without gamma, relevance of both signs adds up to noise",
    )
    .where(affine, ops=aten.linear.default, region=find_attention_layers)
    .where(affine, ops=aten.linear.default, position="last")
    .where(
        gamma(0.1),
        ops=CONVOLUTIONS,
        region=find_image_layers,
        reason="convolutions over images: without gamma, relevance of both signs adds up to speckle",
    )
    .named("auto")
    .optional()
)
"""Every row is the best of what was tried on the models of its kind in benchmarks/faithfulness."""
