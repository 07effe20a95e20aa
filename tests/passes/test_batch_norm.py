"""Batch norm in evaluation mode: merged into a linear op or an op of its own, it computes what the model does."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.rules.unchanged import passed

LINE = {1: (6,), 2: (5, 4), 3: (4, 3, 3)}


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(float(wanted.abs().max()), 1e-30))


class Norm(nn.Module):
    """A batch norm with statistics, and weights of both signs, for as many channels as dimension 1 has."""

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("variance", torch.rand(channels) + 0.5)
        self.weight, self.bias = (nn.Parameter(torch.randn(channels)) if affine else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=1e-3)


@dataclass(frozen=True)
class Pair:
    """A linear op and a norm behind or before it."""

    op: str
    dim: int
    behind: bool
    batched: bool = True
    bias: bool = True
    groups: int = 1
    padding: Any = 0
    kernel: int = 3

    def merges(self) -> bool:
        """The channels are dimension 1 of a batch; before a convolution, moreover, no zeros are added."""
        alike = self.batched and self.op != "bare" and (self.op != "linear" or self.dim == 0)
        padded = self.padding == 1 or (self.padding == "same" and self.kernel > 1)
        return alike and (self.behind or (self.op != "transposed" and not padded))

    def linear(self) -> nn.Module:
        if self.op == "bare":
            return nn.Tanh()
        if self.op == "linear":
            return nn.Linear(4, 6, bias=self.bias)
        kind = getattr(nn, f"Conv{'Transpose' if self.op == 'transposed' else ''}{self.dim}d")
        return kind(4, 6, self.kernel, padding=self.padding, groups=self.groups, bias=self.bias)  # type: ignore[no-any-return]

    def input(self) -> Tensor:
        trailing = (*([3] * self.dim), 4) if self.op == "linear" else (4, *LINE[self.dim])
        return torch.randn(2, *trailing) if self.batched else torch.randn(trailing)

    def layers(self, x: Tensor) -> nn.Module:
        linear = self.linear()
        channels = (linear(x) if self.behind else x).shape[1]
        norm = Norm(channels, affine=self.bias or self.groups == 1)
        return nn.Sequential(*((linear, norm) if self.behind else (norm, linear)))


class Pairs(nn.Module):
    """Pairs side by side, each with an input of its own; one number, in which every value has another weight."""

    def __init__(self, pairs: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pairs)
        for i, (pair, x) in enumerate(zip(pairs, inputs, strict=True)):
            self.register_buffer(f"weight_{i}", torch.randn_like(pair(x)))

    def forward(self, *inputs: Tensor) -> Tensor:
        values = [pair(x) * getattr(self, f"weight_{i}") for i, (pair, x) in enumerate(zip(self.pairs, inputs))]  # noqa: B905
        return torch.stack([value.sum() for value in values])[None]


PADDED = [(True, *rest) for rest in itertools.product(((0, 3), (1, 3), ("valid", 3), ("same", 3), ("same", 1)), (1, 2))]
CONVOLUTIONS = {
    (dim, behind): [
        Pair("conv", dim, behind, batched, bool((i + i // 2) % 2), groups, padding, kernel)
        for i, (batched, (padding, kernel), groups) in enumerate(
            [*(PADDED if dim == 2 else PADDED[::3]), (False, (0, 3), 1), (False, ("same", 3), 2), (False, (0, 1), 1)]
        )
    ]
    for dim, behind in itertools.product((1, 2, 3), (True, False))
}
TRANSPOSED = {
    (dim, behind): [
        Pair("transposed", dim, behind, batched, bool((i + i // 2) % 2), groups, padding)
        for i, (batched, padding, groups) in enumerate(
            [*itertools.product((True,), (0, 1), (1, 2)), (False, 1, 1), (False, 0, 2)]
        )
    ]
    for dim, behind in itertools.product((1, 2, 3), (True, False))
}
OTHERS = [
    *(
        Pair("linear", dim, behind, bias=bias)
        for dim in (0, 1, 2)
        for behind in (True, False)
        for bias in (True, False)
    ),
    *(Pair("bare", dim, behind) for dim in (1, 2, 3) for behind in (True, False)),
]
GROUPS = {
    **{
        f"dimension {dim}, bn {'behind' if behind else 'before'}": CONVOLUTIONS[dim, behind] + TRANSPOSED[dim, behind]
        for dim, behind in CONVOLUTIONS
    },
    "linear and bare": OTHERS,
}
ACCOUNTED = ["dimension 3, bn behind", "dimension 1, bn before", "linear and bare"]


def gradients(model: Callable[..., Tensor], inputs: Sequence[Tensor], seed: Tensor) -> list[Tensor]:
    """Input times gradient, by autograd."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = torch.autograd.grad((model(*leaves) * seed).sum(), leaves)
    return [x * g for x, g in zip(inputs, found, strict=True)]


