"""Relevance read at parameters, heads and neurons; relevance that starts or is masked inside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

import fxlrp
from fxlrp.capture.explained_output import pick_output
from fxlrp.errors import RuleError, SignatureError, TargetError
from fxlrp.rules.weighted import epsilon

IMAGE = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ORACLE = ["resnet50", "vit_b_16", "wav2vec2", "gpt2", "flan_t5", "mamba", "lstm", "mixtral"]


def cnn() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    return nn.Sequential(*layers).double().eval()


class Tokens(nn.Module):
    """A class token, a position table, a gate and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cls = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(4, 4))
        self.scale = nn.Parameter(torch.randn(4))
        self.gate = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.randn(4))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.cls.expand(len(x), 1, 4), x], 1) + self.positions
        y = y * self.scale.exp()
        return self.head((y * self.gate(y).sigmoid()).sum(1))


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-9, floor: float = 1e-30) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(float(wanted.abs().max()), floor))


@pytest.mark.parametrize("name", leave_to_slow(ORACLE, but={"bert"}))
def test_gradient_oracle_of_every_parameter(name: str) -> None:
    """With ``rules="gradient"`` the relevance of a parameter is the parameter times its gradient."""
    model, args, kwargs = ZOO[name]()
    logits = pick_output(model(*args, **kwargs), None)
    seed = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((seed * logits).sum(), list(parameters.values()), allow_unused=True)
    gradients = {n: g for n, g in zip(parameters, found, strict=True) if g is not None and g.any()}
    result = fxlrp.compile(model, rules="gradient", read=tuple(gradients))(*args, target=seed, **kwargs)
    assert result.read.keys() == gradients.keys()
    wanted = {n: (parameters[n] * gradient).detach() for n, gradient in gradients.items()}
    largest = max(float(relevance.abs().max()) for relevance in wanted.values())
    for n, relevance in wanted.items():  # of a key bias, which shifts all scores alike, there is rounding only
        same(result.read[n], relevance, floor=1e-5 * largest)


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon", "cp_lrp"])
def test_reading_parameters_changes_nothing_else(rules: str) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    model = Tokens()
    plain = fxlrp.compile(model, rules=rules, read=("head", "cat"))(x, target=1)
    names = "cls", "positions", "scale", "head.weight", "head.bias"
    result = fxlrp.compile(model, rules=rules, read=("head", "cat", *names))(x, target=1)
    assert torch.equal(result.relevance, plain.relevance)
    assert all(torch.equal(result.read[n], plain.read[n]) for n in plain.read)
    assert all(result.read[n].shape == model.get_parameter(n).shape and result.read[n].any() for n in names)


def test_parameters_get_what_the_ledger_says_they_absorb() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    attributor = fxlrp.compile(Tokens(), read=("cls", "positions", "head.bias"))
    read = {name: float(r.sum()) for name, r in attributor(x, target=1).read.items()}
    assert read == pytest.approx(attributor.ledger(x, target=1).by_constant(), rel=1e-9)


def test_a_gate_that_is_held_fixed_gives_its_parameters_nothing() -> None:
    with pytest.raises(SignatureError, match=r"read='gate\.weight' fits only what relevance does not reach"):
        fxlrp.compile(Tokens(), read="gate.weight")(torch.ones(1, 3, 4, dtype=torch.float64))


def test_unused_parameters_are_told_of() -> None:
    with pytest.raises(SignatureError, match="read='unused' fits"):
        fxlrp.compile(Tokens(), read="unused")(torch.ones(1, 3, 4, dtype=torch.float64))


def test_weights_take_the_relevance_that_runs_over_them() -> None:
    """``R_ij = sum over the batch of x_j w_ij R_i / stab(z_i)`` for the epsilon rule."""
    model = nn.Linear(3, 2).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    rules = fxlrp.rule_set("attnlrp") | {torch.ops.aten.linear.default: epsilon(0.5)}
    result = fxlrp.compile(model, rules=rules, read=("weight", "bias"))(x, target=1)
    z = model(x).detach()[:, 1]
    s = z / (z + 0.5 * torch.where(z < 0, -1.0, 1.0))
    same(result.read["weight"][1], (x * model.weight[1] * s[:, None]).sum(0).detach())
    assert not result.read["weight"][0].any()
    same(result.read["bias"], torch.stack([torch.zeros(()).double(), (model.bias[1] * s).sum()]).detach())


