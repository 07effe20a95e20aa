"""Random small graphs: the gradient oracle, ledgers that close, the traced program against a plain walk, finiteness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from warnings import catch_warnings, filterwarnings

import graphs as module
import pytest
import torch
from graphs import INPUTS, LEDGERS, Call, Graph, Pack, alone, build, failures, judged, reduced
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from steps import OPERANDS, STEPS

from fxlrp.plan.decide import make_plan
from fxlrp.reports.ledger import Ledger, LedgerEntry
from fxlrp.rules import PRESETS

TOGETHER = 25
"""Graphs of an example, which are captured as one model."""
PARTS = 10
"""Tests that share the graphs, so that they run side by side."""
EXAMPLES = 4
TRACED = 6
"""One example in so many is traced as well: that takes longer than all the rest."""


@pytest.fixture(autouse=True)
def _torch_warns() -> Iterator[None]:
    """Torch warns of its own gradient of a real operand beside a complex one."""
    with catch_warnings():
        filterwarnings("ignore", "Casting complex values to real", UserWarning)
        yield


@st.composite
def packs(draw: st.DrawFn) -> list[Graph]:
    return [build(lambda n: draw(st.integers(0, n - 1))) for _ in range(TOGETHER)]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=EXAMPLES,
    phases=[Phase.generate],  # a graph that fails is made small by itself, not with those around it
    suppress_health_check=list(HealthCheck),
)
@given(packs())
def test_random_graphs(part: int, graphs: list[Graph]) -> None:
    """A thousand, the same at every run; benchmarks/fuzz.py has as many as there is time for."""
    chance = random.Random(str(graphs[-1]))
    found = failures(graphs, chance.choice(LEDGERS), chance.randrange(TRACED) == 0)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("rules", LEDGERS)
def test_every_step(rules: str) -> None:
    """None is left to chance."""
    every = [Graph(("sequence", "batch"), (Call(name, (0, 1)[: OPERANDS[name]]),), 5) for name in STEPS]
    own = every[LEDGERS.index(rules) :: len(LEDGERS)]
    found = failures(own, rules, True)
    assert not found, "\n".join(found)


def test_every_step_takes_every_value() -> None:
    """The generator draws freely, as no step depends on the shapes or types of its operands."""
    given = [x for kind in INPUTS for x in Graph((kind,)).sample()]
    given += [given[2].float(), given[2] * 1j, given[0] * 1j]
    for name, step in STEPS.items():
        for a in given:
            for b in given if OPERANDS[name] == 2 else given[:1]:
                assert step(module.PARAMETERS, *(a, b)[: OPERANDS[name]]).numel(), name


def test_a_plan_leaves_nothing_to_rewrite() -> None:
    """So that one capture serves several rule sets in turn."""
    pack = Pack.of([build(random.Random(i).randrange) for i in range(TOGETHER)])
    make_plan(pack.captured, PRESETS["gradient"], (), True)
    assert not any(make_plan(pack.captured, PRESETS["attnlrp"], (), True).rewrites.values())


def test_a_failure_is_told_by_its_smallest_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (Call("relu", (0,)), Call("sine", (2,)), Call("product", (3, 1)), Call("tanh", (4,)))
    graph = Graph(("vector", "batch"), calls, 7)
    assert alone(graph, "epsilon") == ""

    def wrong(graphs: list[Graph], rules: str, traced: bool) -> list[str]:
        bad = [any(step.name == "sine" for step in g.steps) for g in graphs]
        return ["wrong: 1" if b else "passes" for b in bad]

    monkeypatch.setattr(module, "judged", wrong)
    small, verdict = reduced(graph, "epsilon")
    assert (str(small), verdict) == ("seed 7: v0 = batch[2, 3]; v1 = sine(v0)", "wrong: 1")


def test_a_wrong_relevance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle, the account and the comparison with the program each tell."""
    graph = Graph(("vector",), (Call("sine", (0,)),), 7)
    walk = Pack.walk
    monkeypatch.setattr(Pack, "walk", lambda *args: {name: 2 * r for name, r in walk(*args).items()})
    assert judged([graph], "epsilon", True)[0].startswith("gradient oracle: relative error")
    monkeypatch.setattr(module, "against_gradient", lambda *args: "")
    assert judged([graph], "epsilon", True)[0].startswith("traced relevance: relative error")
    monkeypatch.setattr(module, "weights", lambda n: torch.ones(n, dtype=torch.float64))
    monkeypatch.setattr(Pack, "account", lambda *args: fabricated(args[0]))
    assert judged([graph], "epsilon", True)[0].startswith("ledger of attnlrp: relative gap")


def fabricated(pack: Pack) -> tuple[Ledger, torch.Tensor]:
    entry = LedgerEntry("sin", "", "", "graphs.0", "", 0.0, 0.0, 0.0, 0.0, 0.0, (), 0.0)
    return Ledger(0.0, {pack.names[0][0]: 1e3}, (entry,), {}), torch.zeros(3)
