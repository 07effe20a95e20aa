"""Relevance of positions: where they enter a model, and the whole pass held against its definition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.rules.published.positions import combine_positions

SAMPLES, LENGTH, HEADS, SIZE = 2, 5, 2, 4
WIDTH = HEADS * SIZE
X = torch.randn(SAMPLES, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def count(n: int) -> Tensor:
    return torch.arange(n).double()


def angles(n: int) -> Tensor:
    return count(n)[:, None] * 10.0 ** -count(SIZE // 2)


def rotate_halves(x: Tensor) -> Tensor:
    """By tables of the whole size, as Llama does."""
    a = torch.cat([angles(x.shape[-2])] * 2, -1)
    one, two = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    return x * a.cos() + torch.cat([-two, one], -1) * a.sin()


def rotate_slices(x: Tensor) -> Tensor:
    """By sums and differences of halves."""
    a = angles(x.shape[-2])
    one, two = x.chunk(2, -1)
    return torch.cat([one * a.cos() - two * a.sin(), two * a.cos() + one * a.sin()], -1)


def rotate_pairs(x: Tensor) -> Tensor:
    """By neighbours, as GPT-J does."""
    a = angles(x.shape[-2]).repeat_interleave(2, -1)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * a.cos() + turned * a.sin()


def rotate_complex(x: Tensor) -> Tensor:
    """By products of complex numbers."""
    a = angles(x.shape[-2])
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(a), a)
    return torch.view_as_real(turned).flatten(-2)


def rotate_part(x: Tensor) -> Tensor:
    """By tables, of all but the first position."""
    return torch.cat([x[..., :1, :], rotate_halves(x[..., 1:, :])], -2)


HALVES = [(i, i + SIZE // 2) for i in range(SIZE // 2)]
NEIGHBOURS = [(i, i + 1) for i in range(0, SIZE, 2)]
ROTATIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[tuple[int, int]], int]] = {
    "halves": (rotate_halves, HALVES, 0),
    "slices": (rotate_slices, HALVES, 0),
    "pairs": (rotate_pairs, NEIGHBOURS, 0),
    "complex": (rotate_complex, NEIGHBOURS, 0),
    "all but a prefix": (rotate_part, HALVES, 1),
}


def lean(n: int) -> Tensor:
    """Biases of scores that fall with the distance, of each head its own."""
    return -(count(n)[None] - count(n)[:, None]).abs() * 2.0 ** -(1 + count(HEADS))[:, None, None]


def attend_openly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    scores = q @ k.mT / SIZE**0.5
    scores = scores if bias is None else scores + bias
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    if bias is not None and causal:
        hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        bias, causal = bias.masked_fill(hidden, -torch.inf), False
    return functional.scaled_dot_product_attention(q, k, v, bias, is_causal=causal)


def attend_in_batches(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """With heads and samples in one dimension, as Bloom does."""
    assert bias is not None
    n = q.shape[-2]
    q, k = q.reshape(-1, n, SIZE), k.reshape(-1, n, SIZE)
    lines = bias.expand(SAMPLES, HEADS, n, n).reshape(-1, n, n)
    scores = torch.baddbmm(lines, q, k.mT, alpha=SIZE**-0.5).view(SAMPLES, HEADS, n, n)
    if causal:
        scores = scores + torch.full((n, n), -torch.inf, dtype=torch.float64).triu(1)
    return scores.softmax(-1) @ v


ATTENTIONS = {"open": attend_openly, "fused": attend_fused, "batched": attend_in_batches}


class Reader(nn.Module):
    """One layer of attention, whose result is summed with weights of their own for each position."""

    def __init__(self, way: str, attention: str = "open", causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way, self.attend, self.causal = way, ATTENTIONS[attention], causal
        self.project = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.table = nn.Parameter(torch.randn(LENGTH + 2, WIDTH))
        self.head = nn.Linear(LENGTH * WIDTH, 3, bias=False)
        self.double().eval()

    def add(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.way == "learned":
            return x + self.table[:n]
        if self.way == "looked up":
            return x + functional.embedding(torch.arange(n), self.table)
        if self.way == "sinusoidal":
            a = count(n)[:, None] * 10.0 ** -(count(WIDTH // 2) / 4)
            return x + torch.cat([a.sin(), a.cos()], -1)
        if self.way == "numbered":
            return x + count(n)[:, None] / n
        return x

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(self.add(x)).unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4)
        if self.way in ROTATIONS:
            q, k = (ROTATIONS[self.way][0](part) for part in (q, k))
        bias = lean(x.shape[1]) if self.way == "leaning" else None
        return self.head(self.attend(q, k, v, bias, self.causal).transpose(1, 2).flatten(1))


def share(parts: Tensor, r: Tensor, dim: int) -> Tensor:
    """Epsilon rule with epsilon 0: the relevance of a sum over ``dim``, by parts of the sum; 0 where there is none."""
    whole = parts.sum(dim, keepdim=True)
    return parts * torch.where(whole == 0, 0.0, r.unsqueeze(dim) / whole)


def turn_back(q: Tensor, r: Tensor, pairs: list[tuple[int, int]], prefix: int) -> tuple[Tensor, Tensor]:
    """Return what queries take of a rotation, and what positions do: half of each of four products of a pair."""
    of_q, of_positions = torch.zeros_like(q), torch.zeros(SAMPLES, LENGTH, dtype=torch.float64)
    of_q[:, :, :prefix] = r[:, :, :prefix]
    for n in range(prefix, LENGTH):
        for (i, j), angle in zip(pairs, angles(LENGTH)[n - prefix], strict=True):
            one, two = q[:, :, n, i], q[:, :, n, j]
            for target, products in (
                (i, torch.stack([one * angle.cos(), -two * angle.sin()], -1)),
                (j, torch.stack([one * angle.sin(), two * angle.cos()], -1)),
            ):
                shares = share(products, r[:, :, n, target], -1)
                of_q[:, :, n, i] += shares[..., 0] / 2
                of_q[:, :, n, j] += shares[..., 1] / 2
                of_positions[:, n] += shares.sum(-1).sum(1) / 2
    return of_q, of_positions


def explain_literally(model: Reader, x: Tensor, cls: int) -> tuple[Tensor, Tensor, float]:
    """Return relevance of tokens, that of positions by position, and what the softmax leaks: every rule on its own."""
    z = model.add(x)
    q0, k0, v = model.project(z).unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4)
    rotation, pairs, prefix = ROTATIONS.get(model.way, (lambda part: part, [], 0))
    q, k = rotation(q0), rotation(k0)
    products = q[..., :, None, :] * k[..., None, :, :] / SIZE**0.5
    bias = lean(LENGTH).expand(SAMPLES, -1, -1, -1) if model.way == "leaning" else torch.zeros(())
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if model.causal else torch.tensor(False)
    scores = (products.sum(-1) + bias).masked_fill(hidden, 0.0)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    seen = weights[..., None] * v[..., None, :, :]
    flat = seen.sum(-2).transpose(1, 2).flatten(1)
    r = (flat * model.head.weight[cls]).unflatten(1, (LENGTH, HEADS, SIZE)).transpose(1, 2)
    halves = share(seen, r, -2) / 2
    of_weights, of_v = halves.sum(-1), halves.sum(-3)
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    leak = float((of_weights.sum() - of_scores.sum()).detach())
    terms = torch.cat([products, bias.expand_as(scores)[..., None]], -1)
    of_terms = share(terms, of_scores, -1)
    of_positions = of_terms[..., -1].sum((1, 2)) if model.way == "leaning" else torch.zeros(SAMPLES, LENGTH).double()
    of_q, of_k = of_terms[..., :-1].sum(-2) / 2, of_terms[..., :-1].sum(-3) / 2
    if pairs:
        (of_q, one), (of_k, two) = (turn_back(a, b, pairs, prefix) for a, b in ((q0, of_q), (k0, of_k)))
        of_positions = of_positions + one + two
    r = torch.stack([of_q, of_k, of_v]).permute(1, 3, 0, 2, 4).flatten(2)
    of_z = share(z[..., None, :] * model.project.weight, r, -1).sum(-2)
    of_x, of_table = share(torch.stack([x, z - x]), of_z, 0)
    return of_x.detach(), (of_positions + of_table.sum(-1)).detach(), leak


ADDED = ["learned", "looked up", "sinusoidal", "numbered"]
CASES = [
    *((way, "open", False) for way in (*ADDED, *ROTATIONS)),
    ("halves", "fused", True),
    *(("leaning", attention, causal) for attention in ATTENTIONS for causal in (False, True)),
]


@pytest.mark.parametrize(
    ("way", "attention", "causal"),
    leave_to_slow(CASES, but={("learned", "open", False), ("halves", "fused", True), ("leaning", "fused", True)}),
)
def test_v16_relevance_of_tokens_and_positions_is_that_of_the_definition(
    way: str, attention: str, causal: bool
) -> None:
    model = Reader(way, attention, causal)
    found = fxlrp.compile(model, rules="pa_lrp", read=("*:positions",))(X, target=1)
    tokens, positions, leak = explain_literally(model, X, 1)
    torch.testing.assert_close(found.relevance, tokens, rtol=1e-9, atol=1e-11)
    whole = torch.stack([r.sum(-1) for r in found.read.values()]).sum(0)
    torch.testing.assert_close(functional.pad(whole, (LENGTH - whole.shape[1], 0)), positions, rtol=1e-9, atol=1e-11)
    logit = float(model(X)[:, 1].sum().detach())
    assert float(found.relevance.sum()) + float(whole.sum()) + leak == pytest.approx(logit, rel=1e-8)


class Rotated(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.rotate = ROTATIONS[way][0]

    def forward(self, x: Tensor) -> Tensor:
        return self.rotate(x)


@pytest.mark.parametrize("way", ROTATIONS)
def test_v16_a_rotation_takes_half_of_every_token(way: str) -> None:
    """And none of a prefix that is not rotated."""
    x, prefix = X[..., :SIZE], ROTATIONS[way][2]
    seed = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = fxlrp.compile(Rotated(way).eval(), rules="pa_lrp", read="*:positions")(x, target=seed)
    whole = (Rotated(way)(x) * seed).sum(-1)
    taken = torch.stack([r.sum(-1) for r in found.read.values()]).sum(0)
    torch.testing.assert_close(taken, whole[:, prefix:] / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.relevance.sum(-1)[:, prefix:], whole[:, prefix:] / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.relevance[:, :prefix], (x * seed)[:, :prefix])


@pytest.mark.parametrize(("way", "attention", "causal"), leave_to_slow(CASES, but={("leaning", "fused", True)}))
def test_v16_the_account_counts_positions_once(way: str, attention: str, causal: bool) -> None:
    """Logit = tokens + absorbed + leaked: positions are all that is absorbed here, and the softmax all that leaks."""
    model = Reader(way, attention, causal)
    attributor = fxlrp.compile(model, rules="pa_lrp", read="*:positions")
    found, ledger = attributor(X, target=1), attributor.ledger(X, target=1)
    taken = sum(float(r.sum()) for r in found.read.values())
    assert ledger.absorbed == pytest.approx(taken, rel=1e-9, abs=1e-12)
    assert ledger.leaked == pytest.approx(explain_literally(model, X, 1)[2], rel=1e-9, abs=1e-12)
    assert all(e.absorbers for e in ledger.entries if abs(e.absorbed) > 1e-12)
    assert float(found.relevance.sum()) + taken + ledger.leaked == pytest.approx(ledger.explained, rel=1e-8)


class Counted(nn.Module):
    """Adds positions that a mask of padding counts, to be summed with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Linear(LENGTH * WIDTH, 3, bias=False)
        self.double().eval()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head((x + (mask.cumsum(-1) - 1).double()[..., None]).flatten(1))


