"""Walks of relevance on small graphs, beside masks in every layer, sums, and brute force."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.circuits.walks import Walks, trace_walks
from fxlrp.rules.weighted import gamma


class Convolution(nn.Module):
    """Graph convolution: the mean of a node and its neighbours, then a dense layer."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, outer)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        near = edges.to(x.dtype)
        return self.dense((near / near.sum(1, keepdim=True)) @ x).relu()


class Network(nn.Module):
    """Two of these, and the mean of all nodes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = Convolution(2, 3), Convolution(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.head(self.two(self.one(x, edges), edges).mean(0, keepdim=True))


LAYERS = ("one", "two")
RULES = {
    "epsilon": fxlrp.rule_set("epsilon"),
    "gamma": fxlrp.rule_set("epsilon").where(gamma(1.0), ops=torch.ops.aten.linear.default, module="*.dense"),
}


def drawn(seed: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Features of nodes, and a random graph in which each is its own neighbour."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(nodes, nodes, generator=generator) < 0.5
    x = torch.rand(nodes, 2, generator=generator, dtype=torch.float64)
    return x, (edges | edges.T | torch.eye(nodes, dtype=torch.bool)).long()


@cache
def compiled(rules: str) -> tuple[fxlrp.Attributor, Callable[..., Walks]]:
    attributor = fxlrp.compile(Network().double().eval(), rules=RULES[rules])
    return attributor, trace_walks(attributor, LAYERS)


@pytest.mark.parametrize("rules", RULES)
def test_v13_walks_sum_to_the_relevance_of_nodes(rules: str) -> None:
    attributor, trace = compiled(rules)
    x = drawn(0, 4)
    walks = trace(*x, target=1)
    found = torch.zeros(4, dtype=torch.float64)
    for walk in walks.every():
        found[walk.places[0][0]] += walk.relevance
    torch.testing.assert_close(found, attributor(*x, target=1).relevance.sum(1), rtol=1e-8, atol=1e-12)


def test_a_walk_is_what_masks_in_every_layer_leave() -> None:
    attributor, trace = compiled("gamma")
    x = drawn(1, 4)
    walks = trace(*x, target=1)
    for one, two in product(range(4), repeat=2):
        masks = {name: torch.eye(4)[n][:, None] for name, n in zip(LAYERS, (one, two), strict=True)}
        masked = attributor(*x, target=1, keep=masks).relevance.sum(1)
        found = torch.tensor([walks.sum((start, one, two)) for start in range(4)], dtype=torch.float64)
        torch.testing.assert_close(found, masked, rtol=1e-8, atol=1e-12)


def test_the_best_walks_are_those_of_all() -> None:
    """On 50 random graphs."""
    for seed in range(50):
        walks = compiled("epsilon")[1](*drawn(seed, 3), target=1)
        one, two = walks.steps
        every = torch.einsum("b,ba,ai,i->iab", walks.coefficient, two, one, walks.value)
        best = walks.best(7)
        largest = every.flatten().abs().topk(7).values
        sizes = torch.tensor([abs(walk.relevance) for walk in best], dtype=torch.float64)
        torch.testing.assert_close(sizes, largest[: len(best)], rtol=1e-10, atol=1e-14)
        assert largest[len(best) :].max() == 0 if len(best) < 7 else True
        for walk in best:
            flat = [p[0] * shape[1] + p[1] for p, shape in zip(walk.places, walks.shapes, strict=True)]
            assert every[*flat] == pytest.approx(walk.relevance, rel=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x: trace_walks(a, ("one", "three"))(*x), "read='three:coefficient' fits no module"),
        (lambda a, x: trace_walks(a, ()), "no layer is named"),
        (lambda a, x: trace_walks(a, LAYERS)(edges=x[1]), "walks start at the first argument"),
        (lambda a, x: trace_walks(a, LAYERS)(*x).sum((0, 1)), "a walk has 3 places here"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(fxlrp.SignatureError, match=message):
        call(compiled("epsilon")[0], drawn(0, 3))
