"""GNN-LRP: relevance of nodes and of walks, beside the definition in loops and beside detached ratios."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.circuits.walks import Walks, trace_walks
from fxlrp.rules.published.graphs import gnn_lrp

NODES, FEATURES, TARGET = 4, 3, 1
PATH = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]])
LIST = torch.nonzero(PATH - torch.eye(NODES)).T.contiguous().long()
X = torch.rand(NODES, FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def make_dense(inner: int, outer: int) -> nn.Linear:
    layer = nn.Linear(inner, outer, bias=False)
    nn.init.normal_(layer.weight, mean=0.3)
    return layer


class Layer(nn.Module):
    """Dense layers on what a node and its neighbours are together."""

    edges: Tensor
    sizes: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.ModuleList(make_dense(a, b) for a, b in zip(self.sizes, self.sizes[1:], strict=False))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.gather(x, edges)
        for layer in self.dense:
            x = layer(x).relu()
        return x


class Convolution(Layer):
    """Kipf and Welling 2017, by a matrix of edges."""

    edges, sizes = PATH, (FEATURES, FEATURES)

    def gather(self, x: Tensor, edges: Tensor) -> Tensor:
        degree = edges.double().sum(1).rsqrt()
        return (degree[:, None] * edges * degree) @ x


class Isomorphism(Layer):
    """Xu et al. 2019, by a list of edges."""

    edges, sizes = LIST, (FEATURES, 5, FEATURES)

    def gather(self, x: Tensor, edges: Tensor) -> Tensor:
        return 1.5 * x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])


class Network(nn.Module):
    def __init__(self, kind: type[Layer]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two, self.head = kind(), kind(), make_dense(FEATURES, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.head(self.two(self.one(x, edges), edges).mean(0, keepdim=True))


KINDS = [Convolution, Isomorphism]


def without_stabiliser(rules: fxlrp.RuleSet) -> fxlrp.RuleSet:
    table = {op: rule.limit or rule for op, rule in rules.table.items()}
    return replace(rules, table=table, overrides=tuple(replace(o, rule=o.rule.limit) for o in rules.overrides))


@cache
def traced(kind: type[Layer]) -> tuple[Network, fxlrp.Result, Walks]:
    model = Network(kind).double().eval()
    attributor = fxlrp.compile(model, rules=without_stabiliser(gnn_lrp()))
    given = X, kind.edges
    return model, attributor(*given, target=TARGET), trace_walks(attributor, ("one", "two"))(*given, target=TARGET)


def share(x: Tensor, w: Tensor, r: Tensor, g: float) -> Tensor:
    """Schnake et al. 2021: ``R_f = sum_g x_f w'_gf / (sum_f x_f w'_gf) R_g`` of one node, with ``w' = w + g w+``.

    Where the sum is negative, ``w-`` takes the place of ``w+``.
    """
    found = torch.zeros_like(x)
    for row, one in zip(w, r, strict=True):
        raised = row + g * (row.clamp(min=0) if x @ row > 0 else row.clamp(max=0))
        found += x * raised / (x @ raised) * one
    return found


def share_sum(part: Tensor, whole: Tensor, r: Tensor) -> Tensor:
    """``R_f = part_f / whole_f R_f``, of parts that are not negative."""
    return torch.where(part > 0, part / whole, 0.0) * r


@torch.no_grad()
def follow(model: Network, walk: tuple[int, ...]) -> float:
    """Compute the relevance of a walk from the definition, node by node."""
    layers, values = (model.one, model.two), []
    h = X
    for layer in layers:
        inside = [layer.gather(h, layer.edges)]
        for dense in layer.dense:
            inside.append(dense(inside[-1]).relu())
        values.append((h, inside))
        h = inside[-1]
    mean, row = h.mean(0), model.head.weight[TARGET : TARGET + 1]
    r = share_sum(h[walk[-1]] / NODES, mean, share(mean, row, row @ mean, 1.0))
    for i in (1, 0):
        start, end, (h, inside) = walk[i], walk[i + 1], values[i]
        for depth in reversed(range(len(layers[i].dense))):
            g = 2.0 if i == depth == 0 else 1.0
            r = share(inside[depth][end], layers[i].dense[depth].weight, r, g)
        weights = layers[i].gather(torch.eye(NODES, dtype=h.dtype), layers[i].edges)
        r = share_sum(weights[end, start] * h[start], inside[0][end], r)
    return float(r.sum())


def detach_ratios(model: Network, walk: tuple[int, ...]) -> float:
    """Compute it as a gradient: raised layers times a fixed ratio, through one node of each layer.

    As Liu et al. 2021 (DIG) do, here with a gamma of each dense layer.
    """

    def raise_layer(dense: nn.Linear, x: Tensor, out: Tensor, g: float) -> Tensor:
        p = x @ (dense.weight + g * dense.weight.clamp(min=0)).T
        return p * (out / (p + 1e-30)).detach()

    x = X.clone().requires_grad_()
    h = x
    for i, layer in enumerate((model.one, model.two)):
        h = layer.gather(h, layer.edges)
        for depth, dense in enumerate(layer.dense):
            h = raise_layer(dense, h, dense(h).relu(), 2.0 if i == depth == 0 else 1.0)
        mask = torch.eye(NODES)[walk[i + 1]][:, None]
        h = h * mask + h.detach() * (1 - mask)
    mean = h.mean(0, keepdim=True)
    y = raise_layer(model.head, mean, model.head(mean), 1.0)
    (g,) = torch.autograd.grad(y[0, TARGET], x)
    return float(g[walk[0]] @ X[walk[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_v13_walks_sum_to_the_relevance_of_nodes_under_the_preset(kind: type[Layer]) -> None:
    _, result, walks = traced(kind)
    found = torch.zeros(NODES, dtype=torch.float64)
    for walk in walks.every():
        found[walk.places[0][0]] += walk.relevance
    torch.testing.assert_close(found, result.relevance.sum(1), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.sum(), result.output[0, TARGET], rtol=1e-8, atol=0)  # there are no biases


@pytest.mark.parametrize("way", [follow, detach_ratios])
@pytest.mark.parametrize("kind", KINDS)
def test_every_walk_is_that_of_the_paper(kind: type[Layer], way: object) -> None:
    model, result, walks = traced(kind)
    assert result.output[0, TARGET] > 0
    for walk in product(range(NODES), repeat=3):
        found, wanted = walks.sum(walk), way(model, walk)  # type: ignore[operator]
        assert found == pytest.approx(wanted, rel=1e-8, abs=1e-12), walk
        assert (found == 0) == (abs(walk[0] - walk[1]) > 1 or abs(walk[1] - walk[2]) > 1), walk


def test_gammas_are_chosen() -> None:
    model = Network(Convolution).double().eval()
    plain, other = (
        fxlrp.compile(model, rules=rules)(X, PATH, target=TARGET).relevance for rules in ("epsilon", gnn_lrp(0.0, 0.0))
    )
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-7)
    assert gnn_lrp() == fxlrp.rule_set("gnn_lrp")
    assert "gamma 4 on the first dense layer and 0.5 on the others" in str(gnn_lrp(4.0, 0.5))
