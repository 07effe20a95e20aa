"""What the analyses prove of a graph, held against what is true of random inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp import passes
from fxlrp.capture.functional_graph import capture
from fxlrp.ir.program import Captured, is_floating
from fxlrp.passes.analyses import liveness, sources
from fxlrp.passes.analyses.factors import find_factors
from fxlrp.plan.decide import Plan, make_plan

aten = torch.ops.aten
Function = Callable[..., Any]


class Model(nn.Module):
    """A function of the inputs, a weight and a table of vectors."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.linear, self.table = nn.Linear(4, 4), nn.Embedding(10, 4)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


X, Y = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def canonical(function: Function, *inputs: Tensor) -> Captured:
    captured = capture(Model(function).double().eval(), inputs or (X,), {})
    passes.run_passes(captured.module, passes.CANONICAL)
    return captured


def planned(function: Function, *inputs: Tensor, rules: str = "attnlrp") -> Plan:
    captured = capture(Model(function).double().eval(), inputs or (X,), {})
    return make_plan(captured, fxlrp.rule_set(rules), (), strict=True)


def op(node: fx.Node) -> str:
    name = node.target.__name__ if node.target is operator.getitem else str(node.target)
    return name.split(".")[1] if "." in name else name


def live_ops(made: Plan) -> list[str]:
    return [op(node) for node in made.twins]


def operands_of(made: Plan, name: str) -> list[list[str]]:
    """For each live op of a name the names of the nodes in its operand slots."""
    slots = {node: twin.slots for node, twin in made.twins.items()}
    return [[n.name for n in liveness.list_operands(node, slots[node])] for node in made.twins if op(node) == name]


# sources


@pytest.mark.parametrize(
    ("function", "inputs", "wanted"),
    [
        (lambda m, x: x * 2, (X,), [("inputs_0", 0)]),
        (lambda m, x, y: x * 2, (X, Y), [("inputs_0", 0), ("inputs_1", 0)]),
        (lambda m, ids: m.table(ids), (IDS,), [("inputs_0", 1)]),
        (lambda m, ids: m.table(ids) + m.table(ids), (IDS,), [("inputs_0", 1)] * 2),
        (lambda m, ids: m.table.weight[ids], (IDS,), [("inputs_0", 1)]),
        (lambda m, ids: m.table(ids.long().reshape(2, 3)), (IDS.int(),), [("inputs_0", 1)]),
        (lambda m, ids: m.table(ids.cumsum(1).clamp(max=9)), (IDS,), [("table", 1)]),
        (lambda m, ids: m.table(torch.arange(3)) + ids[..., None], (IDS,), []),
        (lambda m, x, ids: m.table(ids[:, 0]) + x[:2], (X, IDS), [("inputs_0", 0), ("inputs_1", 1)]),
        (lambda m, x, mask: x.masked_fill(mask, 0.0), (X, X > 0), [("inputs_0", 0)]),
    ],
    ids=[
        "float",
        "two",
        "tokens",
        "two lookups",
        "index",
        "cast tokens",
        "positions",
        "constant positions",
        "a part of the tokens",
        "mask",
    ],
)
def test_sources(function: Function, inputs: tuple[Tensor, ...], wanted: list[tuple[str, int]]) -> None:
    found = sources.find_sources(canonical(function, *inputs))
    summed = [len(s.node.meta["val"].shape) - len(s.dims) if s.dims is not None else 0 for s in found]
    assert [(source.name, number) for source, number in zip(found, summed, strict=True)] == wanted


# liveness


def test_live_nodes_lie_between_inputs_and_output() -> None:
    def function(m: Model, x: Tensor) -> Tensor:
        constant = (m.bias * 2).relu()
        aside = x.tanh()
        return torch.stack([m.linear(x).relu() + constant, x]).sum(0) * 1.0 + 0 * aside.detach()

    made = planned(function)
    assert "tanh" not in live_ops(made)
    assert live_ops(made).count("relu") == 1
    assert all(name != "p_bias" for names in operands_of(made, "add") for name in names)


def test_an_operand_used_twice_has_two_slots() -> None:
    assert operands_of(planned(lambda m, x: x * x), "mul") == [["inputs_0", "inputs_0"]]
    assert operands_of(planned(lambda m, x: torch.cat([x, m.bias.expand(3, 4), x])), "cat") == [["inputs_0"] * 2]


def test_integer_branches_are_dead() -> None:
    made = planned(lambda m, x: x.gather(1, x.argmax(1, keepdim=True)) + (x > 0))
    assert live_ops(made) == ["gather", "add"]


def test_liveness_ends_at_what_stops_relevance() -> None:
    def attend(m: Model, x: Tensor) -> Tensor:
        return (x @ m.linear(x).t()).softmax(-1) @ x

    assert {"softmax", "linear"} <= set(live_ops(planned(attend)))
    assert live_ops(planned(attend, rules="cp_lrp")) == ["matmul"]
    assert operands_of(planned(attend, rules="cp_lrp"), "matmul") == [["inputs_0"]]


