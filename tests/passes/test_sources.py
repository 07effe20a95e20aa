"""Integers that look something up: each has the relevance of what it looked up, in the shape of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional

import fxlrp
from fxlrp.errors import FxlrpError, SignatureError

VOCABULARY, FEATURES = 12, 4
Form = Callable[["Tables", Tensor, Tensor], Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IDS = torch.randint(0, VOCABULARY, (2, 5), generator=generator(0))
OTHER = torch.randint(0, VOCABULARY, (2, 5), generator=generator(1))


class Tables(nn.Module):
    """Tables in several forms, and a function of them and of integers; factors of what they look up are 1."""

    def __init__(self, form: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.form = form
        self.rows = nn.Parameter(torch.randn(VOCABULARY, FEATURES))
        self.columns = nn.Parameter(torch.randn(FEATURES, VOCABULARY))
        self.cube = nn.Parameter(torch.randn(3, VOCABULARY, FEATURES))
        self.pairs = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, FEATURES))
        self.numbers = nn.Parameter(torch.randn(VOCABULARY))
        self.scale = nn.Parameter(torch.rand(FEATURES) + 0.5)
        self.register_buffer("buffer", torch.randn(VOCABULARY, FEATURES))
        self.register_buffer("shifts", torch.tensor([0, 1, 2, 3, 4]))
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(ids, torch.ones(ids.shape, dtype=torch.float64))

    def output(self, ids: Tensor, factors: Tensor) -> Tensor:
        return self.form(self, ids, factors).tanh().reshape(1, -1)  # type: ignore[no-any-return]


def over(factors: Tensor, behind: int = 1) -> Tensor:
    return factors[(..., *[None] * behind)]


def bag(m: Tables, ids: Tensor, a: Tensor, **options: Any) -> Tensor:
    """Bags of one row each, weighted by the factors where the mode allows weights."""
    return functional.embedding_bag(ids, m.rows, mode="sum", per_sample_weights=a, **options)


def offset_bag(m: Tables, ids: Tensor, a: Tensor) -> Tensor:
    starts = torch.tensor([0, 3, 3, 4])
    return functional.embedding_bag(ids.flatten(), m.rows, starts, mode="sum", per_sample_weights=a.flatten())


def last_offset_bag(m: Tables, ids: Tensor, a: Tensor) -> Tensor:
    starts = torch.tensor([0, 3, 4, 10])
    weights = a.flatten()
    return functional.embedding_bag(
        ids.flatten(), m.rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True, padding_idx=3
    )


def scattered(m: Tables, ids: Tensor, a: Tensor) -> Tensor:
    hot = torch.zeros(*ids.shape, VOCABULARY, dtype=torch.float64).scatter(-1, ids[..., None], 1.0)
    return hot @ m.rows * over(a)


FORMS: dict[str, Form] = {
    "embedding": lambda m, ids, a: functional.embedding(ids, m.rows) * over(a),
    "embedding of a buffer": lambda m, ids, a: functional.embedding(ids, m.buffer) * over(a),  # type: ignore[arg-type]
    "rows": lambda m, ids, a: m.rows[ids] * over(a),
    "rows of a computed table": lambda m, ids, a: (m.rows * m.scale)[ids] * over(a),
    "columns": lambda m, ids, a: m.columns[:, ids] * a,
    "rows of a transposed table": lambda m, ids, a: m.columns.t()[ids] * over(a),
    "columns of a transposed table": lambda m, ids, a: m.rows.t()[:, ids] * a,
    "the middle dimension": lambda m, ids, a: m.cube[:, ids] * over(a),
    "the middle dimension from behind": lambda m, ids, a: m.cube[..., ids % FEATURES] * a,
    "a number": lambda m, ids, a: m.numbers[ids] * a,
    "a number by take": lambda m, ids, a: m.numbers.take(ids) * a,
    "index_select": lambda m, ids, a: m.rows.index_select(0, ids.flatten()) * over(a.flatten()),
    "index_select of columns": lambda m, ids, a: m.columns.index_select(-1, ids.flatten()) * a.flatten(),
    "gather": lambda m, ids, a: m.rows.gather(0, ids.reshape(-1, 1).expand(-1, FEATURES)) * over(a.flatten()),
    "gather of columns": lambda m, ids, a: m.columns.gather(1, ids[:1].expand(4, 5)) * a[:1],
    "one of two indices": lambda m, ids, a: m.pairs[m.shifts, ids] * over(a),
    "one of two indices apart": lambda m, ids, a: m.pairs.unsqueeze(1)[m.shifts, :, ids] * over(a, 2),
    "both of two indices": lambda m, ids, a: m.pairs[ids, ids] * over(a),
    "an index that is broadcast": lambda m, ids, a: m.pairs[m.shifts[:, None, None], ids] * over(a),
    "one-hot": lambda m, ids, a: functional.one_hot(ids, VOCABULARY).double() @ m.rows * over(a),
    "one-hot by hand": lambda m, ids, a: (ids[..., None] == torch.arange(VOCABULARY)).double() @ m.rows * over(a),
    "one-hot in a layer": lambda m, ids, a: functional.linear(functional.one_hot(ids, 12).to(a), m.columns) * over(a),
    "one-hot by scatter": scattered,
    "bags of one row": lambda m, ids, a: bag(m, ids.reshape(-1, 1), a.reshape(-1, 1)),
    "bags": bag,
    "bags from offsets, one empty": offset_bag,
    "bags to offsets, with padding": last_offset_bag,
    "cast": lambda m, ids, a: m.rows[ids.int().long()] * over(a),
    "by floating numbers": lambda m, ids, a: m.rows[(ids.double() * 0.5).long()] * over(a),
    "shifted": lambda m, ids, a: m.pairs.flatten(0, 1)[ids + m.shifts * VOCABULARY] * over(a),
    "clamped": lambda m, ids, a: m.rows[ids.clamp(min=2, max=7)] * over(a),
    "masked": lambda m, ids, a: m.rows[ids.masked_fill(ids > 6, 0)] * over(a),
    "chosen": lambda m, ids, a: m.rows[torch.where(ids > 6, ids, 1)] * over(a),
    "hashed": lambda m, ids, a: m.rows[ids % 5] * over(a) + m.rows[ids // 5] * over(a),
    "reshaped": lambda m, ids, a: m.rows[ids.reshape(5, 2)] * over(a.reshape(5, 2)),
    "transposed": lambda m, ids, a: m.rows[ids.t()] * over(a.t()),
    "cut": lambda m, ids, a: m.rows[ids[:, 1:4]] * over(a[:, 1:4]),
    "chosen places": lambda m, ids, a: m.rows[ids[:, [3, 0, 3]]] * over(a[:, [3, 0, 3]]),
    "one place": lambda m, ids, a: m.rows[ids[:, 2]] * over(a[:, 2]),
    "with a first token": lambda m, ids, a: torch.cat(
        [m.rows[torch.cat([torch.ones(2, 1, dtype=torch.long), ids], 1)][:, 1:] * over(a), m.rows[1].expand(2, 1, 4)], 1
    ),
    "rolled": lambda m, ids, a: m.rows[ids.roll(1, 1)] * over(a.roll(1, 1)),
    "padded": lambda m, ids, a: m.rows[functional.pad(ids, (1, 2))][:, 1:-2] * over(a),
    "unpacked": lambda m, ids, a: m.rows[ids.unbind(1)[3]] * over(a[:, 3]),
    "repeated": lambda m, ids, a: m.rows[ids.repeat(1, 2)] * over(a.repeat(1, 2)),
    "looked up twice": lambda m, ids, a: m.rows[ids] * over(a) * (m.columns[:, ids.flip(1)] * a.flip(1)).movedim(0, -1),
}


@pytest.mark.parametrize("name", leave_to_slow(FORMS, but=list(FORMS)[::3]))
def test_each_integer_has_the_relevance_of_what_it_looked_up(name: str) -> None:
    """A factor of what an integer looked up has that relevance for its gradient."""
    model = Tables(FORMS[name])
    factors = torch.ones(IDS.shape, dtype=torch.float64, requires_grad=True)
    output = model.output(IDS, factors)
    seed = torch.randn(output.shape, dtype=torch.float64, generator=generator(2))
    (wanted,) = torch.autograd.grad(output, factors, seed)
    attributor = fxlrp.compile(model, rules="gradient")
    result = attributor(IDS, target=seed)
    assert isinstance(result.relevance, Tensor), "one input has relevance"
    assert attributor.program.relevances == ("ids",)
    torch.testing.assert_close(result.output, output.detach(), rtol=0, atol=1e-12)
    assert wanted.any()
    torch.testing.assert_close(result.relevance, wanted, rtol=0, atol=1e-10)


DYNAMIC = ["columns", "index_select", "one-hot", "bags", "cut"]


@pytest.mark.parametrize("name", DYNAMIC)
def test_numbers_are_brought_back_for_any_batch_and_accounted_for(name: str) -> None:
    model = Tables(FORMS[name])
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes="auto")
    for ids in (IDS, torch.cat([OTHER, IDS[:1]])):
        factors = torch.ones(ids.shape, dtype=torch.float64, requires_grad=True)
        output = model.output(ids, factors)
        (wanted,) = torch.autograd.grad(output.sum(), factors)
        found = attributor(ids, target=torch.ones_like(output)).relevance
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    ledger = attributor.ledger(IDS, target=torch.ones_like(model(IDS)))
    assert ledger.inputs["ids"] == pytest.approx(float(attributor(IDS, target=model(IDS) * 0 + 1).relevance.sum()))
    assert abs(ledger.gap) < 1e-9


class Several(nn.Module):
    """A function of several inputs and of tables."""

    def __init__(self, form: Callable[..., Tensor]) -> None:
        super().__init__()
        self.form = form
        self.tables = Tables(lambda m, *_: m)
        self.table = nn.Embedding(VOCABULARY, FEATURES)
        self.double().eval()

    def forward(self, ids: Tensor, other: Tensor) -> Tensor:
        return self.form(self, ids, other).tanh().reshape(1, -1)  # type: ignore[no-any-return]


def explained(form: Callable[..., Tensor], *inputs: Tensor) -> dict[str, Tensor]:
    """Relevance by name of the source, of the sum of all outputs."""
    model = Several(form)
    output = model(*inputs)
    attributor = fxlrp.compile(model, rules="gradient")
    found = attributor(*inputs, target=torch.ones_like(output)).relevance
    names = attributor.program.relevances
    return found if isinstance(found, dict) else {names[0]: found}


def by_factors(form: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The gradient of the same output with respect to factors of what was looked up."""
    factors = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    output = form(Several(form), *inputs, factors).tanh().sum()
    return torch.autograd.grad(output, factors)[0]


