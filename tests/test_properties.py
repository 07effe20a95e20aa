"""Random small graphs: the gradient oracle, the traced walk against a plain one, and finite relevance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp import numerics, targets
from fxlrp.capture import capture
from fxlrp.pipeline import plan
from fxlrp.propagate import backward, forward

BATCH, WIDTH = 2, 3

Step = Callable[["Model", Tensor, Tensor], Tensor]
"""From two earlier values of shape (batch, width) to another of that shape."""

STEPS: dict[str, Step] = {
    # element by element
    "relu": lambda m, a, b: a.relu(),
    "tanh": lambda m, a, b: a.tanh(),
    "gelu": lambda m, a, b: F.gelu(a),
    "silu": lambda m, a, b: F.silu(a),
    "sigmoid": lambda m, a, b: a.sigmoid(),
    "softplus": lambda m, a, b: F.softplus(a),
    "leaky relu": lambda m, a, b: F.leaky_relu(a, 0.2),
    "absolute": lambda m, a, b: a.abs(),
    "sine": lambda m, a, b: a.sin(),
    "square": lambda m, a, b: a**2 / 4,
    "root": lambda m, a, b: (a * a + 1).sqrt(),
    "clamp": lambda m, a, b: a.clamp(-1, 0.5),
    # linear
    "linear": lambda m, a, b: m.linear(a),
    "matmul": lambda m, a, b: a @ m.weight,
    "negative": lambda m, a, b: 1 - a,
    "scale": lambda m, a, b: a / 3 * 2,
    "bias": lambda m, a, b: a + m.weight[0],
    "sum": lambda m, a, b: a - a.mean(1, keepdim=True),
    "cumulative sum": lambda m, a, b: a.cumsum(1) / 2,
    # of two
    "add": lambda m, a, b: a + b,
    "subtract": lambda m, a, b: a - 0.5 * b,
    "product": lambda m, a, b: a * b / 2,
    "gate": lambda m, a, b: a * b.sigmoid(),
    "quotient": lambda m, a, b: a / (b.abs() + 1),
    "outer": lambda m, a, b: torch.einsum("bi,bj->bij", a, b).mean(2),
    "attention": lambda m, a, b: (a @ b.t()).softmax(-1) @ b,
    "larger": lambda m, a, b: torch.maximum(a, b + 0.1),
    "choice": lambda m, a, b: torch.where(a > 0, a, b),
    "average": lambda m, a, b: torch.stack([a, b]).mean(0),
    "broadcast": lambda m, a, b: a[:, :1] * b + a[:1],
    # moves
    "flip": lambda m, a, b: a.flip(1),
    "roll": lambda m, a, b: a.roll(1, 1),
    "cat": lambda m, a, b: torch.cat([a[:, 1:], b[:, :1]], 1),
    "view": lambda m, a, b: a.reshape(-1, 1).t().reshape(BATCH, WIDTH),
    "transpose": lambda m, a, b: a.t().contiguous().view(WIDTH, BATCH).t(),
    "split": lambda m, a, b: torch.cat(a.split([1, 2], 1)[::-1], 1),
    "pad": lambda m, a, b: F.pad(a, (1, 0))[:, :-1],
    "gather": lambda m, a, b: a.gather(1, b.argsort(1)),
    "sort": lambda m, a, b: a.sort(1)[0],
    "mask": lambda m, a, b: a.masked_fill(b > 0.5, 0.0),
    "in place": lambda m, a, b: a.clone().mul_(b).add_(1),
    # normalisers
    "softmax": lambda m, a, b: a.softmax(1),
    "layer norm": lambda m, a, b: F.layer_norm(a, (WIDTH,), eps=0.1),
    "rms norm": lambda m, a, b: a * torch.rsqrt(a.pow(2).mean(1, keepdim=True) + 0.1),
    "norm": lambda m, a, b: a / (a.norm(dim=1, keepdim=True) + 0.1),
    "deviation": lambda m, a, b: a / (a.var(1, keepdim=True) + 0.1).sqrt(),
}


@dataclass(frozen=True)
class Graph:
    """Steps, each with the numbers of the two earlier values it takes."""

    steps: tuple[tuple[str, int, int], ...]
    inputs: int

    def __str__(self) -> str:
        return "; ".join(f"v{i} = {name}(v{a}, v{b})" for i, (name, a, b) in enumerate(self.steps, self.inputs))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    inputs = draw(st.integers(1, 2))
    steps: list[tuple[str, int, int]] = []
    for _ in range(draw(st.integers(1, 9))):
        # near values are likelier, so that chains grow long, and every value can be used again
        earlier = inputs + len(steps)
        near = st.integers(max(0, earlier - 2), earlier - 1)
        any_value = st.integers(0, earlier - 1)
        steps.append((draw(st.sampled_from(sorted(STEPS))), draw(near), draw(any_value)))
    return Graph(tuple(steps), inputs)


class Model(nn.Module):
    """A graph as a model."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.graph = graph
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        values = list(inputs)
        for name, a, b in self.graph.steps:
            values.append(STEPS[name](self, values[a], values[b]))
        return values[-1] + values[0]  # every graph depends on an input


