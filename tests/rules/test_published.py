"""Rule sets of single papers: what they find in a graph, what the papers prove, and what holds for every preset."""

from __future__ import annotations

from collections.abc import Callable

import published_formulas as ref
import pytest
import torch
from reference import Call
from sites import result, seed, site
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

import fxlrp
from fxlrp.capture.functional_graph import capture
from fxlrp.errors import RuleError, SignatureError
from fxlrp.ir.provenance import module_path
from fxlrp.passes import CANONICAL, run_passes
from fxlrp.rules.published.feedback import LFP, feedback_of
from fxlrp.rules.published.recurrent import is_selection
from fxlrp.rules.published.residuals import is_residual_addition, is_stream_addition, residual_gamma
from fxlrp.rules.weighted import epsilon

aten = torch.ops.aten


def chosen(model: nn.Module, *args: Tensor, predicate: Callable[[torch.fx.Node], bool], **kwargs: Tensor) -> list[str]:
    """Names of the modules in which the nodes run that a predicate finds."""
    captured = capture(model, args, kwargs)
    run_passes(captured.module, CANONICAL)
    return [module_path(node) for node in captured.graph.nodes if predicate(node)]


class Sums(nn.Module):
    """Sums that are residual additions, named, and sums that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, way: str) -> Tensor:
        a, b, c = self.a, self.b, self.c

        def shift_twice(shift: Tensor) -> Tensor:
            return c(a(x) + shift) + shift

        return {
            "skip": lambda: x + a(x).relu(),
            "turned": lambda: a(x).relu() + x,
            "cast, view and number": lambda: 0.5 * x.float().double().reshape(4, 2).reshape(2, 4) + a(x),
            "after a norm": lambda: c(x) + b(nn.functional.layer_norm(c(x), (4,))).relu(),
            "projected": lambda: a(x) + c(b(x).relu()),
            "product of matrices": lambda: x + (x @ x.T).softmax(-1) @ x,
            "activation": lambda: a(x + 0.04 * x**3),
            "mean": lambda: a(x + x.mean(1, keepdim=True)),
            "two projections": lambda: a(x) + b(x),
            "bias": lambda: a(x) + b.bias,
            "parts of one projection": lambda: a(x)[:, :2] + c(a(x).tanh())[:, 2:],
            "no skip": lambda: a(x).relu() + c(b(x).relu()),
            "difference": lambda: x - a(x).relu(),
            "mask of every layer": lambda: shift_twice(torch.where(x > 0, 0.0, -1e3)),
            "bias of every layer": lambda: shift_twice(b.weight[:2]),
        }[way]()


RESIDUAL = ("skip", "turned", "cast, view and number", "after a norm", "projected", "product of matrices")
OTHER = (
    "activation",
    "mean",
    "two projections",
    "bias",
    "parts of one projection",
    "no skip",
    "difference",
    "mask of every layer",
    "bias of every layer",
)


@pytest.mark.parametrize(("way", "found"), [*((way, True) for way in RESIDUAL), *((way, False) for way in OTHER)])
def test_residual_additions_are_found_and_nothing_else(way: str, found: bool) -> None:
    class Way(Sums):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, way)

    torch.manual_seed(0)
    places = chosen(Way().double().eval(), torch.randn(2, 4).double(), predicate=is_residual_addition)
    assert bool(places) is found


@pytest.mark.parametrize(
    ("name", "number", "bare"),
    leave_to_slow(
        [
            ("llama", 4, 4), ("vit_b_16", 4, 4), ("bert", 4, 0), ("gpt2", 4, 4), ("gemma3", 4, 4), ("mixtral", 4, 4),
            ("flan_t5", 10, 10), ("whisper", 10, 10), ("mamba", 2, 2), ("roberta", 4, 0), ("resnet50", 8, 8),
            ("efficientnet_v2_m", 5, 5), ("lstm", 0, 0), ("gru", 0, 0), ("vgg16", 0, 0),
        ],
        but={"llama"},
    ),
)  # fmt: skip
def test_every_block_has_its_residual_additions(name: str, number: int, bare: int) -> None:
    """Where norms stand behind the additions, they are in no stream without norms."""
    model, args, kwargs = ZOO[name]()
    assert len(chosen(model, *args, predicate=is_residual_addition, **kwargs)) == number
    assert len(chosen(model, *args, predicate=is_stream_addition, **kwargs)) == bare


@pytest.mark.parametrize("norm", ["layer", "root mean square", "written out", "none"])
def test_streams_without_norms_are_told_apart(norm: str) -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixes, self.weight, self.bias = (
                nn.Linear(4, 4),
                nn.Parameter(torch.rand(4)),
                nn.Parameter(torch.rand(4)),
            )

        def forward(self, x: Tensor) -> Tensor:
            if norm == "layer":
                x = functional.layer_norm(x, (4,), self.weight, self.bias)
            elif norm == "root mean square":
                x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight
            elif norm == "written out":
                y = x - x.mean(-1, keepdim=True)
                x = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias
            return x + self.mixes(x)

    torch.manual_seed(0)
    for predicate, found in ((is_residual_addition, True), (is_stream_addition, norm == "none")):
        assert bool(chosen(Behind().double().eval(), torch.randn(2, 4).double(), predicate=predicate)) is found


def test_a_predicate_is_printed_by_its_name() -> None:
    line = "  where ops=['aten.add.Tensor'], predicate=is_residual_addition: residual_gamma(1)"
    assert line in str(fxlrp.rule_set("reslrp")).splitlines()


@pytest.mark.parametrize("g", [0.25, 1.0, 4.0])
def test_v15_residual_relevance_is_conserved_and_bounded(g: float) -> None:
    """Each share is in ``[-1/g, 1 + 1/g]``, and both together at most ``1 + 2/g``, however the terms cancel."""
    a, b = (torch.randn(100_000, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1))
    b = torch.where(torch.arange(100_000) % 2 == 0, b, -a + 1e-6 * b)
    at = site(Call(aten.add.Tensor, (a, b), {}, (0, 1)))
    parts = result(residual_gamma(g, 0.0), at, torch.ones_like(a))
    shares = [part * x / at.out for part, x in zip(parts, (a, b), strict=True)]
    torch.testing.assert_close(shares[0] + shares[1], torch.ones_like(a), rtol=0, atol=1e-6)
    assert all(bool(((s >= -1 / g - 1e-9) & (s <= 1 + 1 / g + 1e-9)).all()) for s in shares)
    assert bool((shares[0].abs() + shares[1].abs() <= 1 + 2 / g + 1e-9).all())


def test_v15_without_gamma_it_is_the_plain_sum() -> None:
    a, b = torch.tensor([[3.0, -2.0]]).double(), torch.tensor([[-1.0, 0.5]]).double()
    at = site(Call(aten.add.Tensor, (a, b), {}, (0, 1)))
    for part in result(residual_gamma(0.0, 0.0), at, seed(a)):
        torch.testing.assert_close(part, seed(a), rtol=1e-12, atol=0)


def test_the_residual_rule_refuses_what_is_no_sum_of_tensors() -> None:
    x = torch.ones(1, 3).double()
    for op in (aten.tanh.default, aten.add.Tensor):
        rules = fxlrp.rule_set("attnlrp") | {op: residual_gamma()}
        with pytest.raises(RuleError, match="two tensors of an addition, and this op has none"):
            fxlrp.compile(nn.Sequential(nn.Tanh(), Plus()).eval(), args=(x,), rules=rules)


class Plus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


def test_what_selects_in_a_state_space_is_found() -> None:
    model, args, kwargs = ZOO["mamba"]()
    found = chosen(model, *args, predicate=is_selection, **kwargs)
    assert found == [f"backbone.layers.{i}.mixer.x_proj" for i in range(2)]


@pytest.mark.slow
def test_v12_a_state_space_without_biases_conserves() -> None:
    model, args, kwargs = ZOO["mamba"]()
    for name, parameter in model.named_parameters():
        if name.endswith("conv1d.bias"):
            parameter.data.zero_()
    logit = model(*args, **kwargs).logits[:, -1, 3]
    sums = {
        rules: sum_of(fxlrp.compile(model, rules=rules)(*args, target=[(6, 3)] * 2, **kwargs).relevance)
        for rules in ("mamba_lrp", "gradient")
    }
    torch.testing.assert_close(
        sums["mamba_lrp"], logit, rtol=1e-6, atol=1e-9, check_dtype=False
    )  # it has float32 in it
    assert (sums["gradient"] - logit).abs().min() > 1e-3 * logit.abs().max()


def sum_of(relevance: Tensor | dict[str, Tensor]) -> Tensor:
    parts = list(relevance.values()) if isinstance(relevance, dict) else [relevance]
    return sum((part.flatten(1).sum(1) for part in parts), torch.zeros(()))


class Reader(nn.Module):
    """An LSTM, given its first states, and a linear classifier on its last."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Started(Reader):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return self.head(self.lstm(x, (h[None], c[None]))[0][:, -1])


