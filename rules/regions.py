"""Which parts of a model see images, and which read words, found from the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Flag, auto
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import AFFINE, GATHERS, LAYOUTS
from fxlrp.ir.program import find_op, is_floating

aten = torch.ops.aten

LOOKUPS = (aten.embedding.default, *GATHERS)
"""Ops that take entries of a table by integers."""
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default)
"""Products of matrices."""
PLANE = 4
"""Dimensions of the weight of a convolution over two; one over volumes has five."""


class Origin(Flag):
    """What a value was computed from."""

    NOTHING = 0
    INTEGERS = auto()
    WORDS = auto()
    IMAGES = auto()


def find_image_region(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find convolutions over planes and volumes, and all that is computed from them but not from words.

    Of a model that reads pictures and words this is the part in front of the words.
    """
    origins = find_origins(nodes)
    return [node for node in nodes if origins[node] & (Origin.IMAGES | Origin.WORDS) == Origin.IMAGES]


def find_word_region(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find what is computed from entries of a table that integers of the input chose, such as embeddings of tokens."""
    origins = find_origins(nodes)
    return [node for node in nodes if Origin.WORDS in origins[node]]


def find_attention_layers(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Find the linear ops that make queries, keys and values of attention, and that put the heads together again.

    Attention is the fused op, or a product of two matrices that both depend on the input.
    """
    live = set(nodes)
    seen, layers = set[fx.Node](), set[fx.Node]()
    for node in reversed(nodes):  # from attention on to what makes its operands
        if is_attention(node, live) or (node in seen and find_op(node) not in AFFINE):
            seen.update(node.all_input_nodes)
        elif node in seen:
            layers.add(node)
    behind = set[fx.Node]()
    for node in nodes:  # from attention on to what reads it as it is
        if is_attention(node, live) or (find_op(node) in LAYOUTS and not behind.isdisjoint(node.all_input_nodes)):
            behind.add(node)
        elif find_op(node) in AFFINE and node.args[0] in behind:
            layers.add(node)
    return [node for node in nodes if node in layers]


def is_attention(node: fx.Node, live: Collection[fx.Node]) -> bool:
    """Say whether a node is fused attention, or a product of two matrices that both depend on the input."""
    if find_op(node) is aten.scaled_dot_product_attention.default:
        return True
    return find_op(node) in PRODUCTS and all(n in live for n in node.args[:2])


def find_origins(nodes: Sequence[fx.Node]) -> dict[fx.Node, Origin]:
    """Find what each node of the graph was computed from.

    Args:
        nodes: The ops between the inputs and the output; a convolution of something else sees no image.
    """
    live, found = set(nodes), dict[fx.Node, Origin]()
    for node in nodes[0].graph.nodes if nodes else ():
        given = Origin.NOTHING
        for operand in node.all_input_nodes:
            given |= found[operand]
        if is_floating(node):
            words = Origin.INTEGERS in given and find_op(node) in LOOKUPS and is_table(node.args[0], live)
            given = given & ~Origin.INTEGERS | (Origin.WORDS if words else Origin.NOTHING)
            given |= Origin.IMAGES if node in live and is_spatial_convolution(node) else Origin.NOTHING
        elif node.meta.get("user_input"):
            given = Origin.INTEGERS
        found[node] = given
    return found


def is_table(value: Any, live: Collection[fx.Node]) -> bool:
    """Say whether a node holds the same in every call, as the embeddings of words do and rows of an input do not."""
    return value not in live and not value.meta.get("user_input")


def is_spatial_convolution(node: fx.Node) -> bool:
    """Say whether a node is a convolution over two or more dimensions."""
    if find_op(node) not in AFFINE:
        return False
    weight: Any = node.args[1]
    return len(weight.meta["val"].shape) >= PLANE