def sample(graph: Graph, seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (graph.inputs, BATCH, WIDTH)
    return Model(graph).double().eval(), tuple(torch.randn(shape, dtype=torch.float64, generator=generator))


def relevances(result: Any, inputs: int) -> list[Tensor]:
    return list(result.relevance.values()) if inputs > 1 else [result.relevance]


def close_to_gradient(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """The preset ``gradient`` gives input x gradient of the output summed with random weights."""
    own = [x.clone().requires_grad_() for x in inputs]
    output = model(*own)
    seed = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = fxlrp.compile(model, rules="gradient")(*inputs, target=seed)
    torch.testing.assert_close(result.output, output.detach(), rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad((seed * output).sum(), own, allow_unused=True, materialize_grads=True)
    for x, gradient, found in zip(inputs, gradients, relevances(result, len(inputs)), strict=True):
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found, x * gradient, rtol=1e-9, atol=1e-9 * scale)


def random_graphs(examples: int) -> settings:
    slow = [HealthCheck.too_slow]
    return settings(deadline=None, derandomize=True, max_examples=examples, suppress_health_check=slow, database=None)


@random_graphs(30)
@given(graphs(), st.integers(0, 99))
def test_gradient_oracle(graph: Graph, seed: int) -> None:
    close_to_gradient(*sample(graph, seed))


@random_graphs(20)
@given(graphs(), st.integers(0, 99))
def test_traced_program_equals_a_plain_walk(graph: Graph, seed: int) -> None:
    """Emission, clean-up and code generation change nothing of the two walks; every relevance is finite."""
    model, inputs = sample(graph, seed)
    rules = fxlrp.rule_set("attnlrp")
    result = fxlrp.compile(model, rules=rules)(*inputs, target=1)
    made = plan(capture(model, inputs, {}), rules, (), strict=True)
    captured = made.captured
    with torch.no_grad():
        env = forward(captured.graph, {**captured.constants, **dict(zip(captured.inputs, inputs, strict=True))})
        form, tensors = targets.lower(1, tuple(env[captured.explained].shape))
        start = targets.seed(form, env[captured.explained], tensors)
        found = backward(captured.graph, env, made.twins, {captured.explained: start})
    for node, relevance in zip(captured.inputs, relevances(result, graph.inputs), strict=True):
        walked = numerics.relevance(found[node], env[node]) if node in found else torch.zeros_like(env[node])
        assert relevance.isfinite().all()
        torch.testing.assert_close(relevance, walked.detach(), rtol=1e-10, atol=1e-10)


@random_graphs(15)
@given(graphs())
def test_relevance_is_finite_at_zero(graph: Graph) -> None:
    """Every entry is exactly zero, where quotients and roots would fail."""
    model, inputs = sample(graph, 0)
    result = fxlrp.compile(model)(*(torch.zeros_like(x) for x in inputs), target=1)
    for relevance in relevances(result, graph.inputs):
        assert relevance.isfinite().all()


class Everything(nn.Module):
    """All steps side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(Graph((), 2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([step(self.model, a, b) for step in STEPS.values()], 1)


def test_gradient_oracle_of_every_step() -> None:
    """None is left to chance, and each keeps the shape."""
    model = Everything().double().eval()
    inputs = sample(Graph((), 2), 5)[1]
    assert model(*inputs).shape == (BATCH, WIDTH * len(STEPS))
    close_to_gradient(model, inputs)