def test_what_two_inputs_look_up_together_is_neithers() -> None:
    def form(m: Several, ids: Tensor, other: Tensor, a: Any = 1.0) -> Tensor:
        factors = a[..., None] if isinstance(a, Tensor) else a
        return m.tables.pairs[ids, other] * factors

    found = explained(form, IDS, OTHER)
    assert list(found) == ["index"]
    torch.testing.assert_close(found["index"], by_factors(form, IDS, OTHER), rtol=0, atol=1e-10)


def test_integers_computed_from_two_inputs_are_told_by_their_table() -> None:
    def form(m: Several, ids: Tensor, other: Tensor, a: Any = 1.0) -> Tensor:
        factors = a[..., None] if isinstance(a, Tensor) else a
        return m.table(torch.maximum(ids, other)) * factors

    found = explained(form, IDS, OTHER)
    assert list(found) == ["table"]
    torch.testing.assert_close(found["table"], by_factors(form, IDS, OTHER), rtol=0, atol=1e-10)


def test_two_inputs_with_a_table_each() -> None:
    found = explained(lambda m, ids, other: m.table(ids) * m.tables.columns[:, other].movedim(0, -1), IDS, OTHER)
    assert list(found) == ["ids", "other"]
    assert all(relevance.shape == (2, 5) and relevance.any() for relevance in found.values())


