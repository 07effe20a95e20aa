"""The negative filtering family: literal hooks on a stock network, and zennit's composites."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from reference import Call
from sites import agree, result, seed, site
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import fxlrp
from fxlrp.rules.published import filtering
from fxlrp.rules.weighted import z_box

import_torchvision()

import zennit.composites  # noqa: E402

aten = torch.ops.aten
FILTERING = {rules.name: rules for rules in filtering.FILTERING}
CLASSES = [3, 7]


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def percentile(values: list[float], q: float) -> float:
    """The percentile as numpy has it, between two entries."""
    return float(np.percentile(values, q))


RULES: dict[str, tuple[fxlrp.Rule, Callable[[float, float, list[float]], float]]] = {
    "guided": (filtering.guided(), lambda x, c, all_: c if c > 0 and x > 0 else 0.0),
    "deconvolved": (filtering.deconvolved(), lambda x, c, all_: max(c, 0.0)),
    "smoothed": (filtering.smoothed(2.5), lambda x, c, all_: c * sigmoid(2.5 * x)),
    "rectified": (
        filtering.rectified(80.0),
        lambda x, c, all_: c if max(x, 0) * c > percentile(all_, 80.0) else 0.0,
    ),
    "rectified low": (
        filtering.rectified(3.5),
        lambda x, c, all_: c if max(x, 0) * c > percentile(all_, 3.5) else 0.0,
    ),
    "rectified none": (filtering.rectified(100.0), lambda x, c, all_: 0.0),
    "rectified_above": (filtering.rectified_above(0.3), lambda x, c, all_: c if max(x, 0) * c > 0.3 else 0.0),
}
"""Rules, and what they do to one entry, given the output times the coefficient of all entries of the sample."""


@pytest.mark.parametrize("name", RULES)
def test_rules_agree_with_their_definition(name: str) -> None:
    """Springenberg et al. 2015, figure 1; Dombrowski et al. 2019; Kim et al. 2019, section 3; entry by entry."""
    rule, definition = RULES[name]
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, :, 0] = 0.0
    at = site(Call(aten.relu.default, (x,)))
    c = seed(x)
    wanted = torch.zeros_like(x)
    for sample in range(3):
        every = [max(float(a), 0) * float(b) for a, b in zip(x[sample].flatten(), c[sample].flatten(), strict=True)]
        for place in np.ndindex(4, 5):
            wanted[sample][place] = definition(float(x[sample][place]), float(c[sample][place]), every)
    agree(result(rule, at, c), [wanted], 1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_bounded_relu_is_one_below_its_bound(name: str) -> None:
    """And passes nothing on above, but for deconvolution, which does not ask whether a unit is on."""
    rule, _ = RULES[name]
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = seed(x)
    below = result(rule, site(Call(aten.hardtanh.default, (x, 0.0, 60.0))), c)
    agree(below, list(result(rule, site(Call(aten.relu.default, (x,))), c)), 1e-12)
    (above,) = result(rule, site(Call(aten.hardtanh.default, (x + 20, 0.0, 6.0))), c)
    wanted = c.clamp(min=0) if name == "deconvolved" else torch.zeros_like(c)
    torch.testing.assert_close(above, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rules_survive_pickles_and_say_that_they_filter(name: str) -> None:
    rule, _ = RULES[name]
    assert pickle.loads(pickle.dumps(rule)) is rule
    assert rule.filters == (name != "smoothed")
    assert rule.formula.startswith("``c_x = c * ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: filtering.smoothed(0.0),
        lambda: filtering.rectified(101.0),
        lambda: filtering.rectified(-1.0),
        lambda: filtering.rectified_above(-0.1),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[], fxlrp.Rule]) -> None:
    with pytest.raises(ValueError, match="needs"):
        make()


class Network(nn.Module):
    """What zennit has hooks for, each layer used once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.pool = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.MaxPool2d(2)
        self.second, self.average = nn.Conv2d(6, 8, 3, padding=1), nn.AvgPool2d(2)
        self.dense, self.head = nn.Linear(72, 16), nn.Linear(16, 10)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relus[0](self.norm(self.first(x))))
        x = self.average(self.relus[1](self.second(x)))
        return self.head(self.relus[2](self.dense(x.flatten(1))))


def network() -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    model = Network().double().eval().requires_grad_(False)
    model.norm.running_var.uniform_(0.5, 2).sub_(model.norm.eps)  # zennit 0.5.1 counts the eps twice when it merges
    model.norm.running_mean.normal_()
    model.norm.eps = 1e-300  # torch 2.11 refuses 0
    return model, torch.randn(2, 3, 14, 14, dtype=torch.float64)


