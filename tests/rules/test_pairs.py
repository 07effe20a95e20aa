"""Fused and hand-written forms of the same function get the same relevance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp

Form = Callable[..., Tensor]
INVARIANT = replace(fxlrp.rule_set("attnlrp"), invariant=True)


class Forms(nn.Module):
    """Several functions side by side, each with inputs of its own: one row of outputs per sample."""

    def __init__(self, forms: tuple[Form, ...]) -> None:
        super().__init__()
        self.forms = forms

    def forward(self, *inputs: Tensor) -> Tensor:
        each = len(inputs) // len(self.forms)
        return torch.cat([f(*inputs[i * each : (i + 1) * each]).flatten(1) for i, f in enumerate(self.forms)], 1)


def relevances(
    forms: tuple[Form, ...], inputs: tuple[Tensor, ...], rules: str | fxlrp.RuleSet = "attnlrp"
) -> list[list[Tensor]]:
    """For each form the relevance of every input, for an output seeded with numbers of both signs."""
    seed = torch.randn(
        forms[0](*inputs).flatten(1).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    attributor = fxlrp.compile(Forms(forms).eval(), rules=rules)
    found = attributor(*inputs * len(forms), target=seed.repeat(1, len(forms))).relevance
    flat = list(found.values()) if isinstance(found, dict) else [found]
    return [flat[i : i + len(inputs)] for i in range(0, len(flat), len(inputs))]


def given(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Pair:
    """Forms of one function; every one is compared with the first."""

    name: str
    inputs: tuple[Tensor, ...]
    forms: tuple[Form, ...]


X, Y = given(3, 4), given(3, 4, seed=1)


def last(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: function(*args, -1, keepdim=True)


mean, total, largest, norm = (
    last(torch.mean),
    last(torch.sum),
    last(torch.amax),
    last(lambda x, d, **k: x.norm(dim=d, **k)),
)
variance = last(lambda x, d, **k: x.var(d, unbiased=False, **k))


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def shifted(offset: Callable[[Tensor], Tensor]) -> Form:
    """Softmax by hand, of logits less an offset, beside another live factor."""

    def form(x: Tensor, y: Tensor) -> Tensor:
        e = torch.exp(x - offset(x))
        return e / total(e) * y

    return form


POINTWISE = [
    Pair("silu", (X,), (
        F.silu,
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x / (1 + torch.exp(-x)),
        lambda x: x * (1 / (1 + torch.exp(-x))),
    )),
    Pair("gelu by erf", (X,), (
        F.gelu,
        lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: 0.5 * x * (torch.erf(x * math.sqrt(0.5)) + 1),
        lambda x: x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * x * torch.erfc(-x / math.sqrt(2)),
    )),
    Pair("gelu by tanh", (X,), (
        lambda x: F.gelu(x, approximate="tanh"),
        gelu_new,
        lambda x: x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))),
    )),
    Pair("gelu by sigmoid", (X,), (lambda x: x * torch.sigmoid(1.702 * x), lambda x: torch.sigmoid(1.702 * x) * x)),
    Pair("hardswish", (X * 3,), (
        F.hardswish,
        lambda x: x * F.hardsigmoid(x),
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (torch.clamp(x + 3, 0, 6) / 6),
        lambda x: F.hardtanh(3 + x, 0, 6) * (1 / 6) * x,
    )),
    Pair("mish", (X,), (F.mish, lambda x: x * torch.tanh(F.softplus(x)))),
    Pair("relu", (X,), (
        F.relu,
        lambda x: x.clamp(min=0),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x * (x > 0),
        lambda x: (x + x.abs()) / 2,
    )),
    Pair("selu", (X,), (F.selu, lambda x: 1.0507009873554805 * F.elu(x, 1.6732632423543772))),
    Pair("glu", (X,), (
        lambda x: F.glu(x, -1),
        lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]),
        lambda x: x.chunk(2, -1)[1].sigmoid() * x.chunk(2, -1)[0],
    )),
    Pair("swiglu", (X, Y), (
        lambda x, y: F.silu(x) * y,
        lambda x, y: y * (x * torch.sigmoid(x)),
        lambda x, y: (x / (1 + torch.exp(-x))) * y,
    )),
    Pair("cube", (X,), (
        lambda x: x**3,
        lambda x: x * x * x,
        lambda x: torch.pow(x, 3.0),
        lambda x: x.square() * x,
    )),
]  # fmt: skip

SOFTMAX = [
    Pair("softmax", (X, Y), (
        lambda x, y: x.softmax(-1) * y,
        lambda x, y: (e := torch.exp(x)) / total(e) * y,
        shifted(largest),
        shifted(lambda x: x.max(-1, keepdim=True)[0]),
        shifted(lambda x: x.max(-1, keepdim=True)[0].detach()),
        shifted(lambda x: largest(x.detach())),
        shifted(lambda x: x.amax(-1)[:, None]),
        shifted(lambda x: x.max()),
        shifted(lambda x: largest(x).expand_as(x)),
    )),
    Pair("softmax of the first dimension", (X, Y), (
        lambda x, y: x.softmax(0) * y,
        lambda x, y: (e := torch.exp(x - x.amax(0))) / e.sum(0) * y,
        lambda x, y: (e := torch.exp(x)) / e.sum(0, keepdim=True) * y,
    )),
]  # fmt: skip

NORMS = [
    Pair("layer norm", (X,), (
        lambda x: F.layer_norm(x, (4,)),
        lambda x: (x - mean(x)) / torch.sqrt(variance(x) + 1e-5),
        lambda x: (x - mean(x)) * torch.rsqrt(variance(x) + 1e-5),
        lambda x: torch.rsqrt(variance(x) + 1e-5) * (x - mean(x)),
        lambda x: (x - mean(x)) / torch.sqrt((x - mean(x)).pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x: (d := x - mean(x)) * (mean(d * d) + 1e-5) ** -0.5,
        lambda x: (d := x - mean(x)) / (mean(d**2) + 1e-5) ** 0.5,
        lambda x: (d := x - mean(x)) * (1 / torch.sqrt(mean(d**2) + 1e-5)),
        lambda x: (x - mean(x)) * torch.rsqrt(mean(x * x) - mean(x) ** 2 + 1e-5),
        lambda x: (x - torch.var_mean(x, -1, correction=0, keepdim=True)[1])
        / torch.sqrt(torch.var_mean(x, -1, correction=0, keepdim=True)[0] + 1e-5),
    )),
    Pair("layer norm with weights", (X,), (
        lambda x: F.layer_norm(x, (4,), Y[0], Y[1]),
        lambda x: Y[0] * (x - mean(x)) / torch.sqrt(variance(x) + 1e-5) + Y[1],
        lambda x: (x - mean(x)) * torch.rsqrt(variance(x) + 1e-5) * Y[0] + Y[1],
    )),
    Pair("rms norm", (X,), (
        lambda x: F.rms_norm(x, (4,), eps=1e-6),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: torch.rsqrt(mean(x**2) + 1e-6) * x,
        lambda x: x / torch.sqrt(mean(x * x) + 1e-6),
        lambda x: x * torch.pow(mean(x.square()) + 1e-6, -0.5),
        lambda x: x * (1 / (mean(x * x) + 1e-6).sqrt()),
        lambda x: x * (total(x * x) / 4 + 1e-6).rsqrt(),
        lambda x: x * (total(x * x) * 0.25 + 1e-6).rsqrt(),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1) + 1e-6)[:, None],
        lambda x: x * torch.rsqrt(x.to(torch.float64, copy=True).pow(2).mean(-1, keepdim=True) + 1e-6),
    )),
    Pair("rms norm with weights", (X,), (
        lambda x: F.rms_norm(x, (4,), Y[0], 1e-6),
        lambda x: Y[0] * (x * torch.rsqrt(mean(x**2) + 1e-6)),
        lambda x: x * (Y[0] * torch.rsqrt(mean(x**2) + 1e-6)),
        lambda x: (1 + (Y[0] - 1)) * (x / torch.sqrt(mean(x**2) + 1e-6)),
    )),
    Pair("division by the norm", (X,), (
        F.normalize,
        lambda x: x / norm(x),
        lambda x: x / norm(x).clamp_min(1e-12),
        lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        lambda x: x * norm(x).reciprocal(),
        lambda x: x * norm(x) ** -1,
        lambda x: x * total(x * x).rsqrt(),
        lambda x: x / total(x * x).sqrt(),
    )),
    Pair("division by the deviation", (X,), (
        lambda x: x / x.std(-1, keepdim=True),
        lambda x: x * (1 / x.std(-1, keepdim=True)),
        lambda x: x / x.var(-1, keepdim=True).sqrt(),
        lambda x: x * x.var(-1, keepdim=True) ** -0.5,
    )),
    Pair("cosine", (X, Y), (
        lambda x, y: F.cosine_similarity(x, y)[:, None],
        lambda x, y: total(F.normalize(x) * F.normalize(y)),
        lambda x, y: total(x * y) / (norm(x) * norm(y)),
        lambda x, y: total(x / norm(x) * (y / norm(y))),
    )),
    Pair("group norm of one group", (given(2, 3, 4),), (
        lambda x: F.group_norm(x, 1),
        lambda x: F.layer_norm(x, (3, 4)),
        lambda x: (d := x - x.mean((1, 2), keepdim=True)) * torch.rsqrt((d * d).mean((1, 2), keepdim=True) + 1e-5),
    )),
    Pair("instance norm", (given(2, 3, 4),), (
        F.instance_norm,
        lambda x: F.layer_norm(x, (4,)),
        lambda x: F.group_norm(x, 3),
    )),
]  # fmt: skip

W, B, KERNEL = given(4, 5, seed=2), given(5, seed=3), given(4, 3, 3, 3, seed=4)
CONTRACTIONS = [
    Pair("product of two matrices", (X, Y), (
        lambda x, y: x @ y.t(),
        lambda x, y: torch.einsum("bi,ci->bc", x, y),
        lambda x, y: torch.mm(x, y.t()),
        lambda x, y: torch.bmm(x[None], y.t()[None])[0],
        lambda x, y: F.linear(x, y),
        lambda x, y: torch.addmm(torch.zeros(3, dtype=torch.float64), x, y.t()),
        lambda x, y: torch.baddbmm(torch.zeros(1, 1, 1, dtype=torch.float64), x[None], y.t()[None])[0],
        lambda x, y: (x[:, None] * y[None]).sum(-1),
        lambda x, y: torch.tensordot(x, y, ([1], [1])),
        lambda x, y: torch.inner(x, y),
        lambda x, y: torch.stack([x @ row for row in y], 1),
    )),
    Pair("product with a constant", (X,), (
        lambda x: F.linear(x, W.t(), B),
        lambda x: x @ W + B,
        lambda x: torch.addmm(B, x, W),
        lambda x: torch.einsum("bi,ij->bj", x, W) + B,
        lambda x: (W.t() @ x.t()).t() + B,
        lambda x: torch.tensordot(x, W, 1).add(B),
        lambda x: F.conv1d(x[:, :, None], W.t()[:, :, None], B)[:, :, 0],
    )),
    Pair("convolution", (given(2, 3, 5, 5),), (
        lambda x: F.conv2d(x, KERNEL, padding=1),
        lambda x: F.conv2d(x, KERNEL, padding="same"),
        lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), KERNEL),
        lambda x: (KERNEL.flatten(1) @ F.unfold(x, 3, padding=1)).unflatten(2, (5, 5)),
    )),
    Pair("average", (X,), (
        lambda x: x.mean(1, keepdim=True) * x,
        lambda x: x.sum(1, keepdim=True) / 4 * x,
        lambda x: F.adaptive_avg_pool1d(x, 1) * x,
        lambda x: F.avg_pool1d(x, 4) * x,
        lambda x: x @ torch.full((4, 1), 0.25, dtype=torch.float64) * x,
    )),
]  # fmt: skip

Q, K, V = (given(2, 4, 5, 8, seed=s) for s in (5, 6, 7))
BOOLEAN = (given(5, 5, seed=8) > -0.5) | torch.eye(5, dtype=torch.bool)
FLOATING = given(5, 5, seed=9)
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
sdpa = F.scaled_dot_product_attention


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float = 8**-0.5) -> Tensor:
    scores = q @ k.transpose(-1, -2) * scale
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(8)
    e = torch.exp(scores - largest(scores))
    return torch.einsum("bhij,bhjd->bhid", e / total(e), v)


def by_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q / math.sqrt(8), k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).unflatten(0, (2, 4))


def repeated(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, 1)


def expanded(t: Tensor) -> Tensor:
    return t[:, :, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8)


ATTENTION = [
    Pair("attention", (Q, K, V), (sdpa, by_hand, by_einsum, by_bmm)),
    Pair("causal attention", (Q, K, V), (
        lambda q, k, v: sdpa(q, k, v, is_causal=True),
        lambda q, k, v: by_hand(q, k, v, CAUSAL),
        lambda q, k, v: sdpa(q, k, v, attn_mask=CAUSAL),
    )),
    Pair("attention with a boolean mask", (Q, K, V), (
        lambda q, k, v: sdpa(q, k, v, attn_mask=BOOLEAN),
        lambda q, k, v: by_hand(q, k, v, BOOLEAN),
        lambda q, k, v: by_hand(q, k, v, torch.zeros(5, 5, dtype=torch.float64).masked_fill(~BOOLEAN, -torch.inf)),
    )),
    Pair("attention with position biases", (Q, K, V), (
        lambda q, k, v: sdpa(q, k, v, attn_mask=FLOATING),
        lambda q, k, v: by_hand(q, k, v, FLOATING),
    )),
    Pair("attention with biases that are an input", (Q, K, V, given(2, 4, 5, 5)), (
        lambda q, k, v, mask: sdpa(q, k, v, attn_mask=mask),
        by_hand,
    )),
    Pair("attention with another scale", (Q, K, V), (
        lambda q, k, v: sdpa(q, k, v, scale=0.3),
        lambda q, k, v: by_hand(q, k, v, scale=0.3),
        lambda q, k, v: by_hand(0.3 * q, k, v, scale=1.0),
    )),
    Pair("grouped queries", (Q, K[:, :2], V[:, :2]), (
        lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
        lambda q, k, v: sdpa(q, repeated(k), repeated(v)),
        lambda q, k, v: by_hand(q, repeated(k), repeated(v)),
        lambda q, k, v: by_hand(q, expanded(k), expanded(v)),
    )),
    Pair("only the query", (Q,), (lambda q: sdpa(q, K, V), lambda q: by_hand(q, K, V))),
    Pair("only the key", (K,), (lambda k: sdpa(Q, k, V), lambda k: by_hand(Q, k, V))),
    Pair("only the value", (V,), (lambda v: sdpa(Q, K, v), lambda v: by_hand(Q, K, v))),
    Pair("query and key", (Q, K), (lambda q, k: sdpa(q, k, V), lambda q, k: by_hand(q, k, V))),
    Pair("query and value", (Q, V), (lambda q, v: sdpa(q, K, v), lambda q, v: by_hand(q, K, v))),
    Pair("one for all", (Q,), (lambda x: sdpa(x, x, x), lambda x: by_hand(x, x, x))),
]  # fmt: skip

torch.manual_seed(0)
LSTM, GRU = (kind(4, 5, batch_first=True, dtype=torch.float64).requires_grad_(False) for kind in (nn.LSTM, nn.GRU))
SEQUENCE = given(2, 3, 4)


def lstm_by_hand(x: Tensor) -> Tensor:
    hidden = cell = torch.zeros(2, 5, dtype=torch.float64)
    for now in x.unbind(1):
        gates = now @ LSTM.weight_ih_l0.t() + LSTM.bias_ih_l0 + hidden @ LSTM.weight_hh_l0.t() + LSTM.bias_hh_l0
        i, f, g, o = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return hidden


def lstm_by_cells(x: Tensor) -> Tensor:
    state = None
    weights = (LSTM.weight_ih_l0, LSTM.weight_hh_l0, LSTM.bias_ih_l0, LSTM.bias_hh_l0)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    for now in x.unbind(1):
        state = torch.lstm_cell(now, state or (zeros, zeros), *weights)
    return state[0]


def gru_by_hand(update: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Form:
    def form(x: Tensor) -> Tensor:
        hidden = torch.zeros(2, 5, dtype=torch.float64)
        for now in x.unbind(1):
            r1, z1, n1 = F.linear(now, GRU.weight_ih_l0, GRU.bias_ih_l0).chunk(3, 1)
            r2, z2, n2 = F.linear(hidden, GRU.weight_hh_l0, GRU.bias_hh_l0).chunk(3, 1)
            new = torch.tanh(n1 + torch.sigmoid(r1 + r2) * n2)
            hidden = update(torch.sigmoid(z1 + z2), new, hidden)
        return hidden

    return form


RECURRENT = [
    Pair("lstm", (SEQUENCE,), (lambda x: LSTM(x)[0][:, -1], lstm_by_hand, lstm_by_cells)),
    Pair("gru", (SEQUENCE,), (
        lambda x: GRU(x)[0][:, -1],
        gru_by_hand(lambda z, new, hidden: (1 - z) * new + z * hidden),
        gru_by_hand(lambda z, new, hidden: new + z * (hidden - new)),
    )),
]  # fmt: skip

PAIRS = [*POINTWISE, *SOFTMAX, *NORMS, *CONTRACTIONS, *ATTENTION, *RECURRENT]


def check(pair: Pair, rules: str) -> None:
    expected, *others = relevances(pair.forms, pair.inputs, rules)
    assert any(r.abs().max() > 1e-3 for r in expected)
    output = pair.forms[0](*pair.inputs).flatten(1)
    for number, (form, found) in enumerate(zip(pair.forms[1:], others, strict=True), 1):
        torch.testing.assert_close(form(*pair.inputs).flatten(1), output, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, msg=lambda m, n=number: f"form {n}: {m}")


@pytest.mark.parametrize(
    "pair",
    leave_to_slow(PAIRS, but={POINTWISE[0], SOFTMAX[0], NORMS[0], CONTRACTIONS[0], ATTENTION[0]}),
    ids=lambda pair: pair.name,
)
def test_forms_agree(pair: Pair) -> None:
    check(pair, "attnlrp")


@pytest.mark.parametrize("pair", [SOFTMAX[0], *ATTENTION[:2], NORMS[0], NORMS[2]], ids=lambda pair: pair.name)
def test_forms_agree_with_constant_attention(pair: Pair) -> None:
    check(pair, "cp_lrp")


def test_upcast_keeps_a_statistic() -> None:
    """Transformers computes its RMS norm in float32 and casts back."""

    def upcast(x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    forms = (upcast, lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    one, two = relevances(forms, (X,))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)  # float32 inside the model


def shares(form: Form, *factors: Tensor, rules: str | fxlrp.RuleSet) -> list[float]:
    """Relevance of each factor at an output of one number."""
    result = fxlrp.compile(Forms((form,)).eval(), rules=rules)(*factors, target=0)
    return [float(r) for r in result.relevance.values()]


TWO, THREE, FOUR = (torch.tensor([[number]], dtype=torch.float64) for number in (2.0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("form", "published"),
    [
        (lambda a, b, c: (a * b) * c, [6, 6, 12]),
        (lambda a, b, c: a * (b * c), [12, 6, 6]),
        (lambda a, b, c: (a * c) * b, [6, 12, 6]),
        (lambda a, b, c: -(a * -b) * c, [6, 6, 12]),
        (lambda a, b, c: (a * b * 2) * c / 2, [6, 6, 12]),
        (lambda a, b, c: (a * b).reshape(1, 1, 1) * c, [6, 6, 12]),
        (lambda a, b, c: torch.einsum("bi,bi,bi->bi", a, b, c), [6, 6, 12]),
    ],
    ids=["(ab)c", "a(bc)", "(ac)b", "signs", "constants", "views", "einsum"],
)
def test_v04_product_chain(form: Form, published: list[float]) -> None:
    """Binary halves depend on the association of a product; in invariant mode they do not."""
    assert shares(form, TWO, THREE, FOUR, rules="attnlrp") == pytest.approx(published, abs=1e-12)
    assert shares(form, TWO, THREE, FOUR, rules=INVARIANT) == pytest.approx([8, 8, 8], abs=1e-12)


def test_product_of_a_dimension() -> None:
    for rules in ("attnlrp", INVARIANT):
        form = lambda a, b, c: torch.cat([a, b, c], 1).prod(1, keepdim=True)  # noqa: E731
        assert shares(form, TWO, THREE, FOUR, rules=rules) == pytest.approx([8, 8, 8], abs=1e-12)


def test_product_used_twice_is_a_factor_of_its_own() -> None:
    """A chain ends at a product that feeds something else as well."""

    def form(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        ab = a * b
        return ab * c + ab

    assert shares(form, TWO, THREE, FOUR, rules=INVARIANT) == pytest.approx([9, 9, 12], abs=1e-12)


def test_v05_association_of_linear_attention() -> None:
    """``(Q K^T) V`` against ``Q (K^T V)``: the same function, other shares (You et al. 2025)."""
    output = 24.0
    forms = {(0.25, 0.25, 0.5): lambda q, k, v: (q @ k.mT) @ v, (0.5, 0.25, 0.25): lambda q, k, v: q @ (k.mT @ v)}
    for expected, form in forms.items():
        found = shares(lambda q, k, v, f=form: f(q[None], k[None], v[None])[0], TWO, THREE, FOUR, rules="attnlrp")
        assert [r / output for r in found] == pytest.approx(list(expected), abs=1e-12)


def tree(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(1)
    return 2 * a + 3 * b + 5 * a * c - 4 * a * b * d**2


def other_tree(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(1)
    return a * 2 + b * 3 + c * (5 * a) - (d * (4 * a)) * (b * d)


def third_tree(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(1)
    return a + a + 3 * b - a * (-5 * c) - d.square() * a * (b * 4)


@pytest.mark.parametrize("form", [tree, other_tree, third_tree])
def test_v21_interactions_of_a_polynomial(form: Form) -> None:
    """A monomial of degree d gives each factor its exponent's share of d: integrated gradients from 0."""
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]], dtype=torch.float64)
    ((found,),) = relevances((lambda x: form(x)[:, None],), (x,), INVARIANT)
    ((seeded,),) = relevances((lambda x: x,), (x[:, :1],), INVARIANT)
    scale = seeded.item() / x[0, 0].item()
    wanted = [2 - 5 / 2 - 2 / 4, 6 - 2 / 4, -5 / 2, -2 * 2 / 4]
    assert [r / scale for r in found[0].tolist()] == pytest.approx(wanted, abs=1e-12)
