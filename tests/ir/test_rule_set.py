"""Rule sets are loud: what fits nothing or cannot serve is refused, with the way that names it; and they are values."""

from __future__ import annotations

import copy
import functools
import operator
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_rules import HALF, OTHER, Nested
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp
from fxlrp.capture.functional_graph import capture
from fxlrp.errors import RuleError
from fxlrp.ir.program import Captured
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import RuleSet
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.rules import PRESETS
from fxlrp.rules.presets import epsilon_gamma_box
from fxlrp.rules.softmax import stopped
from fxlrp.rules.taylor import adjoint
from fxlrp.rules.weighted import alpha_beta, epsilon, flat, gamma, w_square, z_box, z_plus

aten = torch.ops.aten
X = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Nested().double().eval()


@functools.cache
def captured(model: nn.Module) -> Captured:
    """Once for all rule sets, as a plan leaves nothing for the next one to rewrite."""
    return capture(model, (X,), {})


def planned(model: nn.Module, rules: Any) -> Plan:
    return make_plan(captured(model), fxlrp.rule_set(rules), (), True)


TANH = nn.Tanh().eval()


class Gated(nn.Module):
    """A gate, attention, two outputs, and a lookup."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.aside = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        aside = self.aside(x).tanh()
        y = self.first(x) * x.sigmoid()
        return (self.second(y) @ y.t()).softmax(-1) @ y, aside


UNFIT: dict[str, tuple[Callable[[RuleSet], RuleSet], str]] = {
    "module": (lambda r: r.where(HALF, module="blokcs.*"), r"has module=blokcs\.\*\. Close to it: blocks\.0, blocks"),
    "module like none": (lambda r: r.where(HALF, module="q"), r"has module=q\. There: blocks\.0"),
    "kind": (lambda r: r.where(HALF, kind="LINEAR"), r"has kind=LINEAR\. Close to it: Linear"),
    "class": (lambda r: r.where(HALF, kind=nn.Bilinear), r"has kind=torch\.nn\.modules\.linear\.Bilinear\. .*Linear"),
    "op": (
        lambda r: r.where(HALF, ops=aten.tan.default),
        r"has ops=\['aten\.tan\.default'\]\. Close to it: .*aten\.tanh",
    ),
    "op like none": (lambda r: r.where(HALF, ops=[aten.mm.default]), r"There: aten\.linear\.default, aten\.tanh"),
    "predicate": (lambda r: r.where(HALF, predicate=lambda node: False), r"nothing has predicate=<lambda>"),
    "together": (lambda r: r.where(HALF, module="head", ops=aten.tanh.default), "no op meets all of them"),
    "position": (lambda r: r.where(HALF, kind="Conv2d", position="first"), r"for kind=Conv2d, position=first fits no"),
    "table": (lambda r: r | {aten.atanh.default: HALF}, r"half for ops=\['aten\.atanh\.default'\].*[\s\S]*aten\.tanh"),
    "old op of a table": (lambda r: r | {aten.relu.default: HALF} | {aten.tanh.default: OTHER}, r"aten\.relu\.default"),
}


@pytest.mark.parametrize("base", ["attnlrp", "gradient", "epsilon_gamma_box"])
@pytest.mark.parametrize("name", UNFIT)
def test_an_override_that_fits_nothing_is_refused(model: nn.Module, name: str, base: str) -> None:
    change, text = UNFIT[name]
    rules = change(PRESETS[base])
    with pytest.raises(RuleError, match="fits no op between the inputs and the explained output") as raised:
        planned(model, rules)
    assert raised.match(text)
    assert raised.match('give missing="ignore"')
    planned(model, rules.optional())
    planned(model, fxlrp.rule_set(rules, missing="ignore"))


def test_one_override_may_be_missing(model: nn.Module) -> None:
    planned(model, PRESETS["attnlrp"].where(HALF, module="nowhere", missing="ignore"))
    with pytest.raises(RuleError, match="missing is 'error' or 'ignore', not 'never'"):
        PRESETS["attnlrp"].where(HALF, missing="never")
    with pytest.raises(RuleError, match="missing is 'error' or 'ignore', not 'never'"):
        fxlrp.rule_set("attnlrp", missing="never")


def test_a_table_given_to_compile_must_fit(model: nn.Module) -> None:
    with pytest.raises(RuleError, match=r"aten\.gelu\.default"):
        fxlrp.compile(model, (X,), rules={aten.gelu.default: HALF})
    fxlrp.compile(model, (X,), rules=fxlrp.rule_set({aten.gelu.default: HALF}, missing="ignore"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_for_every_model(name: str) -> None:
    planned(TANH, name)
    planned(TANH, epsilon_gamma_box(0.0, 1.0))


def test_what_relevance_does_not_reach_is_no_fit() -> None:
    torch.manual_seed(0)
    gated = Gated().double().eval()
    for rules in (
        PRESETS["attnlrp"].where(HALF, module="aside"),
        PRESETS["attnlrp"] | {aten.sigmoid.default: HALF},
        PRESETS["cp_lrp"].where(HALF, module="second"),
    ):
        with pytest.raises(RuleError, match=r"fits (no op between|only ops that pass no relevance on)"):
            planned(gated, rules)
        planned(gated, rules.optional())
    planned(gated, PRESETS["gradient"] | {aten.sigmoid.default: HALF})
    planned(gated, PRESETS["attnlrp"] | {aten.softmax.int: stopped})  # what stops relevance serves, and is not live


def test_the_first_op_is_one_that_is_explained() -> None:
    """Not one of another output, wherever that stands."""
    torch.manual_seed(0)
    made = planned(Gated().double().eval(), PRESETS["attnlrp"].where(flat(), ops=aten.linear.default, position="first"))
    assert [str(t.rule) for n, t in made.twins.items() if n.target is aten.linear.default] == ["flat", "affine"]


def test_the_account_without_biases_takes_the_same_rules(model: nn.Module) -> None:
    own = fxlrp.compile(model, rules=PRESETS["attnlrp"].where(epsilon(), kind="Linear") | {aten.tanh.default: HALF})
    assert abs(own.ledger(X, target=0, zero_bias=True).gap) < 1e-9


def test_a_rule_may_be_for_a_lookup() -> None:
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2)).double().eval()
    rules = PRESETS["attnlrp"] | {aten.embedding.default: adjoint}
    ids = torch.tensor([[1, 2]])
    own = fxlrp.compile(reader, rules=rules, read=["0.weight"])(ids, target=0).read["0.weight"]
    plain = fxlrp.compile(reader, read=["0.weight"])(ids, target=0).read["0.weight"]
    torch.testing.assert_close(own, plain)


@pytest.mark.parametrize("base", PRESETS)
def test_tables_change_every_preset(model: nn.Module, base: str) -> None:
    """What is added for an op serves it, whatever the preset says of all others."""
    made = planned(model, PRESETS[base] | {aten.tanh.default: HALF})
    assert [t.rule for n, t in made.twins.items() if n.target is aten.tanh.default] == [HALF] * 3


WEIGHTED = {rule.name: rule for rule in (gamma(), alpha_beta(), z_plus(), flat(), w_square(), z_box())}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weighted_rule_needs_a_weight(model: nn.Module, name: str) -> None:
    for rules in (PRESETS["attnlrp"].where(WEIGHTED[name], module="blocks.0"), {aten.tanh.default: WEIGHTED[name]}):
        with pytest.raises(RuleError, match=r"needs a weight, and this op has none") as raised:
            planned(model, rules)
        assert str(raised.value).startswith(f"rule {name} needs")
        assert raised.match(r"at aten\.tanh\.default \(node 'tanh.*module 'blocks\.[01]', .*made_rules.py:\d+  return")


class Own(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


LIVE = {
    "live weight": Own(lambda x: F.linear(x, x[:, :4])).eval(),
    "square": Own(lambda x: x * x).eval(),
    "operand behind": Own(lambda x: torch.tensor([1.0, -2, 3, 0.5]).double() * x).eval(),
    "matrix product": Own(lambda x: x @ x.t()).eval(),
}
FIXED = {
    "factors": Own(lambda x: x * torch.tensor([1.0, -2, 3, 0.5]).double()).eval(),
    "matrix": Own(lambda x: F.linear(x, torch.eye(4).double() - 0.5)).eval(),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weighted_rule_needs_a_fixed_weight(name: str) -> None:
    rules = PRESETS["attnlrp"].where(WEIGHTED[name], position="last")
    for live in LIVE.values():
        with pytest.raises(RuleError, match=r"needs a fixed weight behind its operand"):
            planned(live, rules)
    for fixed in FIXED.values():
        assert fxlrp.compile(fixed, rules=rules)(X, target=0).relevance.isfinite().all()


REFUSED = {
    "function": (torch.relu, r"The ops of that name: aten\.relu\.default"),
    "operator": (operator.add, r"The ops of that name: aten\.add\.Tensor"),
    "functional": (F.gelu, r"The ops of that name: aten\.gelu\.default"),
    "packet": (aten.relu, r"a packet of overloads; a rule is for one of them: aten\.relu\.default"),
    "name": ("relu", r"The ops of that name: aten\.relu\.default"),
    "class": (nn.Linear, r"rules\.where\(rule, kind='Linear'\)"),
    "layer": (nn.Linear(2, 2), r"rules\.where\(rule, module='its\.path'\), or kind='Linear'"),
    "nothing": (None, r"The coverage report names the ops"),
    "lambda": (lambda x: x, r"The coverage report names the ops"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "use",
    [
        lambda op: PRESETS["attnlrp"] | {op: HALF},
        lambda op: PRESETS["attnlrp"].where(HALF, ops=[op]),
        lambda op: fxlrp.compile(nn.Tanh().eval(), rules={op: HALF}),
        lambda op: fxlrp.rule(op, table={})(HALF),
    ],
    ids=["table", "where", "compile", "register"],
)
def test_what_is_no_op_is_refused_with_the_way(name: str, use: Callable[[Any], Any]) -> None:
    op, text = REFUSED[name]
    with pytest.raises(RuleError, match=text):
        use(op)


def test_a_single_op_and_a_class_are_taken(model: nn.Module) -> None:
    one, two = (PRESETS["attnlrp"].where(HALF, ops=ops) for ops in (aten.linear.default, [aten.linear.default]))
    assert one == two
    made = planned(model, PRESETS["attnlrp"].where(HALF, kind=nn.Linear))
    assert [t.rule for n, t in made.twins.items() if n.target is aten.linear.default] == [HALF] * 4


@pytest.mark.parametrize("rule", [gamma, None, "gamma", 0.25])
def test_what_is_no_rule_is_refused(rule: Any) -> None:
    for use in (lambda: PRESETS["attnlrp"] | {aten.relu.default: rule}, lambda: PRESETS["attnlrp"].where(rule)):
        with pytest.raises(RuleError, match="a rule set is made of rules, not of"):
            use()


@pytest.mark.parametrize("rules", [None, 3, [HALF]])
def test_what_is_no_rule_set_is_refused(rules: Any) -> None:
    with pytest.raises(RuleError, match="rules are the name of a preset, a rule set, or a table of rules by op, not"):
        fxlrp.rule_set(rules)


def changed() -> RuleSet:
    rules = PRESETS["epsilon"] | {aten.tanh.default: HALF}
    return rules.where(gamma(0.1), module="a.*", ops=[aten.linear.default, aten.conv2d.default]).named("mine")


def test_rule_sets_are_immutable(model: nn.Module) -> None:
    given = {aten.tanh.default: HALF}
    rules = RuleSet("mine", table=given)
    given[aten.tanh.default] = OTHER
    assert rules.table[aten.tanh.default] is HALF
    with pytest.raises(TypeError, match="does not support item assignment"):
        rules.table[aten.tanh.default] = OTHER  # type: ignore[index]


def test_rule_sets_are_values() -> None:
    assert len({*PRESETS.values(), *(replace(preset) for preset in PRESETS.values())}) == len(PRESETS)
    assert changed() == changed()
    assert hash(changed()) == hash(changed())
    assert changed() != changed().optional()
    assert changed() != changed() | {aten.tanh.default: OTHER}
    reordered = RuleSet("a", table={aten.tanh.default: HALF, aten.sin.default: OTHER})
    assert reordered == RuleSet("a", table={aten.sin.default: OTHER, aten.tanh.default: HALF})


@pytest.mark.parametrize("name", PRESETS)
def test_rule_sets_pickle_and_copy(name: str) -> None:
    for rules in (PRESETS[name], PRESETS[name].where(gamma(0.1), ops=aten.linear.default) | {aten.tanh.default: HALF}):
        for copied in (pickle.loads(pickle.dumps(rules)), copy.deepcopy(rules)):
            assert copied == rules
            assert hash(copied) == hash(rules)


def test_rules_with_parameters_are_values() -> None:
    for one, two in ((gamma(), gamma(0.25)), (gamma(g=0.1), gamma(0.1)), (z_box(0.0, 1.0), z_box()), (flat(), flat())):
        assert one == two
        assert hash(one) == hash(two)
    assert (
        len({gamma(0.1), gamma(0.2), gamma(0.1, 1e-3), epsilon(), epsilon(1e-3), z_plus(), alpha_beta(1.0, 0.0)}) == 7
    )
    with pytest.raises(ValueError, match="low < high"):
        z_box(1.0, 0.0)


def test_a_rule_that_does_not_pickle_says_so_as_python_does() -> None:
    rules = PRESETS["attnlrp"] | {aten.tanh.default: Rule("mine", "test", lambda site, c: (c,))}
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(rules)


def test_biases_are_left_out_of_a_whole_rule_set(model: nn.Module) -> None:
    rules = PRESETS["epsilon"].where(gamma(0.1), module="blocks.0*").without_bias()
    assert rules.name == "epsilon (changed) (without bias)"
    assert {str(rule) for rule in rules.table.values()} == {"epsilon(1e-06, bias=False)"}
    assert [str(override.rule) for override in rules.overrides] == ["gamma(0.1, bias=False)"]
    assert pickle.loads(pickle.dumps(rules)) == rules
    x = X + 2
    plain, biased = (fxlrp.compile(model, rules=r) for r in (PRESETS["epsilon"].without_bias(), PRESETS["epsilon"]))
    torch.testing.assert_close(plain(x, target=0).output, model(x))
    assert abs(plain.ledger(x, target=0).absorbed) < 1e-9 < abs(biased.ledger(x, target=0).absorbed)
    torch.testing.assert_close(plain(x, target=0).relevance.sum(1), model(x)[:, 0], rtol=1e-3, atol=0)


def test_a_rule_set_that_counts_no_bias_has_none_to_leave_out() -> None:
    for rules in (PRESETS["attnlrp"], PRESETS["gradient"], PRESETS["epsilon"].without_bias()):
        with pytest.raises(RuleError, match=r"no rule of .* divides by a sum with a bias"):
            rules.without_bias()