@pytest.mark.parametrize(
    "form",
    [
        lambda m, ids, x: functional.embedding(ids, x),
        lambda m, ids, x: x[ids],
        lambda m, ids, x: x.index_select(0, ids[0]),
        lambda m, ids, x: functional.one_hot(ids, VOCABULARY).double() @ x,
        lambda m, ids, x: functional.embedding_bag(ids, x, mode="sum"),
        lambda m, ids, x: functional.embedding_bag(ids, x, mode="max"),
        lambda m, ids, x: x * (torch.arange(VOCABULARY)[:, None] == ids[0, :4]).double(),
    ],
    ids=["embedding", "index", "index_select", "one-hot", "bags", "largest of bags", "gate"],
)
def test_a_table_that_is_an_input_has_the_relevance_itself(form: Callable[..., Tensor]) -> None:
    x = torch.randn(VOCABULARY, FEATURES, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Several(form)(IDS, x).sum(), x)
    found = explained(form, IDS, x.detach())
    assert list(found) == ["other"]
    torch.testing.assert_close(found["other"], (x * gradient).detach(), rtol=0, atol=1e-10)


def test_a_mean_over_bags_is_a_mean_of_lookups() -> None:
    bags = explained(lambda m, ids, other: functional.embedding_bag(ids, m.table.weight, mode="mean"), IDS, OTHER)
    rows = explained(lambda m, ids, other: m.table(ids).mean(1), IDS, OTHER)
    torch.testing.assert_close(bags["ids"], rows["ids"], rtol=0, atol=1e-12)


def test_weights_of_bags_that_are_an_input() -> None:
    def form(m: Several, ids: Tensor, x: Tensor) -> Tensor:
        return functional.embedding_bag(ids, m.table.weight, mode="sum", per_sample_weights=x)

    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    found = explained(form, IDS, x.detach())
    (gradient,) = torch.autograd.grad(Several(form)(IDS, x).sum(), x)
    assert list(found) == ["other", "ids"]
    torch.testing.assert_close(found["other"], (x * gradient).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found["ids"], found["other"], rtol=0, atol=1e-10)  # weight * row * gradient as well


UNKNOWN: dict[str, Callable[..., Tensor]] = {
    "index_put": lambda m, ids, x: m.tables.rows.index_put([ids[0]], torch.zeros(4).double()) * x.sum(),
    "_embedding_bag": lambda m, ids, x: functional.embedding_bag(ids, m.table.weight, mode="max") * x.sum(),
}


@pytest.mark.parametrize("op", UNKNOWN)
def test_other_ways_to_look_something_up_are_refused_by_name(op: str) -> None:
    with pytest.raises(SignatureError, match=rf"(?s)no known lookup.*at .*{op}.*test_sources\.py:\d+.*aten.{op}"):
        explained(UNKNOWN[op], IDS, torch.ones(2, dtype=torch.float64))


def test_integers_that_look_nothing_up_are_told_of() -> None:
    with pytest.raises(FxlrpError, match="no differentiable path leads from an input"):
        explained(lambda m, ids, other: ids.double() @ other.double().t() * m.tables.numbers[0], IDS, OTHER)