@contextmanager
def hooked(model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Give every ReLU another gradient, of its input and what arrives."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return change(*ctx.saved_tensors, g)

    handles = [
        m.register_forward_hook(lambda m, x, y: Changed.apply(*x)) for m in model.modules() if type(m) is nn.ReLU
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_times_gradient(model: nn.Module, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    given = x.clone().requires_grad_()
    with hooked(model, change):
        y = model(given)
        (gradient,) = torch.autograd.grad(y[[0, 1], CLASSES].sum(), given)
    return x * gradient


def kept_by_percentile(x: Tensor, g: Tensor) -> Tensor:
    r = x.clamp(min=0) * g
    t = [percentile(row, 90.0) for row in r.flatten(1).tolist()]
    return torch.where(r > torch.tensor(t, dtype=r.dtype).view(-1, *[1] * (r.ndim - 1)), g, 0.0)


@pytest.mark.parametrize(
    ("rules", "change"),
    [
        (FILTERING["guided_backprop"], lambda x, g: g * (x > 0) * (g > 0)),
        (FILTERING["deconvnet"], lambda x, g: g.clamp(min=0)),
        (FILTERING["beta_smooth"], lambda x, g: g * torch.sigmoid(10 * x)),
        (filtering.rectgrad(90.0), kept_by_percentile),
        (filtering.rectgrad(threshold=1e-4), lambda x, g: g * (x.clamp(min=0) * g > 1e-4)),
    ],
    ids=["guided_backprop", "deconvnet", "beta_smooth", "rectgrad", "rectgrad above"],
)
@pytest.mark.parametrize("bound", [None, 60.0], ids=["relu", "bounded"])
def test_presets_are_input_times_a_changed_gradient(bound: float | None, rules: fxlrp.RuleSet, change: Any) -> None:
    model, x = network()
    wanted = input_times_gradient(model, x, change)
    if bound is not None:
        model.relus = nn.ModuleList(nn.Hardtanh(0.0, bound) for _ in range(3))
    found = fxlrp.compile(model, rules=rules)(x, target=CLASSES).relevance
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12 * float(wanted.abs().max()))


def test_v18_rectgrad_with_threshold_0_is_guided_backprop() -> None:
    model, x = network()
    one, other = (
        fxlrp.compile(model, rules=rules)(x, target=CLASSES).relevance
        for rules in (filtering.rectgrad(threshold=0.0), FILTERING["guided_backprop"])
    )
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "beta_smooth", "excitation_backprop"])
def test_zennit(name: str) -> None:
    """Its gradients start at 1; its relevance starts at the logit, as ours does."""
    model, x = network()
    found = fxlrp.compile(model, rules=name)(x, target=CLASSES).relevance
    start = nn.functional.one_hot(torch.tensor(CLASSES), 10).double()
    given = x.clone().requires_grad_()
    canonizers = [zennit.canonizers.SequentialMergeBatchNorm()]
    with zennit.composites.COMPOSITES[name](canonizers=canonizers).context(model) as modified:
        y = modified(given)
        relevance = name == "excitation_backprop"
        (theirs,) = torch.autograd.grad(y, given, start * y.detach() if relevance else start)
    wanted = theirs if relevance else x * theirs
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


def test_percentiles_are_those_of_each_sample() -> None:
    model, x = network()
    attributor = fxlrp.compile(model, rules="rectgrad")
    whole = attributor(x, target=CLASSES).relevance
    alone = [attributor(x[i : i + 1], target=CLASSES[i : i + 1]).relevance for i in range(2)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-12, atol=1e-14)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("name", ["guided_backprop", "rectgrad"])
def test_filters_see_all_positions(name: str) -> None:
    """A percentile over units counts those of positions that are not explained, where nothing arrives."""
    torch.manual_seed(0)
    model, x = Sequence().double().eval(), torch.randn(2, 6, 4, dtype=torch.float64)
    attributor = fxlrp.compile(model, rules=name)
    found = attributor(x, target=[(2, 1), (5, 3)]).relevance
    c = torch.zeros(2, 6, 8, dtype=torch.float64)
    c[0, 2], c[1, 5] = model.head.weight[1], model.head.weight[3]
    z = model.body(x)
    r = z.clamp(min=0) * c
    t = [percentile(row, 98.0) if name == "rectgrad" else 0.0 for row in r.flatten(1).tolist()]
    kept = torch.where(r > torch.tensor(t, dtype=r.dtype).view(2, 1, 1), c, 0.0)
    torch.testing.assert_close(found, x * (kept @ model.body.weight), rtol=1e-10, atol=1e-12)


def test_deep_taylor_is_bounded() -> None:
    """Nothing is negative, and the whole is no more than what is explained (Montavon et al. 2017)."""
    model, x = network()
    x = x.clamp(-3, 3)
    result = fxlrp.compile(model, rules="dtd")(x)
    assert bool((result.relevance >= 0).all())
    total, explained = result.relevance.flatten(1).sum(1), result.output.amax(1)
    assert bool((explained > 0).all())
    assert bool((total <= explained * (1 + 1e-9)).all())
    torch.testing.assert_close(total, explained, rtol=1e-2, atol=0)


def test_deep_taylor_takes_the_bounds_of_its_inputs() -> None:
    rules = filtering.dtd(0.0, 255.0)
    assert "z_box(0, 255) first" in rules.summary
    assert rules.overrides[0].rule is z_box(0.0, 255.0)
