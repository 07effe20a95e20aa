"""What the papers' formulas imply, on ops and networks small enough to be sure: numbered as other such checks are.

Others with numbers are beside what they check: 4, 5 and 21 in test_pairs, 6 in test_attnlrp, 7 in test_ledger, 11, 12,
14, 15 and 17 in test_published, 13 in test_walks, 16 in test_positions, 18 in test_filtering, 20, 22 and 23 in
tests/evaluate, 24 in test_peers, 25 in test_compression, 28 in test_presets; 1 is all of test_rules.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp.ir.numerics import stabilise

X = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SEED = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def relevance(function: Callable[..., Tensor], *inputs: Tensor, rules: str = "attnlrp", seed: Tensor = SEED) -> Tensor:
    model = function if isinstance(function, nn.Module) else Function(function)
    found = fxlrp.compile(model.eval(), rules=rules)(*inputs, target=seed).relevance
    return next(iter(found.values())) if isinstance(found, dict) else found


def test_v02_softmax_is_its_gradient_times_logits() -> None:
    """A constant at all logits moves relevance between them, and leaves its sum."""
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((x.softmax(-1) * SEED).sum(), x)
    plain, moved = (relevance(lambda x: x.softmax(-1), X + shift) for shift in (0.0, 5.0))
    torch.testing.assert_close(plain, X * gradient)
    torch.testing.assert_close(moved.sum(-1), plain.sum(-1))
    assert (moved - plain).abs().max() > 0.1


def test_v02_a_bias_of_keys_changes_nothing() -> None:
    """It is such a constant: relevance of queries and of the values does not know it."""
    q, k, v = torch.randn(3, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    bias = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    seed = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    attend = [lambda q, v, k=keys: F.scaled_dot_product_attention(q, k, v) for keys in (k, k + bias)]
    one, two = (fxlrp.compile(Function(f).eval())(q, v, target=seed).relevance for f in attend)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-12)


def test_v03_a_norm_keeps_all_but_its_bias_if_its_deviation_is_held() -> None:
    """And nothing, if it is not: it has degree 0."""
    norm = nn.LayerNorm(6, eps=0.0).double()
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
    y = norm(X).detach()
    torch.testing.assert_close(relevance(norm, X).sum(-1), ((y - norm.bias) * SEED).sum(-1).detach())
    attached = relevance(lambda x: norm(x) - norm.bias, X, rules="gradient")
    assert attached.sum(-1).abs().max() < 1e-12


def test_v03_a_root_mean_square_norm_passes_relevance_entry_by_entry() -> None:
    weight = SEED[0] + 2
    normed = F.rms_norm(X, (6,), weight)
    torch.testing.assert_close(relevance(lambda x: F.rms_norm(x, (6,), weight), X), normed * SEED)


def test_v08_fused_attention_halves_twice() -> None:
    """A quarter of the gradient at queries and keys, a half at values, as two products do."""
    q, k, v = torch.randn(3, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    seed = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    gradients = torch.autograd.grad((F.scaled_dot_product_attention(*leaves) * seed).sum(), leaves)
    forms = F.scaled_dot_product_attention, lambda q, k, v: (q @ k.mT / 6**0.5).softmax(-1) @ v
    for form in forms:
        found = fxlrp.compile(Function(form).eval())(q, k, v, target=seed).relevance.values()
        for x, g, part, r in zip((q, k, v), gradients, (0.25, 0.25, 0.5), found, strict=True):
            torch.testing.assert_close(r, part * x * g, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rules", ["attnlrp", "cp_lrp", "relp", "dynamiclrp", "chefer"])
def test_v09_masked_keys_have_no_relevance(rules: str) -> None:
    """By -inf, by truth values and by causality, with keys shared by groups of queries; a row may see one key only."""
    q = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    kv = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    seed = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    seen = torch.tensor([True, True, False, True, False])
    added = torch.zeros(5, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    forms = [
        lambda q, k, v, m=mask: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True)
        for mask in (seen[None].expand(5, 5), added[None].expand(5, 5))
    ]
    for form in forms:
        found = fxlrp.compile(Function(form).eval(), rules=rules)(q, kv, kv * 2, target=seed).relevance
        for r in list(found.values())[-2:]:
            assert r.isfinite().all()
            assert (r[:, :, ~seen] == 0).all()
    causal = fxlrp.compile(
        Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)).eval(),
        rules=rules,
    )
    first = seed.clone()
    first[:, :, 1:] = 0
    found = causal(q, kv, kv * 2, target=first).relevance
    for r in list(found.values())[-2:]:
        assert r.isfinite().all()
        assert (r[:, :, 1:] == 0).all()


def test_v10_half_of_a_mixture_goes_to_its_router() -> None:
    """Two experts weighted by ``w / sum w``: the normaliser is held, so that the router passes its half on."""
    torch.manual_seed(0)
    one, two = (nn.Linear(6, 6, bias=False).double() for _ in range(2))

    def mixed(x: Tensor, w: Tensor) -> Tensor:
        w = w / w.sum(-1, keepdim=True)
        return w[:, :1] * one(x) + w[:, 1:] * two(x)

    w = X[:, :2].abs() + 0.1
    y = mixed(X, w).detach()
    whole = (y * SEED).sum(-1)
    held = fxlrp.compile(Function(mixed).eval())(X, w, target=SEED).relevance
    torch.testing.assert_close(held["inputs_0"].sum(-1), whole / 2)
    torch.testing.assert_close(held["inputs_1"].sum(-1), whole / 2)


def deep(layers: int = 12) -> nn.Sequential:
    torch.manual_seed(3)
    parts = [part for _ in range(layers) for part in (nn.Linear(32, 32, bias=False), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(32, 8, bias=False)).double().eval()


@pytest.mark.parametrize(("rules", "converges"), [("z_plus", True), ("epsilon", False)])
def test_v19_relevance_of_positive_weights_forgets_where_it_started(rules: str, converges: bool) -> None:
    """A product of matrices without negative entries nears rank 1 (Sixt et al. 2020); gradients do not."""
    made = fxlrp.rules.weighted.z_plus() if converges else fxlrp.rules.weighted.epsilon()
    table = fxlrp.rule_set("epsilon") | {torch.ops.aten.linear.default: made}
    attributor = fxlrp.compile(deep(), rules=table, read=("21", "1"))
    x = torch.rand(1, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.1
    found = attributor(x, targets=[(0,), (5,)]).read
    near, far = (1 - F.cosine_similarity(r[0, 0], r[1, 0], 0) for r in (found["21"], found["1"]))
    assert (far < 1e-3 * near) == converges
    assert near > 1e-4


def test_v26_every_op_on_the_path_is_in_the_report() -> None:
    """Counted by layers of the model."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    attributor = fxlrp.compile(model)
    attributor(x, target=(0, 0))
    plan = attributor._programs.last[0].plan
    rows = attributor.coverage().rows
    assert sum(row.count for row in rows if row.rule) >= len(plan.twins) > 0
    assert not plan.missing
    counts = {row.op: row.count for row in rows}
    assert counts["aten.linear.default"] == 4
    assert counts["aten.layer_norm.default"] == 2


@pytest.mark.parametrize("e", [1e-6, 1e-3])
def test_v27_a_stabiliser_keeps_the_sign_and_counts_0_as_positive(e: float) -> None:
    z = torch.tensor([-e / 2, 0.0, e / 2, -1.0], dtype=torch.float64)
    wanted = torch.tensor([-1.5 * e, e, 1.5 * e, -1.0 - e], dtype=torch.float64)
    torch.testing.assert_close(stabilise(z, e), wanted, rtol=1e-12, atol=0.0)