def test_divisor_is_held_fixed_beside_a_numerator() -> None:
    assert operands_of(planned(lambda m, x: x / (x * x + 1)), "div") == [["inputs_0"]]
    made = planned(lambda m, x: m.bias / (x * x + 1))
    assert [len(names) for names in operands_of(made, "div")] == [1]
    assert "mul" in live_ops(made)


# gates and statistics


KINDS: dict[str, tuple[Function, bool]] = {
    "sigmoid": (lambda x: x.sigmoid(), True),
    "hard sigmoid": (F.hardsigmoid, True),
    "exp": (lambda x: x.exp(), True),
    "softplus": (F.softplus, True),
    "cosine": (lambda x: x.cos(), True),
    "erfc": (lambda x: torch.erfc(-x), True),
    "one plus tanh": (lambda x: 1 + x.tanh(), True),
    "one plus erf, scaled": (lambda x: 0.5 * (1 + torch.erf(x / 2)), True),
    "one minus sigmoid": (lambda x: 1 - x.sigmoid(), True),
    "tanh of softplus": (lambda x: F.softplus(x).tanh(), True),
    "one over one plus exp": (lambda x: 1 / (1 + torch.exp(-x)), True),
    "relu6 of a sum": (lambda x: F.relu6(x + 3), True),
    "relu6 of a sum, divided": (lambda x: F.relu6(x + 3) / 6, True),
    "sigmoid, viewed": (lambda x: x.sigmoid()[:, :1].expand(3, 4), True),
    "inverse root mean square": (lambda x: torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), True),
    "inverse root, by a power": (lambda x: (x.pow(2).mean(-1, keepdim=True) + 1e-6) ** -0.5, True),
    "inverse norm": (lambda x: x.norm(dim=-1, keepdim=True).clamp_min(1e-6).reciprocal(), True),
    "inverse deviation": (lambda x: 1 / x.std(-1, keepdim=True), True),
    "inverse sum": (lambda x: 1 / x.exp().sum(-1, keepdim=True), True),
    "tanh": (lambda x: x.tanh(), False),
    "tanh plus zero": (lambda x: x.tanh() + 0, False),
    "tanh less zeros": (lambda x: torch.zeros(4, dtype=torch.float64) - x.tanh(), False),
    "input": (lambda x: x * 2 + 1, False),
    "mean": (lambda x: x.mean(-1, keepdim=True), False),
    "mean square": (lambda x: x.pow(2).mean(-1, keepdim=True), False),
    "reciprocal": (lambda x: 1 / x, False),
    "relu6": (F.relu6, False),
    "relu6 of a sum past its end": (lambda x: F.relu6(x + 7), False),
    "clamp from below zero": (lambda x: (x + 1).clamp(-2, 2), False),
    "product with a sigmoid": (lambda x: x * x.sigmoid(), False),
    "sigmoid plus input": (lambda x: x.sigmoid() + x, False),
    "softmax": (lambda x: x.softmax(-1), False),
    "relu": (F.relu, False),
}


@pytest.mark.parametrize("name", KINDS)
def test_factors(name: str) -> None:
    """What gates or normalises is held fixed beside another live factor, and only that."""
    function, fixed = KINDS[name]
    made = planned(lambda m, x, y: y * function(x), X, Y)
    captured = made.captured
    last = [n for n in captured.graph.nodes if n.target is aten.mul.Tensor][-1]
    dependent = liveness.find_dependents(captured.graph, captured.inputs)
    assert (last.args[1] in find_factors(captured.graph, dependent)) is fixed
    assert len(made.twins[last].slots) == (1 if fixed else 2)


def test_gradient_holds_nothing_fixed() -> None:
    made = planned(lambda m, x, y: y * x.sigmoid() / x.norm(), X, Y, rules="gradient")
    assert [len(names) for name in ("mul", "div") for names in operands_of(made, name)] == [2, 2]


def test_two_gates_halve() -> None:
    assert len(operands_of(planned(lambda m, x, y: x.sigmoid() * y.sigmoid(), X, Y), "mul")[-1]) == 2


# signs


def everything_nonnegative(m: Model, x: Tensor) -> Tensor:
    a, b = x.relu(), m.linear(x).sigmoid()
    c = torch.cat([a + b, a * b, a * 3, a + 2.0], 1)
    d = F.max_pool1d(c[:, None], 2, 1)[:, 0].amax(1, keepdim=True) * x.abs()
    e = torch.maximum(d, a) + x.exp().mean(1, keepdim=True) + x.norm(dim=1, keepdim=True)
    return (
        e.reshape(2, 6)[:, ::2].unsqueeze(0).expand(2, 2, 3).permute(1, 0, 2) + x.clamp(0, 2).sum() + x.softmax(1).sum()
    )


def mixed(m: Model, x: Tensor) -> Tensor:
    a, b = x.relu(), x.sigmoid()
    return torch.cat(
        [a - b, a + m.bias, a * m.bias, a * -1, a + -0.5, torch.add(a, b, alpha=-2), -a, x.clamp(-1, 2), x.clamp(max=1),
         torch.maximum(x, -x), F.hardtanh(x), F.relu6(x), torch.cat([a, x]).sum(0, keepdim=True), 1 - b, x * x, x**2,
         (a + b).sqrt(), torch.where(x > 0, x, 0.0), F.avg_pool1d(x[:, None], 2, 2)[:, 0].repeat(1, 2), x.log1p().abs(),
         torch.rsqrt(b), F.softplus(x), F.gelu(x), x.mean(1, keepdim=True).expand(3, 4), a.T.reshape(3, 4)[:1] * 2 - 1]
    )  # fmt: skip


