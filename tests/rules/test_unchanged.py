"""Relevance of units whose value is 0, which no coefficient stands for."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from cases import CASES, OpCase
from reference import Call
from sites import agree, numbers, seed, site
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.ir.numerics import Relevance
from fxlrp.rules.unchanged import passed
from fxlrp.rules.weighted import epsilon, flat, w_square, z_box, z_plus

import_torchvision()

import zennit.core  # noqa: E402
import zennit.rules  # noqa: E402

aten = torch.ops.aten
LAYERS = (aten.linear.default, aten.conv2d.default)


@pytest.mark.parametrize("case", [row for row in CASES if row.chosen.takes_relevance], ids=str)
def test_relevance_goes_where_its_coefficient_would_take_it(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    whole = torch.where(at.out.isinf(), 0.0, at.out * c).real
    by_coefficient = [
        (torch.where(x.isinf(), 0.0, x) * part).real for part, x in zip(case.chosen(at, c), at.operands, strict=True)
    ]
    agree(numbers(case.chosen(at, Relevance(0.0, whole)), at.operands), by_coefficient, 1e-9)
    half = case.chosen(at, Relevance(c / 2, whole / 2))
    agree(numbers(half, at.operands), by_coefficient, 1e-9)


class Network(nn.Module):
    """Every op that hands relevance on, between layers, with many units of value 0."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, bias=bias), nn.Conv2d(6, 8, 2, bias=bias)
        self.dense, self.head = nn.Linear(32, 12, bias=bias), nn.Linear(12, 3, bias=bias)
        self.relus, self.pool = nn.ModuleList(nn.ReLU() for _ in range(3)), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relus[0](self.first(x)))
        x = self.relus[1](self.second(x)).flatten(1)
        return self.head(self.relus[2](self.dense(x)))


def network(bias: bool = True) -> tuple[Network, Tensor]:
    torch.manual_seed(1)
    return Network(bias).double().eval().requires_grad_(False), torch.rand(2, 2, 8, 8, dtype=torch.float64)


def everywhere(rule: fxlrp.Rule) -> fxlrp.RuleSet:
    return fxlrp.rule_set("epsilon") | dict.fromkeys(LAYERS, rule)


@pytest.mark.parametrize("rule", [flat(1e-12), w_square(1e-12), z_box(-9.0, 9.0, 1e-12)], ids=str)
def test_no_relevance_is_lost_at_units_of_value_0(rule: fxlrp.Rule) -> None:
    model, x = network(bias=False)
    attributor = fxlrp.compile(model, rules=everywhere(rule), read=("relus.*", "first", "second", "dense", "pool"))
    result = attributor(x, target=1)
    for name, r in {**result.read, "input": result.relevance}.items():
        torch.testing.assert_close(r.flatten(1).sum(1), result.output[:, 1], rtol=1e-8, atol=1e-10, msg=name)
    ledger = attributor.ledger(x, target=1)
    assert abs(ledger.gap) <= 1e-8 * abs(ledger.explained)
    assert all(abs(e.received - e.passed) <= 1e-8 * abs(ledger.explained) for e in ledger.entries)


@pytest.mark.parametrize("lower", [epsilon(1e-12), z_plus(1e-12)], ids=str)
def test_a_rule_with_a_coefficient_passes_on_what_reaches_units_below_0(lower: fxlrp.Rule) -> None:
    """What is known of coefficients behind a ReLU does not hold of relevance."""
    model, x = network(bias=False)
    rules = everywhere(lower).where(flat(1e-12), module="second").where(flat(1e-12), module="dense")
    result = fxlrp.compile(model, rules=rules, read=("relus.*", "first"))(x, target=1)
    before = result.read["first"].flatten(1)
    assert bool(((before != 0) & (model.first(x).flatten(1) < 0)).any())
    # but for the stabiliser of 1e-6 that turns relevance into a coefficient
    torch.testing.assert_close(result.relevance.flatten(1).sum(1), before.sum(1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(flat(), zennit.rules.Flat), (w_square(), zennit.rules.WSquare)],
    ids=["flat", "w_square"],
)
def test_zennit_inside_a_network(ours: fxlrp.Rule, theirs: Callable[[], zennit.core.Hook]) -> None:
    """With biases, of which w-square counts the squares."""
    model, x = network()
    result = fxlrp.compile(model, rules=everywhere(ours))(x, target=[1, 2])
    layers = (model.first, model.second, model.dense, model.head)
    handles = [theirs().register(layer) for layer in layers]
    handles += [zennit.rules.Pass().register(relu) for relu in model.relus]
    try:
        given = x.clone().requires_grad_()
        y = model(given)
        chosen = nn.functional.one_hot(torch.tensor([1, 2]), 3) * y.detach()
        (expected,) = torch.autograd.grad(y, given, chosen)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(result.relevance, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("rules", "hooks"),
    [
        (everywhere(flat()).with_norms_apart(passed), (zennit.rules.Flat, zennit.rules.Pass, zennit.rules.Flat)),
        (
            everywhere(w_square()).with_norms_apart(passed),
            (zennit.rules.WSquare, zennit.rules.Pass, zennit.rules.WSquare),
        ),
        (
            fxlrp.rule_set("epsilon_plus").with_norms_apart(),
            (zennit.rules.ZPlus, zennit.rules.Epsilon, zennit.rules.Epsilon),
        ),
    ],
    ids=["flat, norms passed", "w_square, norms passed", "epsilon_plus, norms apart"],
)
def test_zennit_with_norms_that_are_not_merged(
    rules: fxlrp.RuleSet, hooks: tuple[Callable[[], zennit.core.Hook], ...]
) -> None:
    """Passed through as its composites do where no canonizer merges them, or with a rule of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    for value in (model[1].weight.data, model[1].bias.data, model[1].running_mean):
        value.normal_()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    result = fxlrp.compile(model.eval(), rules=rules)(x, target=[1, 2])
    handles = [hook().register(model[i]) for hook, i in zip((*hooks, zennit.rules.Pass), (0, 1, 4, 2), strict=True)]
    try:
        given = x.clone().requires_grad_()
        y = model(given)
        (expected,) = torch.autograd.grad(y, given, nn.functional.one_hot(torch.tensor([1, 2]), 3) * y.detach())
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(result.relevance, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("op", [aten.relu.default, aten.sigmoid.default, aten.cos.default], ids=str)
def test_relevance_is_handed_down_whatever_the_op_does(op: object) -> None:
    at = site(Call(op, (torch.linspace(-2, 2, 5).double().view(1, 5),)))
    c = seed(at.out)
    agree(numbers(passed(at, c), at.operands), [c * at.out])
    rest = Relevance(c / 2, c)
    agree(numbers(passed(at, rest), at.operands), [c / 2 * at.out + c])


def test_relevance_is_handed_down_to_one_operand() -> None:
    assert pickle.loads(pickle.dumps(passed)) is passed
    model, x = network()
    for op in (aten.linear.default, aten.max_pool2d.default):
        with pytest.raises(RuleError, match="rule passed hands relevance to one operand, shaped as the output"):
            fxlrp.compile(model, rules=fxlrp.rule_set("epsilon") | {op: passed}, args=(x,))
