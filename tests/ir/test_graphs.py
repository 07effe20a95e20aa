"""Nodes run and copied one by one, and traced back to the memory that they show."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from fxlrp.ir.graphs import call_op, extract, find_memory_root

aten = torch.ops.aten


def chain() -> tuple[fx.Graph, dict[str, fx.Node]]:
    """A graph of ``-(relu(x) * w) + x``."""
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.get_attr("w")
    relu = graph.call_function(aten.relu.default, (x,))
    product = graph.call_function(aten.mul.Tensor, (relu, w))
    negative = graph.call_function(aten.neg.default, (product,))
    total = graph.call_function(aten.add.Tensor, (negative,), {"other": x})
    graph.output({"total": [total], "relu": relu})
    for node in graph.nodes:
        node.meta["val"] = node.name
    return graph, {"x": x, "w": w, "relu": relu, "product": product, "negative": negative, "total": total}


def test_a_part_is_a_function_of_its_inputs_and_returns_what_is_asked() -> None:
    _, at = chain()
    w, product, x = torch.tensor([2.0, 3.0]), torch.tensor([4.0, 5.0]), torch.tensor([1.0, -1.0])
    nodes = [at["product"], at["negative"], at["total"]]
    part = extract(nodes, (at["product"], at["x"]), {"sum": (at["total"],), "given": at["product"]})
    part.lint()
    found = fx.GraphModule({"w": w}, part)(product, x)
    assert torch.equal(found["sum"][0], x - product)
    assert found["given"] is product
    assert [node.op for node in part.nodes] == ["placeholder"] * 2 + ["call_function"] * 2 + ["output"]


def test_a_part_shares_nothing_with_its_graph_but_what_is_known_of_its_nodes() -> None:
    graph, at = chain()
    before = str(graph)
    part = extract([at["w"], at["product"]], (at["relu"],), at["product"])
    metas = {node.name: node.meta.get("val") for node in part.nodes if node.op != "output"}
    assert metas == {name: name for name in metas}
    for node in part.nodes:
        node.meta["val"] = None
    assert str(graph) == before
    assert all(node.meta["val"] == node.name for node in graph.nodes)


def test_an_op_is_called_on_the_values_of_what_it_reads() -> None:
    _, at = chain()
    values: dict[fx.Node, Tensor] = {at["negative"]: torch.tensor(2.0), at["x"]: torch.tensor(3.0)}
    assert call_op(at["total"], values.__getitem__) == 5


def test_views_lead_to_the_node_that_fills_their_memory() -> None:
    graph, at = chain()
    pieces = graph.call_function(aten.split.Tensor, (at["relu"], 1))
    piece = graph.call_function(operator.getitem, (pieces, 0))
    turned = graph.call_function(aten.t.default, (piece,))
    assert find_memory_root(turned) is at["relu"]
    assert find_memory_root(at["product"]) is at["product"]