def test_gates_of_an_lstm_are_constants() -> None:
    """Cell by cell, by the formulas of Arras et al. 2017."""
    torch.manual_seed(0)
    model, x = Reader().double().eval(), torch.randn(2, 5, 3).double()
    found = fxlrp.compile(model, rules="arras_lstm")(x, target=1).relevance
    with torch.no_grad():
        for sample in range(2):
            h = model.lstm(x[sample])[0][-1]
            score = model.head(h)[1]
            wanted = ref.arras(model.lstm, x[sample], model.head.weight[1] * h / ref.stab(score, 1e-3) * score, 1e-3)
            torch.testing.assert_close(found[sample], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("zero", [False, True])
def test_v11_shared_biases_leave_nothing_behind(zero: bool) -> None:
    """Inputs and first states together have the score, also where the first states are zero."""
    torch.manual_seed(0)
    model, x = Started().double().eval(), torch.randn(2, 5, 3).double()
    h, c = (torch.zeros(2, 4).double() if zero else torch.randn(2, 4).double() for _ in range(2))
    made = fxlrp.compile(model, rules="arras_lstm_shared")(x, h, c, target=1)
    torch.testing.assert_close(sum_of(made.relevance), model(x, h, c)[:, 1], rtol=1e-9, atol=1e-12)
    assert (made.relevance["h"] != 0).all()


def test_v11_two_ways_and_two_layers_conserve_too() -> None:
    model, args, _ = ZOO["lstm"]()
    made = fxlrp.compile(model, rules="arras_lstm_shared")(*args, target=1)
    torch.testing.assert_close(sum_of(made.relevance), model(*args)[:, 1], rtol=1e-9, atol=1e-12)


def fresh(*layers: nn.Module) -> nn.Sequential:
    """A network with the same weights in every test."""
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("e", [1e-10, 0.0])
def test_v14_feedback_is_the_size_of_weights_times_the_gradient(e: float) -> None:
    """For rewards ``z (onehot - softmax z)`` and a network of ReLUs, as the stabiliser goes to 0."""
    model = fresh(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)
    )
    x, labels = torch.rand(3, 1, 6, 6).double(), torch.tensor([0, 3, 2])
    rules = fxlrp.rule_set("lfp") | dict.fromkeys(LFP.table, epsilon(e))
    attributor = fxlrp.compile(model, rules=rules.optional(), read=("*.weight", "*.bias"))
    z = model(x)
    reward = nn.functional.one_hot(labels, 4) - z.softmax(1)
    found = feedback_of(attributor(x, target=reward.detach()).read, dict(model.named_parameters()))
    nn.functional.cross_entropy(z, labels, reduction="sum").backward()
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        wanted = -parameter.detach().abs() * parameter.grad
        size = wanted.abs().max()
        torch.testing.assert_close(
            found[name].sum_to_size(wanted.shape), wanted, rtol=0, atol=float(1e-6 * size if e else 1e-8 * size)
        )