def test_rows_of_a_table_take_the_relevance_of_their_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)).double().eval()
    ids = torch.tensor([[1, 2, 2, 4]])
    result = fxlrp.compile(model, read="0.weight")(ids, target=0)
    rows = result.read["0.weight"].sum(1)
    same(rows, torch.zeros(5, dtype=torch.float64).index_add(0, ids[0], result.relevance[0]))


def test_rules_that_split_weights_by_sign_give_them_none() -> None:
    with pytest.raises(
        RuleError, match=r"rule z_plus gives the parameters of aten\.conv2d.* none|no relevance of their"
    ):
        fxlrp.compile(cnn(), rules="epsilon_plus", read="2.weight")(IMAGE)


HEADS = {
    "llama": ("model.layers.0.self_attn", 4),
    "gpt2": ("transformer.h.0.attn", 4),
    "bert": ("bert.encoder.layer.0.attention.self", 4),
    "vit_b_16": ("encoder.layers.encoder_layer_0.self_attention", 4),
}


@pytest.mark.parametrize("name", leave_to_slow(HEADS, but={"bert"}))
def test_heads(name: str) -> None:
    """Relevance by head is that of the fused attention, summed over the features of each."""
    model, args, kwargs = ZOO[name]()
    module, count = HEADS[name]
    attributor = fxlrp.compile(model, read=(f"{module}:heads={count}", "scaled_dot_product_attention"))
    read = attributor(*args, **kwargs).read
    fused, heads = read["scaled_dot_product_attention"].sum(-1), read[f"{module}:heads={count}"]
    assert fused.shape[1] == count
    assert heads.any()
    same(heads.reshape(-1, count).sum(0), fused.sum((0, 2)))
    if heads.ndim == 3:
        same(heads, fused.transpose(1, 2))


def test_views() -> None:
    views = "2:channels=1,3", "2:input", "5:input", "5:neurons=2", "1:coefficient"
    read = fxlrp.compile(cnn(), read=("1", "2", "4", "5", *views))(IMAGE, target=2).read
    same(read["2:channels=1,3"], read["2"][:, [1, 3]])
    same(read["2:input"], read["1"])
    same(read["5:input"], read["4"])
    same(read["5:neurons=2"], read["5"][:, [2]])
    same(read["1:coefficient"] * cnn()[:2](IMAGE).detach(), read["1"])


def test_a_pattern_keeps_its_views() -> None:
    read = fxlrp.compile(cnn(), read="[02]:channels=0")(IMAGE).read
    assert list(read) == ["0:channels=0", "2:channels=0"]