class Values(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.kept = {**getattr(self, "kept", {}), n: value}
        return value


@pytest.mark.parametrize("function", [everything_nonnegative, mixed], ids=lambda f: f.__name__)
def test_signs_hold_on_random_inputs(function: Function) -> None:
    captured = canonical(function)
    proved = liveness.find_nonnegative(captured.graph)
    placeholders = [n for n in captured.graph.nodes if n.op == "placeholder"]
    for seed in range(20):
        x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
        values = {**captured.constants, captured.inputs[0]: x}
        interpreter = Values(captured.module)
        interpreter.run(*(values[n] for n in placeholders))
        wrong = [n.name for n in proved if (interpreter.kept[n] < 0).any()]
        assert not wrong


def test_signs_are_proved_where_they_can_be() -> None:
    captured = canonical(everything_nonnegative)
    proved = liveness.find_nonnegative(captured.graph)
    linear = [n for n in captured.graph.nodes if op(n) == "linear"]
    calls = [n for n in captured.graph.nodes if n.op == "call_function" and is_floating(n) and n not in linear]
    depends = passes.manager.find_input_dependent(captured.graph)
    assert [n.name for n in calls if n not in proved and n in depends] == []
    assert captured.explained in proved
    assert not proved & set(linear)
    assert captured.explained not in liveness.find_nonnegative(canonical(mixed).graph)


# dead sides and chains


def dead(function: Function, rules: str = "attnlrp") -> set[str]:
    made = planned(function, rules=rules)
    return {op(node) for node, twin in made.twins.items() if twin.facts.dead_below}


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda m, x: m.linear(m.linear(x).relu()), {"linear"}),
        (lambda m, x: (y := m.linear(x)).relu() + y, set()),
        (lambda m, x: m.linear(x), set()),
        (lambda m, x: F.leaky_relu(m.linear(x)), set()),
        (lambda m, x: (y := m.linear(x)).relu() * y.detach(), {"linear"}),
        (lambda m, x: ((x * 2).relu() + m.linear(x).relu()).relu(), {"mul", "linear", "add"}),
    ],
    ids=["relu", "skip", "output", "leaky relu", "skip that is stopped", "sum of relus"],
)
def test_dead_sides(function: Function, wanted: set[str]) -> None:
    assert dead(function) == wanted


def test_a_dead_side_is_true() -> None:
    """The coefficient of the output is 0 where the analysis says so: both forms of gamma agree."""
    own = Model(lambda m, x: m.linear(m.linear(x).relu()).sum(-1)).double().eval()
    gamma = fxlrp.rules.weighted.gamma(0.5)
    slow = fxlrp.Rule("slow", "weighted", lambda site, c: gamma(replace_facts(site), c))
    rules = (fxlrp.rule_set("attnlrp") | {aten.linear.default: each} for each in (gamma, slow))
    one, two = (fxlrp.compile(own, rules=each)(X).relevance for each in rules)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def replace_facts(site: fxlrp.Site) -> fxlrp.Site:
    return fxlrp.Site(site.op, site.leaves, site.spec, site.slots, site.out)


def shares(function: Function, *inputs: Tensor) -> list[tuple[float, ...]]:
    made = planned(function, *inputs)
    return list(liveness.split_chains({n: t.slots for n, t in made.twins.items()}).values())


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda m, x, y: x * y, [(1 / 2, 1 / 2)]),
        (lambda m, x, y: x * y * x, [(1 / 2, 1 / 2), (2 / 3, 1 / 3)]),
        (lambda m, x, y: x * (y * x), [(1 / 2, 1 / 2), (1 / 3, 2 / 3)]),
        (lambda m, x, y: (x * y) * (y * x), [(1 / 2, 1 / 2), (1 / 2, 1 / 2), (1 / 2, 1 / 2)]),
        (lambda m, x, y: -(x * y) / 2 * x, [(1 / 2, 1 / 2), (2 / 3, 1 / 3)]),
        (lambda m, x, y: x**3 * y, [(3 / 4, 1 / 4)]),
        (lambda m, x, y: (x * y).relu() * y, [(1 / 2, 1 / 2), (1 / 2, 1 / 2)]),
        (lambda m, x, y: (z := x * y) * x + z, [(1 / 2, 1 / 2), (1 / 2, 1 / 2)]),
        (lambda m, x, y: x * m.bias * y, [(1.0,), (1 / 2, 1 / 2)]),
    ],
    ids=["two", "left", "right", "balanced", "signs", "power", "relu between", "used twice", "constant"],
)
def test_chain_shares(function: Function, wanted: list[tuple[float, ...]]) -> None:
    assert shares(function, X, Y) == [pytest.approx(w) for w in wanted]