def test_positions_that_an_input_counts_are_absorbed_too() -> None:
    mask = torch.ones(SAMPLES, LENGTH, dtype=torch.long)
    attributor = fxlrp.compile(Counted(), rules="pa_lrp", read="*:positions")
    found, ledger = attributor(X, mask, target=1), attributor.ledger(X, mask, target=1)
    weights = attributor.model.head.weight[1].unflatten(0, (LENGTH, WIDTH)).detach()
    wanted = (count(LENGTH)[:, None] * weights).expand(SAMPLES, -1, -1)
    torch.testing.assert_close(found.read["table:positions"], wanted)
    assert ledger.absorbed == pytest.approx(float(wanted.sum()))
    assert ledger.leaked == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "number"),
    leave_to_slow([("llama", 4), ("gemma3", 4), ("bert", 1), ("gpt2", 1), ("flan_t5", 4), ("vit_b_16", 1),
                   ("siglip2", 1), ("mixtral", 4)], but={"bert"}),
)  # fmt: skip
def test_places_of_positions_are_found(name: str, number: int) -> None:
    """Cosines and sines of each layer; one table; a bias of each layer that attends to itself."""
    model, args, kwargs = ZOO[name]()
    found = fxlrp.compile(model, rules="pa_lrp", read="*:positions")(*args, **kwargs)
    assert len(found.read) == number
    assert name != "llama" or list(found.read) == [
        f"model.layers.{i}.self_attn.rotation{which}:positions" for i in (0, 1) for which in ("", "_1")
    ]
    assert all(float(r.abs().max()) > 0 for r in found.read.values())


