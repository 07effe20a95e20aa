"""What the weighted rules cost, and what they know of signs, together."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from cases import CLOSURES, SIGNS, WEIGHTED, OpCase
from sites import agree, result, seed, site
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import fxlrp
from fxlrp.backends.constants import split_constants
from fxlrp.ir.numerics import Relevance
from fxlrp.ir.rule import Facts
from fxlrp.rules import weighted

aten = torch.ops.aten
X = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Five convolutions, of which the last is explained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(4 if i else 2, 4, 3, padding=1), activation(), *([nn.MaxPool2d(2)] if i == 1 else [])]
    return nn.Sequential(*layers, nn.Conv2d(4, 3, 6), nn.Flatten()).eval()


def calls(rules: str | fxlrp.RuleSet, model: nn.Module) -> Counter[str]:
    """How often the program calls each op when its constants are prepared."""
    program = fxlrp.compile(model, rules=rules, args=(X,)).program
    return Counter(
        str(n.target).split(".")[1] for n in split_constants(program.module)[0].graph.nodes if "aten" in str(n.target)
    )


@pytest.mark.parametrize(
    ("rules", "forward", "adjoint"),
    [
        ("gradient", 5, 5),
        ("epsilon", 5, 5),
        ("epsilon_plus_flat", 5 + 4, 5),  # z+ of every layer but the first
        ("epsilon_alpha2_beta1_flat", 5 + 4 + 1, 5 + 4),  # z+ is z + z- where z > 0; the last takes both
        (
            "epsilon_gamma_box",
            5 + 4,
            5 + 1 + 1,
        ),  # one weight for outputs that feed a relu; the box and the last take two
    ],
)
def test_convolutions_are_as_few_as_there_are_unknowns(rules: str, forward: int, adjoint: int) -> None:
    found = calls(rules, network())
    assert (found["convolution"], found["convolution_backward"]) == (forward, adjoint)


@pytest.mark.parametrize(("rules", "forward", "adjoint"), [("gamma", 2, 2), ("alpha_beta", 5, 4), ("z_plus", 3, 2)])
def test_inputs_of_both_signs_take_little_more(rules: str, forward: int, adjoint: int) -> None:
    made = getattr(weighted, rules)()
    table = fxlrp.rule_set("attnlrp") | {aten.conv2d.default: made}
    found = calls(table.named(rules), network(nn.Tanh))
    assert (found["convolution"], found["convolution_backward"]) == (5 * forward, 5 * adjoint)


@pytest.mark.parametrize("rules", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"])
def test_layers_between_relus_need_no_mask(rules: str) -> None:
    found = calls(rules, network())
    assert found["threshold_backward"] == 0
    assert found["where"] <= 1  # infinite inputs have no relevance


@pytest.mark.parametrize("rules", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_single_precision_keeps_its_digits(rules: str) -> None:
    """In norm, though the rules divide by differences."""
    model = network()
    single = fxlrp.compile(model, rules=rules)(X, target=1).relevance
    double = fxlrp.compile(model.double(), rules=rules)(X.double(), target=1).relevance
    assert (single - double).norm() < 1e-5 * double.norm()


@pytest.mark.parametrize("case", [row for row in WEIGHTED if "alpha_beta" in str(row.chosen)], ids=str)
def test_no_difference_is_taken_of_a_coarse_output(case: OpCase) -> None:
    """The output of a model in half precision has few digits: it scales what comes in, and no more."""
    fine = site(case.call)
    coarse = site(case.call, out=fine.out.bfloat16().double())
    c = seed(fine.out)
    agree(result(case.chosen, coarse, c), result(case.chosen, fine, c * coarse.out / fine.out))


@pytest.mark.parametrize("case", [row for row in WEIGHTED if row.label.endswith("nonnegative")], ids=str)
def test_a_true_sign_and_a_true_dead_side_change_nothing_together(case: OpCase) -> None:
    at = site(case.call)
    c = torch.where(at.out < 0, 0.0, seed(at.out))
    known = site(case.call, Facts(nonnegative=True, dead_below=True))
    agree(result(case.chosen, known, c), result(case.chosen, at, c), 1e-12)


@pytest.mark.parametrize("make", [weighted.gamma, weighted.alpha_beta, weighted.epsilon, weighted.z_plus])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_a_stabiliser_nothing_is_infinite(make: type, dtype: torch.dtype) -> None:
    """Outputs that are 0, and contributions that cancel, as in 0.1 + 0.2 - 0.3."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=dtype)
    w = torch.tensor([[0.1, 0.2, -0.3], [0.5, 0.25, 1e-12], [0.5, 0.25, -1e-12]], dtype=dtype)

    def apply(x: Tensor, facts: Facts) -> Tensor:
        call = fxlrp.Site(aten.linear.default, (x, w), tree(x, w), (0,), x @ w.T, facts)
        (part,) = make(e=0.0)(call, torch.ones(3, 3, dtype=dtype))
        assert not isinstance(part, Relevance)
        return part

    for facts in (Facts(), Facts(nonnegative=True)):
        assert apply(x, facts).isfinite().all()


Call = tuple[Any, ...]


