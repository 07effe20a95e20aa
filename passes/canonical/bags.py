"""Write bags of looked-up rows as lookups and sums, so that each row has relevance of its own."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.ir.ops import name_arguments
from fxlrp.ir.program import OneOutput
from fxlrp.passes.manager import find_input_dependent, insert, substitute

aten = torch.ops.aten

SUM, MEAN = 0, 1
"""Values of an embedding bag's ``mode``; the third takes the largest entries, which is no sum of rows."""


def open_bags(graph: fx.Graph) -> int:
    """Write sums and means over bags of rows of a constant table, picked by an input, as lookups and sums."""
    dependent = find_input_dependent(graph)
    hits = 0
    for node in list(graph.nodes):
        if node.target == OneOutput(aten._embedding_bag.default, 0):
            args = name_arguments(node)
            picked = args["indices"] in dependent and args["weight"] not in dependent
            if picked and args["mode"] in (SUM, MEAN):
                substitute(node, open_bag(node))
                hits += 1
    return hits


def open_bag(node: fx.Node) -> fx.Node:
    """Insert ``index_add(0, bag of each index, table[index] * its weight)``, over the bag's size if it is a mean."""
    args = name_arguments(node)
    indices, offsets, table = args["indices"], args["offsets"], args["weight"]
    rows = insert(node, aten.embedding.default, table, indices)
    counted = insert(node, aten.ones_like.default, indices)
    position = insert(node, aten.sub.Scalar, insert(node, aten.cumsum.default, counted, 0), 1)
    bag = insert(node, aten.searchsorted.Tensor, offsets, position, right=True)
    bag = insert(node, aten.sub.Scalar, bag, 1)
    if args["include_last_offset"]:
        offsets = insert(node, aten.slice.Tensor, offsets, 0, 0, -1)
    weights = insert(node, aten.ones_like.default, counted, dtype=table.meta["val"].dtype)
    if args["padding_idx"] >= 0:
        kept = insert(node, aten.ne.Scalar, indices, args["padding_idx"])
        weights = insert(node, aten._to_copy.default, kept, dtype=table.meta["val"].dtype)
    if args["mode"] == MEAN:
        none = insert(node, aten.zeros_like.default, offsets, dtype=table.meta["val"].dtype)
        sizes = insert(node, aten.index_add.default, none, 0, bag, weights)
        sizes = insert(node, aten.clamp.default, sizes, 1)
        weights = insert(node, aten.div.Tensor, weights, insert(node, aten.index_select.default, sizes, 0, bag))
    rows = weight_rows(node, rows, weights)
    if args["per_sample_weights"] is not None:
        rows = weight_rows(node, rows, args["per_sample_weights"])
    empty = insert(node, aten.zeros_like.default, offsets, dtype=table.meta["val"].dtype)
    empty = insert(node, aten.unsqueeze.default, empty, 1)
    first = insert(node, aten.zeros_like.default, insert(node, aten.select.int, table, 0, 0))
    return insert(node, aten.index_add.default, insert(node, aten.mul.Tensor, empty, first), 0, bag, rows)


def weight_rows(node: fx.Node, rows: fx.Node, weights: fx.Node) -> fx.Node:
    """Multiply each row by its weight."""
    return insert(node, aten.mul.Tensor, rows, insert(node, aten.unsqueeze.default, weights, 1))
