"""Stabilisers that clip or measure what they move: against zennit's, and where nothing is left to divide."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from reference import Call
from sites import agree, result, site
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.ir.numerics import Stabiliser, stabilise
from fxlrp.ir.rule import Facts
from fxlrp.rules import weighted

import_torchvision()

import zennit.core  # noqa: E402
import zennit.rules  # noqa: E402

aten = torch.ops.aten
OPTIONS: dict[str, dict[str, Any]] = {
    "added": {"epsilon": 0.3},
    "clipped": {"epsilon": 0.3, "clip": True},
    "scaled": {"epsilon": 0.3, "norm_scale": True},
    "clipped and scaled": {"epsilon": 0.3, "clip": True, "norm_scale": True},
    "scaled along one dimension": {"epsilon": 0.3, "norm_scale": True, "dim": (1,)},
}
RULES: dict[str, tuple[Any, Any]] = {
    "epsilon": (weighted.epsilon, zennit.rules.Epsilon),
    "z_plus": (weighted.z_plus, zennit.rules.ZPlus),
    "alpha_beta": (lambda e: weighted.alpha_beta(2.0, 1.0, e), lambda e: zennit.rules.AlphaBeta(2.0, 1.0, e)),
    "z_box": (lambda e: weighted.z_box(-4.0, 4.0, e), lambda e: zennit.rules.ZBox(-4.0, 4.0, e)),
}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def explain_with_zennit(rule: Any, layer: nn.Module, x: Tensor, r: Tensor) -> Tensor:
    """Relevance of the input of a layer, given that of its output."""
    handles = rule.copy().register(layer)
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(layer(x), x, r)
    handles.remove()
    return found


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_every_option_is_that_of_zennit(kind: str, rule: str, options: str) -> None:
    torch.manual_seed(0)
    layer = (nn.Linear(6, 5) if kind == "dense" else nn.Conv2d(2, 4, 3, padding=1)).double()
    x = random(3, 6) if kind == "dense" else random(3, 2, 5, 5)
    ours, theirs = RULES[rule]
    op = aten.linear.default if kind == "dense" else aten.conv2d.default
    more = [] if kind == "dense" else [[1, 1], [1, 1]]
    call = Call(op, (x, layer.weight.detach(), layer.bias.detach(), *more))
    c = random(*reversed(call.out.shape)).permute(*reversed(range(call.out.ndim)))
    (found,) = result(ours(Stabiliser(**OPTIONS[options])), site(call), c)
    wanted = explain_with_zennit(theirs(zennit.core.Stabilizer(**OPTIONS[options])), layer, x, c * call.out)
    agree([found if rule == "z_box" else found * x], [wanted], 1e-12)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_what_is_known_of_signs_changes_nothing(rule: str, options: str) -> None:
    """An output whose coefficient is 0 counts in the scale all the same."""
    call = Call(aten.linear.default, (random(3, 6).abs(), random(5, 6), random(5)))
    c, made = torch.where(call.out > 0, random(5, 3).T, 0.0), RULES[rule][0](Stabiliser(**OPTIONS[options]))
    agree(result(made, site(call, Facts(True, True)), c), result(made, site(call), c), 1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_function_is_that_of_zennit(options: str) -> None:
    z = torch.cat([random(3, 4), torch.zeros(3, 1).double()], 1)
    wanted = zennit.core.stabilize(z, **OPTIONS[options])
    torch.testing.assert_close(stabilise(z, Stabiliser(**OPTIONS[options])), wanted, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(Stabiliser(**OPTIONS[options]).keep(z), z / wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_nothing_divides_by_zero_and_infinite_entries_keep_all(options: str, dtype: torch.dtype) -> None:
    made = Stabiliser(**OPTIONS[options] | {"epsilon": 0.0})
    z = torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=dtype)
    assert (stabilise(z, made).abs() > 0).all()
    torch.testing.assert_close(made.keep(z), torch.where(z == 0, 0.0, 1.0).to(z.real.dtype))
    masked = torch.tensor([[1.0, -torch.inf]])
    kept = Stabiliser(**OPTIONS[options]).keep(masked)
    assert kept[0, 1] == 1
    assert 0 < kept[0, 0] <= 1


def test_a_number_says_the_same() -> None:
    call = Call(aten.linear.default, (random(3, 6), random(5, 6), random(5)))
    c = random(5, 3).T
    for make in (weighted.epsilon, weighted.z_plus, weighted.alpha_beta, weighted.with_weights):
        extra = (torch.abs,) if make is weighted.with_weights else ()
        found, wanted = (
            result(make(*extra, e=e), site(call), c)  # type: ignore[operator]
            for e in (Stabiliser(1e-3), 1e-3)
        )
        agree(found, wanted, 1e-12)


def test_rules_of_a_stabiliser_are_values() -> None:
    made = weighted.epsilon(Stabiliser(0.25, clip=True, norm_scale=True, dim=(1,)))
    assert made.name == "epsilon(Stabiliser(0.25, clip=True, norm_scale=True, dim=(1,)))"
    assert made == weighted.epsilon(Stabiliser(0.25, True, True, (1,))) == pickle.loads(pickle.dumps(made))
    assert made != weighted.epsilon(Stabiliser(0.25))
    assert made.limit == weighted.epsilon(0.0)


def test_a_model_under_such_a_rule() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    rules = fxlrp.rule_set("epsilon") | {aten.linear.default: weighted.epsilon(Stabiliser(0.1, norm_scale=True))}
    x = random(3, 4)
    attributor = fxlrp.compile(model, rules=rules)
    found = attributor(x, target=1)
    alone = torch.cat([attributor(one, target=1).relevance for one in x.split(1)])
    torch.testing.assert_close(found.relevance, alone, rtol=1e-12, atol=1e-14)
    ledger = attributor.ledger(x, target=1)
    assert abs(ledger.gap) < 1e-10 < ledger.stabiliser


@pytest.mark.parametrize("number", [-1.0, torch.inf, torch.nan])
def test_an_epsilon_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(RuleError, match="finite epsilon of at least 0"):
        Stabiliser(number)


@pytest.mark.parametrize("make", [weighted.gamma, weighted.flat, weighted.w_square])
def test_rules_that_need_a_number_say_so(make: Any) -> None:
    rules = fxlrp.rule_set("epsilon") | {aten.linear.default: make(e=Stabiliser(0.1, clip=True))}
    with pytest.raises(RuleError, match="needs a number as its stabiliser"):
        fxlrp.compile(nn.Linear(3, 2).eval(), rules=rules)(torch.randn(1, 3), target=0)