def at(position: int, change: Callable[[Tensor], Tensor]) -> Callable[[Call], Call]:
    """Change one argument of ``(x, weight, bias, ...)``, if there is one."""
    return lambda args: tuple(change(a) if i == position and isinstance(a, Tensor) else a for i, a in enumerate(args))


def at_both(first: Callable[[Call], Call], second: Callable[[Call], Call]) -> Callable[[Call], Call]:
    return lambda args: second(first(args))


DEGENERATE: dict[str, Callable[[Call], Call]] = {
    "ordinary": lambda args: args,
    "inputs of 0": at(0, torch.zeros_like),
    "inputs and bias of 0": at_both(at(0, torch.zeros_like), at(2, torch.zeros_like)),
    "weights of 0": at(1, torch.zeros_like),
    "weights and bias of 0": at_both(at(1, torch.zeros_like), at(2, torch.zeros_like)),
    "weights above 0": at(1, lambda w: w.abs() + 0.1),
    "weights below 0": at(1, lambda w: -w.abs() - 0.1),
    "biased weights": at(1, lambda w: 1e-7 * w + 0.1),
    "one sign": at_both(at(1, lambda w: w.abs() + 0.1), at(2, torch.abs)),
    "other sign": at_both(at(1, lambda w: -w.abs() - 0.1), at(2, lambda b: -b.abs())),
    "a corner of the box": at(0, lambda x: torch.full_like(x, -3.0)),
    "the other corner": at(0, lambda x: torch.full_like(x, 4.0)),
    "one input": at(0, lambda x: torch.where(torch.arange(x.numel()).view(x.shape) == x.numel() // 2, x, 0.0)),
}
"""What leaves an output without contributions of one sign, or of any, or with some that are far from each other."""


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


WITH_BIAS = {name for name in CLOSURES if not name.endswith("without bias")}

CALLS: list[tuple[Any, Call]] = [
    (aten.linear.default, (random(2, 6), random(5, 6), random(5))),
    (aten.linear.default, (random(2, 3, 6), random(5, 6))),
    (aten.conv1d.default, (random(2, 2, 4), random(3, 2, 2), random(3), [1], [3])),  # some outputs see padding only
    (aten.conv2d.default, (random(2, 4, 4, 3), random(4, 2, 3, 2), random(4), [2, 1], [1, 0], [1, 2], 2)),
    (aten.conv_transpose2d.input, (random(2, 4, 2, 3), random(4, 2, 2, 2), random(4), [2, 1], [1, 0], [1, 0], 2)),
]


def degenerate_calls(*scales: float) -> Iterator[tuple[str, reference.Call, Facts]]:
    """Every op of the above on every degenerate input, of both signs and of one, at several scales."""
    for op, args in CALLS:
        for (name, degenerate), scale, (sign, signed) in itertools.product(DEGENERATE.items(), scales, SIGNS.items()):
            x, *rest = degenerate(args)
            label = f"{op}, {name}, {sign}, times {scale:g}"
            yield label, reference.Call(op, (scale * signed(x), *rest), {}, (0,)), Facts(bool((signed(x) >= 0).all()))


@pytest.mark.parametrize("closure", leave_to_slow(CLOSURES, but=sorted(WITH_BIAS)[::3]))
def test_degenerate_sites_agree_with_the_formula(closure: str) -> None:
    """Both with what the analyses may prove of them and without."""
    rule, formula = CLOSURES[closure](1e-6)
    for label, call, facts in degenerate_calls(1.0):
        if closure == "flat" and not call.args[1].any():
            continue  # the formula reads the receptive field off the weights that are not 0
        every = site(call)
        c = seed(every.out)
        alive = torch.where(every.out < 0, 0.0, c)
        for own, premises in ((c, (Facts(), facts)), (alive, (replace(facts, dead_below=True),))):
            wanted = reference.weighted(formula, 1e-6)(call, own)
            size = max(float(wanted[0].abs().max()), float((own * every.out).abs().max()))
            for chosen in premises:
                found = result(rule, site(call, chosen, every.out), own)
                torch.testing.assert_close(*found, *wanted, rtol=1e-9, atol=1e-9 * size, msg=f"{label}, {chosen}")


@pytest.mark.slow
@pytest.mark.parametrize("closure", CLOSURES)
def test_degenerate_sites_stay_finite_without_a_stabiliser(closure: str) -> None:
    """The ledger tells by the limit of a rule what its stabiliser keeps."""
    rule, _ = CLOSURES[closure](1e-6)
    assert rule.limit is not None
    for label, call, facts in degenerate_calls(1e-6, 1.0, 255.0, 1e6):
        c = seed(site(call).out)
        for chosen in (Facts(), facts, replace(facts, dead_below=True)):
            (found,) = result(rule.limit, site(call, chosen), torch.where(site(call).out < 0, 0.0, c))
            assert found.isfinite().all(), f"{label}, {chosen}"


STEADY = [
    name
    for name in CLOSURES
    if "with_weights" not in name and name not in ("epsilon without bias", "gamma without bias")
]
"""Rules of which no denominator is a small difference of large sums unless the output is."""


@pytest.mark.slow
@pytest.mark.parametrize("closure", STEADY)
def test_degenerate_sites_keep_their_digits_in_single_precision(closure: str) -> None:
    """No denominator is a small difference of large sums."""
    rule, _ = CLOSURES[closure](1e-6)
    for label, call, facts in degenerate_calls(1.0, 255.0):
        args = tree_map_only(Tensor, Tensor.float, call.args)
        single, double = (
            reference.Call(call.op, a, {}, (0,)) for a in (args, tree_map_only(Tensor, Tensor.double, args))
        )
        c = torch.where(site(double).out < 0, 0.0, seed(site(double).out).float().double())
        for chosen in (facts, replace(facts, dead_below=True)):
            (found,), (wanted,) = result(rule, site(single, chosen), c.float()), result(rule, site(double, chosen), c)
            x = double.args[0]
            error = (relevances(rule, found, x.float()).double() - relevances(rule, wanted, x)).abs().max()
            total = call.op(*tree_map_only(Tensor, Tensor.abs, double.args))
            assert error <= 1e-5 * (c.abs() * total).max(), f"{label}, {chosen}"


@pytest.mark.parametrize("preset", leave_to_slow(fxlrp.presets(), but={"attnlrp", "cp_lrp", "chefer", "dynamiclrp"}))
def test_masks_of_infinity_pass_sums(preset: str) -> None:
    """The coefficient at a masked logit is 0 under every rule set, and the account closes."""
    torch.manual_seed(0)
    model, x = Masked().double().eval(), random(2, 5, 4)
    attributor = fxlrp.compile(model, rules=preset)
    assert attributor(x, target=1).relevance.isfinite().all()
    ledger = attributor.ledger(x, target=1)
    assert abs(ledger.gap) <= 1e-8 * max(abs(ledger.explained), abs(ledger.inputs["x"]))


class Masked(nn.Module):
    """Attention whose mask is added."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        return ((self.q(x) @ self.k(x).transpose(1, 2) + mask).softmax(-1) @ self.v(x)).sum(1)


@pytest.mark.parametrize("closure", ["alpha_beta", "z_plus", "flat", "w_square", "z_box"])
@pytest.mark.parametrize(
    ("weight", "activation"),
    [("weights of 0", nn.ReLU), ("one sign", nn.ReLU), ("other sign", nn.LeakyReLU), ("a corner of the box", nn.ReLU)],
)
def test_the_ledger_closes_whatever_the_weights(closure: str, weight: str, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), activation(), nn.Conv2d(3, 2, 3), nn.Flatten()).double().eval()
    x = 255 * random(2, 1, 5, 5).abs()
    for conv in (model[0], model[2]):
        _, conv.weight.data, conv.bias.data = DEGENERATE[weight]((x, conv.weight.data, conv.bias.data))
    x = DEGENERATE[weight]((x,))[0]
    rules = fxlrp.rule_set("epsilon") | {aten.conv2d.default: CLOSURES[closure](1e-6)[0]}
    ledger = fxlrp.compile(model, rules=rules).ledger(x, target=3)
    assert all(math.isfinite(v) for e in ledger.entries for v in (e.received, e.passed, e.absorbed, e.stabiliser))
    assert abs(ledger.gap) <= 1e-8 * max(abs(ledger.explained), abs(ledger.inputs["input"]))


def strengthen(w: Tensor) -> Tensor:
    return w + 0.25 * w.clamp(min=0)


def test_weights_of_ones_own_make_the_published_rules() -> None:
    model, x = network().double(), X.double()
    at_first = {"ops": aten.conv2d.default, "position": "last"}  # the only layer there without padding
    for made, known in (
        (weighted.with_weights(strengthen), weighted.gamma(0.25)),
        (weighted.with_weights(torch.relu), weighted.z_plus()),
    ):
        one, other = (
            fxlrp.compile(model, rules=fxlrp.rule_set("epsilon").where(rule, **at_first))(x, target=target).relevance
            for rule in (made, known)
            for target in [int(model(x).argmax())]
        )
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_weights_of_ones_own_are_values() -> None:
    rule = weighted.with_weights(strengthen, bias=False)
    assert str(rule) == "with_weights(strengthen, bias=False)"
    assert weighted.with_weights(strengthen).unbiased is rule
    assert pickle.loads(pickle.dumps(weighted.with_weights(torch.relu))) is weighted.with_weights(torch.relu)


def test_weights_of_another_shape_are_refused() -> None:
    rules = fxlrp.rule_set("epsilon") | {aten.conv2d.default: weighted.with_weights(torch.sum)}
    with pytest.raises(fxlrp.RuleError, match=r"with_weights changed a weight of shape \(3, 4, 6, 6\) to shape \(\)"):
        fxlrp.compile(network(), rules=rules, args=(X,))


def relevances(rule: fxlrp.Rule, found: Tensor, x: Tensor) -> Tensor:
    """What `result` returns as relevance."""
    return found if str(rule).partition("(")[0] in ("flat", "w_square", "z_box") else x * found


def tree(*args: Tensor) -> object:
    return torch.utils._pytree.tree_flatten((args, {}))[1]
