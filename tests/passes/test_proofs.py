"""What is proved of signs and dead sides changes no relevance: random graphs, injections and masks, every preset."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import proofs
import pytest
import torch
from graphs import Call, Graph, failures
from steps import OPERANDS, SIGNED
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp.capture.functional_graph import capture
from fxlrp.ir.rule import Rule, Site
from fxlrp.passes import CANONICAL, run_passes
from fxlrp.passes.analyses import signs
from fxlrp.rules import PRESETS

aten = torch.ops.aten


@pytest.mark.slow
def test_proofs_change_nothing() -> None:
    """benchmarks/fuzz.py --judge proofs has as many graphs as there is time for."""
    chance = random.Random(7)
    found = failures([proofs.signed(chance.randrange) for _ in range(30)], "", False, proofs.judged)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_every_signed_step() -> None:
    """None is left to chance: each behind values of both signs, and behind none that is negative."""
    behind = [("linear",), ("linear", "relu")]
    every = []
    for name in SIGNED:
        for first in behind:
            calls = [Call(step, (i + 1,)) for i, step in enumerate(first)]
            last = len(first) + 1
            calls += [Call(name, (last, 0)[: OPERANDS[name]]), Call("linear", (last + 1,)), Call("hidden", (last + 2,))]
            every.append(Graph(("batch", "batch"), tuple(calls), 3))
    found = failures(every, "", False, proofs.judged)
    assert not found, "\n".join(found)


def test_an_untrue_proof_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Call("linear", (0,)), Call("hidden", (1,))
    assert proofs.judged([Graph(("batch",), calls, 3)]) == ["passes"]
    monkeypatch.setattr(proofs, "drop_broken_facts", lambda twins, starts: twins)
    assert proofs.judged([Graph(("batch",), (*calls, Call("hidden", (2,))), 3)])[0].startswith("no dead side: ")
    monkeypatch.setattr("fxlrp.passes.analyses.liveness.find_nonnegative", lambda graph: set(graph.nodes))
    assert proofs.judged([Graph(("batch",), calls, 3)])[0].startswith("negative operand: ")
    monkeypatch.setattr(proofs, "untrue", lambda *args: "")
    assert proofs.judged([Graph(("batch",), calls, 3)])[0].startswith("other relevance with proofs at ")


X = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FLAGS, LEVELS, SIGNS = torch.tensor([True, False, True, True]), torch.arange(4).byte(), torch.tensor([1, -1, 0, 2])

Function = Callable[[Tensor], Tensor]
PROVED: dict[str, tuple[Function, bool]] = {
    "times truth values": (lambda x: x.relu() * FLAGS, True),
    "times bytes": (lambda x: x.relu() * LEVELS, True),
    "times whole numbers": (lambda x: x.relu() * SIGNS, False),
    "times truth values as whole numbers": (lambda x: x.relu() * FLAGS.long(), True),
    "times bytes that wrap": (lambda x: x.relu() * LEVELS.to(torch.int8), False),
    "plus truth values": (lambda x: x.relu() + FLAGS, True),
    "plus whole numbers": (lambda x: x.relu() + SIGNS, False),
    "plus a number": (lambda x: x.relu() + 2, True),
    "less a number": (lambda x: x.relu() + -2, False),
    "plus a multiple": (lambda x: torch.add(x.relu(), x.sigmoid(), alpha=2), True),
    "less a multiple": (lambda x: torch.add(x.relu(), x.sigmoid(), alpha=-2), False),
    "larger than one of them": (lambda x: torch.maximum(x, x.relu()), True),
    "clamped from below": (lambda x: x.clamp(min=0), True),
    "clamped from below by less": (lambda x: x.clamp(min=-0.1), False),
    "clamped from above": (lambda x: x.clamp(max=1), False),
    "relu clamped from above": (lambda x: x.relu().clamp(max=1), True),
    "relu clamped below nought": (lambda x: x.relu().clamp(max=-1), False),
    "clamped between crossed bounds": (lambda x: x.clamp(0, -1), False),
    "clamped by tensors": (lambda x: torch.clamp(x, x.sigmoid(), x.exp()), True),
    "clamped by a tensor of both signs": (lambda x: torch.clamp(x.relu(), x, -x.exp()), False),
    "hard tanh": (F.hardtanh, False),
    "hard tanh from nought": (lambda x: F.hardtanh(x, max_val=2.0, min_val=0.0), True),
    "relu6": (F.relu6, True),
    "soft plus": (F.softplus, True),
    "soft plus turned": (lambda x: F.softplus(x, -1.0), False),
    "soft plus cut": (lambda x: F.softplus(x, 1.0, -2.0), False),
    "average pool": (lambda x: F.avg_pool2d(x.relu(), 2, 1, 1), True),
    "average by a negative divisor": (lambda x: F.avg_pool2d(x.relu(), 2, divisor_override=-1), False),
    "average behind negative padding": (lambda x: F.avg_pool2d(F.pad(x.relu(), (1, 1), value=-1.0), 2), False),
    "max pool": (lambda x: F.max_pool2d(x.relu(), 2), True),
    "dilated max pool": (lambda x: F.max_pool2d(x.relu()[..., :1, :1], 2, 1, 1, dilation=2), False),
    "inverse root": (lambda x: (x * 0).rsqrt(), False),
    "single precision": (lambda x: x.relu().float(), True),
    "through whole numbers": (lambda x: (x.relu() * 300).to(torch.int8) * x.relu(), False),
    "complex": (lambda x: torch.view_as_real(torch.complex(x, x).exp()), False),
    "joined with whole numbers": (lambda x: torch.cat([x.relu(), SIGNS.view(1, 1, 1, 4).expand(2, 1, 1, 4)], 2), False),
    "sum of all": (lambda x: x.relu().sum(), True),
}


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * 1.0


@pytest.mark.parametrize("name", PROVED)
def test_signs_by_type_and_option(name: str) -> None:
    """What is proved, and no more: a negative entry is found at the places where nothing may be."""
    function, proved = PROVED[name]
    captured = capture(Model(function).eval(), (X,), {})
    run_passes(captured.module, CANONICAL)
    assert (captured.explained in signs.find_nonnegative(captured.graph)) is proved
    values = [function(scale * torch.cat([X[:1], -X[:1]])) for scale in (1, 100)]
    if proved:
        assert not any((value < 0).any() for value in values)


def test_sizes_are_not_negative() -> None:
    """Symbolic sizes and what is computed of them, as far as the guards tell."""
    for function, proved in ((lambda x: x.relu() * x.shape[0], True), (lambda x: x.relu() * (x.shape[0] - 9), False)):
        shapes = {"x": {0: torch.export.Dim("n", min=2, max=64)}}
        captured = capture(Model(function).eval(), (X,), {}, dynamic_shapes=shapes)
        run_passes(captured.module, CANONICAL)
        assert (captured.explained in signs.find_nonnegative(captured.graph)) is proved


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()


ROWS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("rules", sorted(set(PRESETS) - {"attnlrp_gamma"}))  # that treats the last dense layer apart
def test_relevance_that_starts_inside_is_that_of_the_part(rules: str) -> None:
    """At the end of a part of the model, coefficients are a seed of that part as a model."""
    model = network()
    seed = torch.linspace(-1, 2, 5).expand(3, 5).double()
    own = fxlrp.compile(model, rules=rules)(ROWS, inject={"2": seed}).relevance
    part = fxlrp.compile(model[:3].eval(), rules=rules)(ROWS, target=seed).relevance
    torch.testing.assert_close(own, part, rtol=1e-9, atol=1e-9)


def through(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c``."""
    return (c,)


@pytest.mark.parametrize("base", ["epsilon", "gradient"])
def test_nothing_is_assumed_of_a_rule_of_the_users(base: str) -> None:
    """Whatever it is called."""
    for kind in ("pointwise", "adjoint", "mine"):
        rules: Any = fxlrp.rule_set(base) | {aten.relu.default: Rule("through", kind, through)}
        twins = fxlrp.compile(network(), (ROWS,), rules=rules)._programs.last[0].plan.twins
        assert not any(twin.facts.dead_below for twin in twins.values())
    known = fxlrp.compile(network(), (ROWS,), rules=base)._programs.last[0].plan.twins
    assert sum(twin.facts.dead_below for twin in known.values()) == 2