class Twice(nn.Module):
    """A module with two live inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(8, 8, 2).double()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[..., 0].relu(), x[..., 1].tanh()).flatten(1)


@pytest.mark.parametrize(
    ("make", "read", "message"),
    [
        (cnn, "1:nope", "there is no view 'nope'; there are input, heads, neurons, channels, coefficient"),
        (cnn, "1:channels=9", r"give indices in dimension 1 of relu, of shape \(2, 4, 6, 6\)"),
        (cnn, "1:channels", "give indices in dimension 1 of relu"),
        (cnn, "1:heads=7", "heads=N divides the last dimension of relu"),
        (cnn, "1:heads=two", "heads=two|invalid literal"),
        (cnn, "conv9:input", "fits no module, no graph node and no parameter"),
        (cnn, "9.weight", r"read='9.weight' fits no module.*Close to it: 5.weight"),
        (Twice, "inner:input", "relevance leaves inner by 2 inputs; name one: relu, tanh"),
    ],
)
def test_views_that_do_not_fit(make: Any, read: str, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        fxlrp.compile(make(), read=read)(IMAGE)


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon_plus"])
def test_what_starts_with_the_coefficient_of_a_node_goes_on_as_from_the_output(rules: str) -> None:
    attributor = fxlrp.compile(cnn(), rules=rules, read=("1", "1:coefficient"))
    result = attributor(IMAGE, target=1)
    injected = attributor(IMAGE, inject={"1": result.read["1:coefficient"]})
    assert torch.equal(injected.relevance, result.relevance)
    assert torch.equal(injected.read["1"], result.read["1"])
    assert torch.equal(injected.output, result.output)


def test_what_starts_at_several_nodes_adds_up() -> None:
    attributor = fxlrp.compile(cnn())
    one, two = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(1, 6, 1, 1, dtype=torch.float64)
    both = attributor(IMAGE, inject={"0": one, "2": two}).relevance
    same(both, attributor(IMAGE, inject={"0": one}).relevance + attributor(IMAGE, inject={"2": two}).relevance)


def test_random_starts_converge() -> None:
    """With z+ rules relevance forgets where it started (Sixt et al. 2020); with the gradient it does not."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(9)]
    model = nn.Sequential(*layers).double().eval()
    x = torch.rand(1, 16, dtype=torch.float64)

    def similarity(rules: Any) -> float:
        attributor = fxlrp.compile(model, rules=rules)
        maps = [attributor(x, inject={"8": torch.randn(1, 16).double()}).relevance.flatten() for _ in range(2)]
        return float(functional.cosine_similarity(*maps, dim=0).abs())

    plus = fxlrp.rule_set("attnlrp") | {torch.ops.aten.linear.default: fxlrp.rules.weighted.z_plus()}
    assert similarity(plus) > 0.999 > similarity("gradient")


def test_conditional_relevances_of_all_channels_add_up() -> None:
    attributor = fxlrp.compile(cnn(), rules="epsilon_plus", read="1")
    whole = attributor(IMAGE, target=1)
    masks = torch.eye(4, dtype=torch.float64).view(4, 1, 4, 1, 1)
    parts = [attributor(IMAGE, target=1, keep={"1": mask}) for mask in masks]
    same(sum((part.relevance for part in parts), torch.zeros_like(IMAGE)), whole.relevance)
    assert all(torch.equal(part.read["1"], whole.read["1"]) for part in parts)
    assert not torch.equal(parts[0].relevance, parts[1].relevance)


def test_masks_in_several_layers_and_truth_values() -> None:
    """Through channel 2 of the first layer and channel 3 of the second: the other weights might as well be 0."""
    one, two = torch.zeros(1, 4, 1, 1, dtype=torch.bool), torch.zeros(1, 6, 1, 1, dtype=torch.bool)
    one[:, 2], two[:, 3] = True, True
    found = fxlrp.compile(cnn(), rules="attnlrp")(IMAGE, target=1, keep={"0": one, "2": two}).relevance
    cut = cnn()
    full = cut[:4](IMAGE)
    with torch.no_grad():
        cut[5].weight.view(3, 6, 16)[:, [0, 1, 2, 4, 5]] = 0
        gates = [(cut[:1](IMAGE) > 0).double(), (full > 0).double()]
        c = cut[5].weight[1].view(1, 6, 4, 4) * gates[1]
        c = functional.conv_transpose2d(c, cut[2].weight) * one
        c = functional.conv_transpose2d(c * gates[0], cut[0].weight)
    same(found, IMAGE * c)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inject": {"1": 1.0, "relu": 1.0}}, SignatureError, "inject: two names are of one node, 1, relu"),
        ({"inject": {"nope": 1.0}}, SignatureError, "inject='nope' is no module output and no graph node"),
        ({"inject": {"1": torch.ones(2, 3, 6, 6)}}, SignatureError, r"has shape \(2, 3, 6, 6\).*\(2, 4, 6, 6\)"),
        ({"inject": {"1": 1.0}, "target": 1}, TargetError, "give a target, at the output, or inject="),
        ({"inject": {}}, SignatureError, "inject is empty"),
        ({"keep": {"1": float("nan")}}, SignatureError, "keep='1' has entries that are not finite"),
        ({"keep": {"input": 1.0}}, SignatureError, "keep='input' is no module output and no graph node that passes"),
    ],
)
def test_what_cannot_be_injected_or_kept(options: Mapping[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fxlrp.compile(cnn())(IMAGE, **options)