def beside(group: str) -> tuple[nn.Module, list[Tensor]]:
    """The pairs of a group as a model, and its inputs."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        inputs = [pair.input() for pair in GROUPS[group]]
        model = Pairs([pair.layers(x) for pair, x in zip(GROUPS[group], inputs, strict=True)], inputs).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return model, inputs


@pytest.mark.slow
@pytest.mark.parametrize("group", ACCOUNTED)
def test_the_account_of_merged_norms_and_others_closes(group: str) -> None:
    model, inputs = beside(group)
    seed = torch.ones(1, len(inputs), dtype=torch.float64)
    ledger = fxlrp.compile(model, tuple(inputs), rules="epsilon").ledger(*inputs, target=seed)
    assert abs(ledger.gap) < 1e-8 * max(abs(ledger.explained), 1)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_norm_beside_any_linear_op_is_the_models(group: str) -> None:
    """Output and gradient are right, and as many norms are merged as can be."""
    model, inputs = beside(group)
    attributor = fxlrp.compile(model, tuple(inputs), rules="gradient")
    seed = torch.ones(1, len(inputs), dtype=torch.float64)
    result = attributor(*inputs, target=seed)
    same(result.output, model(*inputs).detach())
    wanted = gradients(model, inputs, seed)
    for found, relevance, pair in zip(result.relevance.values(), wanted, GROUPS[group], strict=True):
        assert torch.allclose(found, relevance, rtol=0, atol=1e-9 * float(relevance.abs().max())), pair
    report = attributor.coverage()
    merged = set(report.merged)
    assert merged | set(report.apart) == {f"pairs.{i}.{int(p.behind)}" for i, p in enumerate(GROUPS[group])}
    for i, pair in enumerate(GROUPS[group]):
        assert (f"pairs.{i}.{int(pair.behind)}" in merged) == pair.merges(), pair


class Frozen(nn.Module):
    """The norm of detection models: a product and a sum with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(1, 4, 1, 1))
        self.register_buffer("shift", torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Shapes(nn.Module):
    """Convolutions and norms in one of several arrangements."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.one, self.two, self.three = (nn.Conv2d(n, 4, 3) for n in (3, 4, 4))
        self.norm, self.other = Norm(4), Norm(4)
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.bare.running_mean.normal_()  # type: ignore[union-attr, operator]
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.synchronised = nn.SyncBatchNorm(4)
        self.frozen = Frozen()
        self.tracked = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3)) + 1
        front = self.norm(x[:, [0, 1, 2, 0]])
        found: Tensor = {
            "one convolution, two norms": lambda: self.norm(y) * self.other(y),
            "a convolution that is used again": lambda: self.norm(y) * y,
            "a norm before two convolutions": lambda: self.two(front).tanh() * self.three(front),
            "the output is a norm's": lambda: self.norm(y),
            "a norm in the middle": lambda: self.two(self.norm(y)),
            "norms around a convolution": lambda: self.other(self.two(self.norm(y.relu()))),
            "two norms in a row": lambda: self.other(self.norm(y)).tanh(),
            "no weights": lambda: self.bare(y),
            "statistics of the batch": lambda: self.untracked(y),
            "a norm of many processes": lambda: self.synchronised(y).tanh(),
            "a frozen norm": lambda: self.frozen(y).tanh(),
            "an instance norm of fixed statistics": lambda: self.tracked(y).tanh(),
            "statistics that depend on the input": lambda: functional.batch_norm(
                y, mean.detach(), variance.detach(), self.norm.weight
            ),
            "a scale that depends on the input": lambda: functional.batch_norm(
                y, self.norm.mean, self.norm.variance, mean
            ),
        }[self.form]()
        return found.flatten(1)


FORMS = {
    "one convolution, two norms": (0, 2),
    "a convolution that is used again": (0, 1),
    "a norm before two convolutions": (1, 0),
    "the output is a norm's": (1, 0),
    "a norm in the middle": (1, 0),
    "norms around a convolution": (2, 0),
    "two norms in a row": (2, 0),
    "no weights": (1, 0),
    "statistics of the batch": (0, 0),
    "a norm of many processes": (1, 0),
    "a frozen norm": (0, 0),
    "an instance norm of fixed statistics": (0, 0),
    "statistics that depend on the input": (0, 1),
    "a scale that depends on the input": (0, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_norms_in_any_arrangement_are_the_models(form: str) -> None:
    torch.manual_seed(1)
    model = Shapes(form).double().eval()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    seed = torch.randn_like(model(x))
    attributor = fxlrp.compile(model, rules="gradient")
    result = attributor(x, target=seed)
    same(result.output, model(x).detach())
    same(result.relevance, gradients(model, [x], seed)[0])
    report = attributor.coverage()
    assert (len(report.merged), len(report.apart)) == FORMS[form]
    ledger = attributor.ledger(x, target=seed)
    assert abs(ledger.gap) < 1e-8 * max(abs(ledger.explained), 1)


def test_coverage_says_what_became_of_norms() -> None:
    torch.manual_seed(1)
    layers = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    attributor = fxlrp.compile(nn.Sequential(*layers).eval(), (torch.randn(2, 3, 7, 7),))
    report = attributor.coverage()
    assert report.merged == ("2",)
    assert list(report.apart) == ["0"]
    assert "batch norms: 1 merged, 1 ops of their own" in str(report)
    assert "0: no linear op with constant weights is before it; conv2d" in str(report)


APART = fxlrp.rule_set("epsilon").with_norms_apart()
PASSED = fxlrp.rule_set("epsilon").with_norms_apart(passed)


def network() -> tuple[nn.Sequential, Tensor]:
    """Norms behind convolutions, which are merged unless a rule set keeps them apart."""
    torch.manual_seed(2)
    front = nn.Conv2d(3, 4, 3, padding=1), Norm(4), nn.ReLU(), nn.Conv2d(4, 5, 3), Norm(5), nn.ReLU()
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(5 * 16, 3)).double().eval(), torch.randn(2, 3, 6, 6).double()


def test_a_norm_apart_has_the_epsilon_rule_of_an_affine_map() -> None:
    """So merging changes nothing but what the stabiliser keeps, unless layers have other rules."""
    model, x = network()
    attributor = fxlrp.compile(model, rules=APART, read=["0", "1"])
    found = attributor(x, target=1)
    before, after = model[0](x).detach(), model[:2](x).detach()
    scale = (model[1].weight / (model[1].variance + 1e-3).sqrt()).detach().view(1, 4, 1, 1)
    wanted = before * scale * found.read["1"] / (after + 1e-6 * after.sign())
    same(found.read["0"], wanted, 1e-12)
    same(fxlrp.compile(model, rules="epsilon", read=["0"])(x, target=1).read["0"], wanted, 1e-4)
    plus = fxlrp.rule_set("epsilon_plus")
    merged, apart = (fxlrp.compile(model, rules=r)(x, target=1).relevance for r in (plus, plus.with_norms_apart()))
    assert (merged - apart).abs().max() > 0.1 * apart.abs().max()
    ledger = attributor.ledger(x, target=1)
    assert abs(ledger.gap) < 1e-10
    assert any("1.bias" in name for entry in ledger.entries for name in entry.absorbers)


def test_a_norm_that_is_passed_through_keeps_nothing() -> None:
    model, x = network()
    found = fxlrp.compile(model, rules=PASSED, read=["0", "1", "3", "4"])(x, target=1)
    for before, after in (("0", "1"), ("3", "4")):
        assert found.read[after].abs().max() > 0
        same(found.read[before], found.read[after], 1e-14)


@pytest.mark.parametrize("rules", [APART, fxlrp.rule_set("gradient").with_norms_apart()], ids=str)
def test_norms_apart_compute_the_model(rules: fxlrp.RuleSet) -> None:
    model, x = network()
    attributor = fxlrp.compile(model, rules=rules)
    result = attributor(x, target=1)
    same(result.output, model(x).detach(), 1e-12)
    if rules.default is not None:
        seed = torch.tensor([[0.0, 1.0, 0.0]]).double()
        same(result.relevance, gradients(model, [x], seed)[0])
    report = attributor.coverage()
    assert report.merged == ()
    assert report.apart == dict.fromkeys(("1", "4"), "the rule set keeps it apart")


def test_the_choice_is_part_of_a_rule_set() -> None:
    base = fxlrp.rule_set("epsilon")
    assert len({base, APART, PASSED}) == 3
    assert "batch norms: apart" in str(APART)
    assert "batch norms" not in str(base)
    assert pickle.loads(pickle.dumps(PASSED)) == PASSED
    assert (APART | {torch.ops.aten.relu.default: passed}).norms == "apart"
    with pytest.raises(RuleError, match="norms is 'merged' or 'apart', not 'folded'"):
        replace(base, norms="folded")
    with pytest.raises(RuleError, match="is_batch_norm"):
        fxlrp.compile(nn.Sequential(nn.Linear(3, 2)).eval(), (torch.randn(1, 3),), rules=PASSED)


@pytest.mark.parametrize("norm", [torch.float32, torch.bfloat16])
def test_norms_of_half_precision_are_computed_in_single_precision(norm: torch.dtype) -> None:
    """As torch does it, so that only the merged weights are rounded; parameters of the norm may be in float32."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), Norm(4).to(norm), nn.ReLU(), Norm(4).to(norm))
    layers[0].bfloat16()
    x = torch.randn(2, 3, 7, 7, dtype=torch.bfloat16)
    result = fxlrp.compile(layers.eval())(x, target=torch.ones(2, 4, 5, 5))
    wanted = layers(x).detach()
    assert result.output.dtype is wanted.dtype
    torch.testing.assert_close(result.output, wanted, rtol=2e-2, atol=3e-2)
