"""Every rule against its reference and the properties that all rules share."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from cases import CASES, CLOSURES, EPSILON_SUMS, FINE, POINTWISE, WEIGHTED, OpCase
from published_cases import PUBLISHED_CASES
from reference import Call
from sites import agree, result, seed, site
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fxlrp.errors import RuleError
from fxlrp.ir import numerics
from fxlrp.ir.rule import RULES, Facts, Rule, Site
from fxlrp.rules import weighted
from fxlrp.rules.attention import value_only
from fxlrp.rules.products import product
from fxlrp.rules.published.chefer import normalised

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)


def some(condition: Any, cases: list[OpCase] | None = None) -> Any:
    """Parametrise over the rows that meet a condition."""
    rows = [row for row in (cases or [*CASES, *WEIGHTED, *EPSILON_SUMS, *PUBLISHED_CASES]) if condition(row)]
    return pytest.mark.parametrize("case", rows, ids=str)


every = some(lambda row: True)


def to(dtype: torch.dtype, t: Tensor) -> Tensor:
    """The tensor in a real dtype; complex numbers stay."""
    return t if t.is_complex() else t.to(dtype)


def changed(call: Call, change: Any) -> Call:
    """The call with other tensors; ``change`` is given each leaf and its position."""
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    args, kwargs = pytree.tree_unflatten([change(leaf, i) for i, leaf in enumerate(leaves)], spec)
    return Call(call.op, args, kwargs, call.live)


def at_zero(case: OpCase) -> Tensor:
    """The output at operands that are zero."""
    return case.call.at({slot: torch.zeros_like(case.call.leaves[slot]) for slot in case.live})


@every
def test_agrees_with_its_reference(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    agree(result(case.chosen, at, c), case.reference(case.call, c))


@every
def test_returns_one_result_per_operand(case: OpCase) -> None:
    at = site(case.call)
    found = result(case.chosen, at, seed(at.out))
    assert [(part.shape, part.dtype) for part in found] == [(x.shape, x.dtype) for x in at.operands]


@every
def test_conserves_or_leaks_as_stated(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    parts = case.chosen(at, c)
    arrived = sum(numerics.to_relevance(part, x).sum() for part, x in zip(parts, at.operands, strict=True))
    constant = at_zero(case) if case.zero else torch.zeros_like(at.out)
    constant = torch.where(constant.isfinite(), constant, 0.0)
    sent = (torch.where(at.out.isfinite(), at.out - constant, 0.0) * c).sum().real
    assert arrived.isfinite()
    if isinstance(case.keeps, str):
        assert abs(arrived - sent) > 1e-12 * abs(sent)
    elif callable(case.keeps):
        torch.testing.assert_close(arrived, case.keeps(case.call, c), rtol=1e-9, atol=1e-12)
    else:
        torch.testing.assert_close(arrived, case.keeps * sent, rtol=1e-9, atol=1e-12)


@some(lambda row: row.rule is not normalised)  # by the sizes of totals, as it was published
def test_is_linear_in_the_coefficient(case: OpCase) -> None:
    at = site(case.call)
    a, b = seed(at.out, 1), seed(at.out, 2)
    apart = [2.5 * x - y for x, y in zip(result(case.chosen, at, a), result(case.chosen, at, b), strict=True)]
    agree(result(case.chosen, at, 2.5 * a - b), apart)


@some(lambda row: row.batch)
def test_treats_samples_apart(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    whole = result(case.chosen, at, c)
    for sample in range(at.out.shape[0]):
        call = changed(case.call, lambda leaf, i, n=sample: leaf[n : n + 1] if i in case.batch else leaf)
        alone = result(case.chosen, site(call, out=at.out[sample : sample + 1]), c[sample : sample + 1])
        own = [(part, w) for part, w, slot in zip(alone, whole, case.live, strict=True) if slot in case.batch]
        agree([part for part, _ in own], [w[sample : sample + 1] for _, w in own])


@every
def test_traces_to_what_it_computes(case: OpCase) -> None:
    leaves, spec = pytree.tree_flatten((case.args, case.kwargs))
    slots = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def apply(tensors: list[Tensor], out: Tensor, c: Tensor) -> list[Tensor]:
        filled = list(leaves)
        for slot, tensor in zip(slots, tensors, strict=True):
            filled[slot] = tensor
        return result(case.chosen, Site(case.op, tuple(filled), spec, case.live, out), c)

    given = [leaves[i] for i in slots], case.call.out, seed(case.call.out)
    traced = make_fx(apply, tracing_mode="fake")(*given)
    torch.testing.assert_close(traced(*given), apply(*given), rtol=1e-12, atol=1e-14, equal_nan=False)


@every
def test_takes_arguments_by_name(case: OpCase) -> None:
    """What follows the last operand is given by name, and backwards where no rule looks for weights by position."""
    first = next(n for n in range(len(case.args) + 1) if len(pytree.tree_leaves(case.args[:n])) > max(case.live))
    names = [a.name for a in case.op._schema.arguments]
    later = list(zip(names, case.args, strict=False))[first:]
    given = dict(later if case.rule else reversed(later)) | case.kwargs
    at = site(Call(case.op, case.args[:first], given, case.live))
    c = seed(at.out)
    torch.testing.assert_close(result(case.chosen, at, c), result(case.chosen, site(case.call), c), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every
def test_is_finite_in_half_precision(case: OpCase, dtype: torch.dtype) -> None:
    def half(leaf: Any, i: int) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else dtype if leaf is torch.float64 else leaf

    narrow = changed(case.call, half)
    wide = changed(narrow, lambda leaf, i: numerics.widen(leaf))
    at = site(narrow, out=to(dtype, wide.out))
    found = result(case.chosen, at, 1e6 * seed(at.out).to(at.out.dtype))
    assert [part.dtype for part in found] == [x.dtype for x in at.operands]
    assert all(part.isfinite().all() for part in found)


@some(lambda row: True, POINTWISE)
def test_keeps_its_digits_in_single_precision(case: OpCase) -> None:
    """Entry by entry, in the tails too, where ``1 + erf(x)`` has none left."""
    single = changed(case.call, lambda leaf, i: leaf.float() if isinstance(leaf, Tensor) else leaf)
    double = changed(single, lambda leaf, i: leaf.double() if isinstance(leaf, Tensor) else leaf)
    at = site(single)
    (found,) = result(case.chosen, at, torch.ones_like(at.out))
    (wanted,) = case.reference(double, torch.ones_like(at.out).double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("dtype", [*HALF, torch.float64], ids=str)
@some(lambda row: row.zero)
def test_is_finite_at_zero(case: OpCase, dtype: torch.dtype) -> None:
    def nought(leaf: Any, i: int) -> Any:
        if leaf is torch.float64:
            return dtype
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return (torch.zeros_like(leaf) if i in case.live else leaf).to(dtype) if floating else leaf

    zeros = changed(case.call, nought)
    wide = changed(zeros, lambda leaf, i: numerics.widen(leaf))
    at = site(zeros, out=to(dtype, wide.out))
    found = result(case.chosen, at, seed(at.out).to(at.out.dtype))
    assert all(part.isfinite().all() for part in found)


def is_finite_at_zero(case: OpCase) -> bool:
    """Whether the op and its derivative are finite at operands that are zero."""
    call = changed(case.call, lambda leaf, i: torch.zeros_like(leaf) if i in case.live else leaf)
    try:
        derivatives = numerics.apply_adjoint(site(call), site(call).operands, torch.ones_like(call.out))
    except torch.linalg.LinAlgError:
        return False
    return all(bool(t.isfinite().all()) for t in (call.out, *derivatives))


@some(lambda row: not row.zero)
def test_only_singular_ops_are_excused_at_zero(case: OpCase) -> None:
    assert not is_finite_at_zero(case)


@some(lambda row: row.label.endswith("nonnegative"), WEIGHTED)
def test_a_true_sign_changes_nothing(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    known = site(case.call, Facts(nonnegative=True))
    agree(result(case.chosen, known, c), result(case.chosen, at, c), 1e-14)


@some(lambda row: True, WEIGHTED)
def test_a_true_dead_side_changes_nothing(case: OpCase) -> None:
    at = site(case.call)
    c = torch.where(at.out < 0, 0.0, seed(at.out))
    known = site(case.call, Facts(dead_below=True))
    agree(result(case.chosen, known, c), result(case.chosen, at, c), 1e-14)


def test_shares_of_a_product_chain_replace_the_halves() -> None:
    call = Call(aten.mul.Tensor, (torch.tensor([2.0]).double(), torch.tensor([12.0]).double()), live=(0, 1))
    parts = product(site(call, Facts(shares=(0.25, 0.75))), torch.ones(1, dtype=torch.float64))
    assert [(part * x).item() for part, x in zip(parts, call.operands, strict=True)] == [6.0, 18.0]


@some(lambda row: row.live == (2,) and row.op is aten.scaled_dot_product_attention.default, CASES)
def test_value_only_attention_is_that_of_the_value(case: OpCase) -> None:
    at = site(case.call)
    c = seed(at.out)
    agree(result(value_only, at, c), case.reference(case.call, c))


@pytest.mark.parametrize("closure", [name for name in CLOSURES if "epsilon" not in name])
@pytest.mark.parametrize("live", [(1,), (0, 1), (0, 2)], ids=str)
def test_weighted_rules_refuse_live_weights(closure: str, live: tuple[int, ...]) -> None:
    row = next(row for row in WEIGHTED if row.op is aten.linear.default)
    rule, _ = CLOSURES[closure](1e-6)
    at = site(Call(row.op, row.args, row.kwargs, live))
    with pytest.raises(RuleError, match=r"aten\.linear\.default has a weight or bias that depends on the input"):
        rule(at, seed(at.out))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: weighted.alpha_beta(2.0, 0.5), "alpha - beta = 1"),
        (lambda: weighted.alpha_beta(0.5, -0.5), "at least 0"),
        (lambda: weighted.z_box(1.0, 1.0), "low < high"),
        (lambda: weighted.z_box([0.0, 2.0], [1.0, 2.0]), r"low < high, not \(0, 2\) and \(1, 2\)"),
        (lambda: weighted.z_box([0.0, 0.0], [1.0, 2.0, 3.0]), "fit each other"),
        (lambda: weighted.normalised_z_box(0.5, 0.0), "low < high"),
    ],
)
def test_weighted_rules_refuse_impossible_parameters(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_every_op_with_a_rule_has_a_row() -> None:
    assert set(RULES) == {row.overload for row in CASES}


def test_every_weighted_rule_has_a_row() -> None:
    functions = inspect.getmembers(weighted, lambda f: inspect.isfunction(f) and f.__module__ == weighted.__name__)
    makers = {name for name, f in functions if f.__annotations__["return"] == "Rule"}
    assert makers - {"normalised_z_box"} == {
        name.removeprefix("strong ").removesuffix(" without bias") for name in CLOSURES
    }
    assert {row.rule.name for row in WEIGHTED if row.rule} == {
        make(e)[0].name for make in CLOSURES.values() for e in (1e-6, FINE)
    }


def test_rows_have_names_of_their_own() -> None:
    names = [str(row) for row in (*CASES, *WEIGHTED, *EPSILON_SUMS, *PUBLISHED_CASES)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "rule",
    {id(r): r for r in (*RULES.values(), *(row.chosen for row in (*WEIGHTED, *PUBLISHED_CASES)))}.values(),
    ids=str,
)
def test_every_rule_states_its_formula_and_kind(rule: Rule) -> None:
    assert len(rule.formula) > 10
    assert rule.kind


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64], ids=str)
def test_the_stabiliser_moves_every_number_away_from_zero(dtype: torch.dtype) -> None:
    z = torch.tensor([0.0, -0.0, 1e-8, -1e-8, 3.0, -3.0], dtype=dtype)
    moved = numerics.stabilise(z)
    assert moved.dtype is dtype
    assert moved.reciprocal().isfinite().all()
    assert moved.sign().tolist() == [1, 1, *torch.where(z < 0, -1, 1)[2:].tolist()]
    assert (moved.abs() >= z.abs()).all()
    assert numerics.stabilise(torch.zeros(1).double(), 0.25).item() == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gain_continues_through_zero(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.tensor([0.0, -0.0, tiny / 8, -tiny / 8, tiny, -tiny, 1e-12, 0.5], dtype=dtype)
    found = numerics.gain(torch.tanh(x), x)
    assert found[:7].tolist() == [1.0] * 7
    assert found[7].item() == pytest.approx(0.92423431452, rel=1e-7)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_widened_in_values_and_in_arguments(dtype: torch.dtype) -> None:
    kept = torch.ones(1).double(), torch.ones(1).int(), torch.int64, 3, None
    wide = numerics.widen((torch.ones(1, dtype=dtype), [dtype, {"dtype": torch.float64}], *kept))
    assert wide == (torch.ones(1), [torch.float32, {"dtype": torch.float64}], *kept)
    assert wide[0].dtype is torch.float32


def test_relevance_adds_to_coefficients_and_to_itself() -> None:
    x = torch.tensor([2.0, -4.0, 0.0]).double()
    one = numerics.Relevance(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 0.25, 0.0]).double())
    c = torch.tensor([10.0, 20.0, 30.0]).double()
    for total in (one + c, c + one):
        torch.testing.assert_close(numerics.to_relevance(total, x), x * (c + one.coefficient) + one.rest)
    torch.testing.assert_close(numerics.to_relevance(one + one, x), 2 * numerics.to_relevance(one, x))
    torch.testing.assert_close(x * numerics.to_coefficient(one, x), numerics.to_relevance(one, x), rtol=1e-5, atol=0)


def test_masked_logits_have_no_relevance() -> None:
    x = torch.tensor([1.0, -torch.inf])
    assert numerics.to_relevance(torch.tensor([3.0, 0.0]), x).tolist() == [3.0, 0.0]