class Sums(nn.Module):
    """Sums and products with parameters that are none of positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.bias, self.mix, self.gain = (nn.Parameter(torch.randn(1, 1, WIDTH)) for _ in range(3))
        self.types = nn.Embedding(2, WIDTH)
        self.register_buffer("zeros", torch.zeros(1, LENGTH, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        before = functional.pad(x, (0, 0, 1, 0))[:, :-1]
        y = x * self.mix + before * (1 - self.mix) + self.bias
        hidden = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)
        scores = y @ y.mT + torch.where(hidden == 0, 0.0, -1e9)
        return scores.softmax(-1) @ (y * self.gain + self.types(self.zeros))


def test_biases_masks_shifts_and_types_are_no_positions() -> None:
    model = Sums().double().eval()
    with pytest.raises(SignatureError, match=r"fits no place where positions enter\. There are: none"):
        fxlrp.compile(model, args=(X,), rules="pa_lrp", read="*:positions")
    plain, found = (fxlrp.compile(model, rules=rules)(X, target=(0, 1)) for rules in ("attnlrp", "pa_lrp"))
    torch.testing.assert_close(found.relevance, plain.relevance, rtol=0, atol=0)


@pytest.mark.slow
def test_positions_of_samples_are_apart_and_sequences_open() -> None:
    model = Reader("leaning", "fused")
    model.head = nn.Identity()
    attributor = fxlrp.compile(model, rules="pa_lrp", read="*:positions", dynamic_shapes="auto")
    both = attributor(X, target=[(1,), (2,)]).read
    assert list(both) == ["attention_bias:positions"]
    name = "attention_bias:positions"
    one = attributor(X[1:, :4], target=(2,)).read[name]
    assert both[name].shape == (SAMPLES, LENGTH, HEADS * LENGTH)
    assert one.shape == (1, 4, HEADS * 4)
    alone = fxlrp.compile(model, rules="pa_lrp", read="*:positions")(X[1:], target=(2,)).read[name]
    torch.testing.assert_close(both[name][1:], alone)


class SequenceFirst(Reader):
    def add(self, x: Tensor) -> Tensor:
        return (x.transpose(0, 1) + self.table[:LENGTH, None]).transpose(0, 1)


@pytest.mark.parametrize("samples", [1, SAMPLES, LENGTH])
def test_positions_in_the_dimension_of_samples_are_refused(samples: int) -> None:
    x = X[:1].expand(samples, -1, -1)
    with pytest.raises(SignatureError, match="positions are in the first dimension of add"):
        fxlrp.compile(SequenceFirst("learned"), args=(x,), rules="pa_lrp", read="*:positions")
    fxlrp.compile(SequenceFirst("learned"), args=(x,), rules="pa_lrp")


def test_masks_where_positions_are_read_are_refused() -> None:
    attributor = fxlrp.compile(Reader("learned"), rules="pa_lrp", read="*:positions")
    with pytest.raises(SignatureError, match="read at add, where keep= masks it"):
        attributor(X, target=1, keep={"add": torch.zeros_like(X)})


def test_other_presets_have_no_places_of_positions() -> None:
    with pytest.raises(SignatureError, match="with rules='pa_lrp'"):
        fxlrp.compile(Reader("learned"), args=(X,), read="*:positions")


def test_the_published_read_outs() -> None:
    tokens = torch.tensor([[[1.0, -3.0], [2.0, 2.0]]])
    positions = {"a": torch.tensor([[[1.0, -2.0], [1.0, 1.0]]]), "b": torch.tensor([[[-1.0, 0.0], [0.0, 4.0]]])}
    wanted = {"signed": [-4.0, 10.0], "positive": [2.0, 10.0], "absolute": [0.0, 10.0]}
    for how, row in wanted.items():
        torch.testing.assert_close(combine_positions(tokens, positions, how), torch.tensor([row]))
    torch.testing.assert_close(combine_positions(tokens.sum(-1), positions), torch.tensor([wanted["signed"]]))
    with pytest.raises(SignatureError, match="there are signed, positive, absolute"):
        combine_positions(tokens, positions, "largest")
    with pytest.raises(SignatureError, match="read at the embeddings"):
        combine_positions(tokens.sum(-1), positions, "positive")
    with pytest.raises(SignatureError, match=r"at a has shape \(1, 2, 2\), that of tokens \(1, 3, 2\)"):
        combine_positions(torch.ones(1, 3, 2), positions)