def test_feedback_is_of_parameters() -> None:
    with pytest.raises(
        SignatureError, match=r"relevance of 0\.weights, \(1, 2\), is of no parameter; there are w \(2,\)"
    ):
        feedback_of({"0.weights": torch.ones(1, 2)}, {"w": torch.ones(2)})


def test_v17_patching_scores_are_exact_on_a_linear_network() -> None:
    """RelP, attribution patching and activation patching are one where nothing is nonlinear."""
    model = fresh(nn.Linear(4, 5), nn.Linear(5, 3))
    clean, corrupt = torch.randn(2, 1, 4).double()
    effect = (model(clean) - model(corrupt))[:, 1]
    for rules in ("relp", "gradient"):
        coefficient = fxlrp.compile(model, rules=rules)(corrupt, target=1).relevance / corrupt
        torch.testing.assert_close(((clean - corrupt) * coefficient).sum(1), effect, rtol=1e-10, atol=0)


def test_v17_of_relus_the_scores_are_those_of_the_gradient() -> None:
    model, x = (
        fresh(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        torch.randn(2, 4).double(),
    )
    relp, gradient = (fxlrp.compile(model, rules=rules)(x, target=1).relevance for rules in ("relp", "gradient"))
    torch.testing.assert_close(relp, gradient, rtol=1e-10, atol=1e-14)
