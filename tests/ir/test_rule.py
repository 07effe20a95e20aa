"""The table of rules, rule sets, and rules of other packages."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_rules import HALF, OTHER, Nested, half
from torch import Tensor, fx, nn

import fxlrp
from fxlrp.api import load_extensions
from fxlrp.capture.functional_graph import capture
from fxlrp.errors import RuleError
from fxlrp.ir import numerics
from fxlrp.ir.rule import RULES, Rule, Site, Table
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.linear import affine
from fxlrp.rules.presets import PRESETS, epsilon_gamma_box
from fxlrp.rules.weighted import alpha_beta, epsilon, flat, gamma, w_square, z_box, z_plus

aten = torch.ops.aten


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Nested().double().eval()


@pytest.fixture(scope="module")
def nodes(model: nn.Module) -> list[fx.Node]:
    """The calls of `Nested` in order: linear, tanh, three times, and the head."""
    captured = capture(model, (torch.ones(1, 4).double(),), {})
    return [node for node in captured.graph.nodes if node.op == "call_function"]


def places(rules: RuleSet, nodes: list[fx.Node], rule: Rule) -> list[int]:
    """Positions of the nodes that a rule serves."""
    assigned = rules.assign(nodes)
    return [i for i, node in enumerate(nodes) if assigned.get(node) is rule]


def test_the_decorator_registers_for_every_op_it_names() -> None:
    table: Table = {}

    @fxlrp.rule(aten.tanh.default, aten.sin.default, table=table, kind="pointwise")
    def third_party(site: Site, c: Tensor) -> tuple[Tensor, ...]:
        """``c_x = c``."""
        return (c,)

    assert table == {aten.tanh.default: third_party, aten.sin.default: third_party}
    assert (third_party.name, third_party.kind, third_party.formula) == ("third_party", "pointwise", "``c_x = c``.")
    assert str(third_party) == "third_party"


def test_the_kind_is_the_module_unless_told_otherwise() -> None:
    table: Table = {}
    assert fxlrp.rule(aten.tanh.default, table=table)(half).kind == "made_rules"


def test_traits_reach_the_rule() -> None:
    made = fxlrp.rule(aten.mul.Tensor, table={}, stops=True, holds=lambda node, reached: (1,))(half)
    assert made.stops
    assert made.holds is not None


def test_a_rule_object_is_registered_as_it_is() -> None:
    table: Table = {}
    assert fxlrp.rule(aten.tanh.default, table=table)(HALF) is HALF
    assert table[aten.tanh.default] is HALF


def test_two_rules_for_one_op_are_refused() -> None:
    table: Table = {aten.tanh.default: HALF}
    with pytest.raises(RuleError, match=r"aten\.tanh\.default has two rules: half and other\. Override it"):
        fxlrp.rule(aten.sin.default, aten.tanh.default, table=table)(OTHER)
    assert table[aten.tanh.default] is HALF


def test_the_default_table_is_protected() -> None:
    before = dict(RULES)
    with pytest.raises(RuleError, match=r"aten\.relu\.default has two rules: relu and half"):
        fxlrp.rule(aten.relu.default)(half)
    assert before == RULES


@pytest.mark.parametrize("use", [lambda op: fxlrp.rule(op, table={})(half), lambda op: PRESETS["attnlrp"] | {op: HALF}])
def test_packets_are_refused_with_their_overloads(use: Any) -> None:
    with pytest.raises(RuleError, match=r"packet of overloads.*aten\.add\.Tensor.*aten\.add\.Scalar"):
        use(aten.add)


@pytest.mark.parametrize("op", [torch.add, "aten.add.Tensor", nn.ReLU, None], ids=["function", "name", "class", "none"])
@pytest.mark.parametrize("use", [lambda op: fxlrp.rule(op, table={})(half), lambda op: PRESETS["attnlrp"] | {op: HALF}])
def test_what_is_no_op_is_refused(use: Any, op: Any) -> None:
    with pytest.raises(RuleError, match=r"an op overload such as torch\.ops\.aten\.add\.Tensor, not for"):
        use(op)


def test_presets_are_values() -> None:
    preset = PRESETS["attnlrp"]
    changed = preset | {aten.tanh.default: HALF}
    assert aten.tanh.default not in preset.table
    assert changed.table[aten.tanh.default] is HALF
    assert (changed | {aten.tanh.default: OTHER}).table[aten.tanh.default] is OTHER
    assert (changed.name, changed.named("mine").name) == ("attnlrp (changed)", "mine")
    assert changed == preset | {aten.tanh.default: HALF}
    assert changed != preset
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.name = "other"  # type: ignore[misc]


def test_a_table_beats_the_default_table(nodes: list[fx.Node]) -> None:
    assert places(PRESETS["attnlrp"], nodes, affine) == [0, 2, 4, 6]
    assert places(PRESETS["attnlrp"] | {aten.linear.default: HALF}, nodes, HALF) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"ops": [aten.linear.default]}, [0, 2, 4, 6]),
        ({"ops": [aten.linear.default], "position": "first"}, [0]),
        ({"ops": [aten.linear.default], "position": "last"}, [6]),
        ({"module": "blocks.0"}, [0, 1]),
        ({"module": "blocks.*"}, [0, 1, 2, 3, 4, 5]),
        ({"module": "blocks.1@1"}, [4, 5]),
        ({"module": "blocks.1"}, [2, 3, 4, 5]),
        ({"module": "*.fc", "position": "last"}, [4]),
        ({"module": "head"}, [6]),
        ({"kind": "Block"}, [0, 1, 2, 3, 4, 5]),
        ({"kind": "Linear"}, [0, 2, 4, 6]),
        ({"kind": "torch.nn.modules.linear.Linear"}, [0, 2, 4, 6]),
        ({"kind": "near"}, []),
        ({"kind": "Linear", "module": "blocks.*", "position": "first"}, [0]),
        ({"predicate": lambda node: node.target is aten.tanh.default}, [1, 3, 5]),
        ({"predicate": lambda node: node.name == "linear_1"}, [2]),
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"module": "nowhere"}, []),
    ],
)
def test_where(nodes: list[fx.Node], conditions: dict[str, Any], expected: list[int]) -> None:
    assert places(PRESETS["attnlrp"].where(HALF, **conditions), nodes, HALF) == expected


def test_the_newest_override_is_asked_first(nodes: list[fx.Node]) -> None:
    rules = PRESETS["attnlrp"].where(HALF, module="blocks.*").where(OTHER, ops=[aten.linear.default])
    assert (places(rules, nodes, OTHER), places(rules, nodes, HALF)) == ([0, 2, 4, 6], [1, 3, 5])
    again = rules.where(HALF, module="blocks.0.fc")
    assert (places(again, nodes, OTHER), places(again, nodes, HALF)) == ([2, 4, 6], [0, 1, 3, 5])


def test_overrides_beat_tables_and_the_single_rule(nodes: list[fx.Node]) -> None:
    for rules in (PRESETS["attnlrp"] | {aten.linear.default: OTHER}, PRESETS["gradient"]):
        assert places(rules.where(HALF, position="first"), nodes, HALF) == [0]
    assert len(PRESETS["gradient"].assign(nodes)) == len(nodes)


def test_a_node_that_no_rule_serves_is_left_out(nodes: list[fx.Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, aten.tanh.default)
    assert set(PRESETS["attnlrp"].assign(nodes)) == {nodes[i] for i in (0, 2, 4, 6)}


def test_a_position_is_first_or_last() -> None:
    with pytest.raises(RuleError, match="position is 'first' or 'last', not 'second'"):
        PRESETS["attnlrp"].where(HALF, position="second")


def test_overrides_reach_the_numbers(model: nn.Module) -> None:
    x = torch.ones(1, 4).double()
    plain = fxlrp.compile(model)(x, target=0).relevance
    rules = PRESETS["attnlrp"].where(HALF, ops=[aten.tanh.default], position="first").named("halved")
    halved = fxlrp.compile(model, rules=rules)(x, target=0).relevance
    gain = numerics.gain(model.blocks[0](x), model.blocks[0].fc(x))
    weight = model.blocks[0].fc.weight
    arriving = torch.linalg.solve(weight.T, (plain / x).squeeze()) / gain
    torch.testing.assert_close(halved, x * (weight.T @ (arriving / 2).squeeze()))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_print_all_that_they_are(name: str) -> None:
    preset = PRESETS[name]
    text = str(preset)
    assert text.startswith(f"{name}: {preset.summary}\n")
    for op, rule in preset.table.items():
        assert f"  {op}: {rule}\n" in text
    for override in preset.overrides:
        assert f": {override.rule}{override.reason and f' ({override.reason})'}\n" in text
    assert f"every other op: {preset.default or 'the default table'}\n" in text
    assert f"held fixed: {preset.freeze}; product chains as one: {preset.invariant}" in text


def test_conditions_are_printed() -> None:
    rules = RuleSet("mine").where(HALF, ops=[aten.linear.default], module="a.*", kind="Linear", position="last")
    line = "  where ops=['aten.linear.default'], module=a.*, kind=Linear, position=last: half"
    assert line in str(rules).splitlines()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_by_name(name: str) -> None:
    assert fxlrp.rule_set(name) is PRESETS[name]
    assert PRESETS[name].name == name
    assert fxlrp.presets()[name] == PRESETS[name].summary
    assert len(PRESETS[name].summary) > 20


def test_rule_sets_and_tables_are_taken_too() -> None:
    assert fxlrp.rule_set(PRESETS["epsilon"]) is PRESETS["epsilon"]
    assert fxlrp.rule_set({aten.tanh.default: HALF}) == PRESETS["auto"] | {aten.tanh.default: HALF}
    with pytest.raises(RuleError, match=r"there is no preset 'attnrlp'; there are auto, attnlrp, .*gradient"):
        fxlrp.rule_set("attnrlp")


def test_the_box_preset_takes_its_bounds(nodes: list[fx.Node]) -> None:
    preset = epsilon_gamma_box(-1.0, 2.0)
    assert preset.name == "epsilon_gamma_box(-1, 2)"
    assert preset.overrides[0].rule.name == z_box(-1.0, 2.0).name == "z_box(-1, 2)"


def test_rules_carry_what_they_were_made_with_in_their_names() -> None:
    """The stabiliser where it is not the usual one, and every digit of a number."""
    made = {
        "gamma(0.1)": gamma(0.1),
        "gamma(0.1, 1e-09)": gamma(0.1, 1e-9),
        "gamma(0.1234567)": gamma(0.1234567),
        "epsilon(1e-06)": epsilon(),
        "epsilon(0.001)": epsilon(1e-3),
        "z_box(0, 1)": z_box(0, 1),
        "z_box(-3, 3, 0.01)": z_box(-3.0, 3.0, 0.01),
        "alpha_beta(2, 1)": alpha_beta(),
        "alpha_beta(1.5, 0.5, 0)": alpha_beta(1.5, 0.5, 0.0),
        "z_plus": z_plus(),
        "z_plus(0.1)": z_plus(0.1),
        "flat": flat(),
        "flat(0.1)": flat(0.1),
        "w_square": w_square(),
        "w_square(0.1)": w_square(0.1),
        "gamma(0.25, bias=False)": gamma(bias=False),
        "epsilon(1e-06, bias=False)": epsilon(bias=False),
        "alpha_beta(2, 1, 0.1, bias=False)": alpha_beta(e=0.1, bias=False),
        "z_plus(bias=False)": z_plus(bias=False),
        "w_square(bias=False)": w_square(bias=False),
    }
    assert {name: str(rule) for name, rule in made.items()} == {name: name for name in made}


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda site, c: (c, c), r"returned shapes \[\(1, 4\), \(1, 4\)\] for operands of shapes \[\(1, 4\)\]"),
        (lambda site, c: (), r"returned shapes \[\]"),
        (lambda site, c: (c.sum(),), r"returned shapes \[\(\)\]"),
        (lambda site, c: (numerics.Relevance(0.0, c[0]),), r"returned shapes \[\(4,\)\]"),
        (lambda site, c: c, r"returned shapes \(1, 4\) for"),
        (lambda site, c: None, r"returned shapes NoneType"),
        (lambda site, c: (1.0,), r"returned shapes \['float'\]"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(model: nn.Module, made: Any, text: str) -> None:
    with pytest.raises(RuleError, match=text) as raised:
        fxlrp.compile(model, rules={aten.tanh.default: Rule("wrong", "test", made)})(torch.ones(1, 4).double())
    assert "rule wrong returned" in str(raised.value)
    assert "aten.tanh.default (node 'tanh" in str(raised.value)
    assert "module 'blocks.1" in str(raised.value)
    assert "made_rules.py" in str(raised.value)
    assert "one coefficient per operand" in str(raised.value)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Entry points are looked up again, before and after."""
    before = dict(RULES)
    load_extensions.cache_clear()
    yield
    load_extensions.cache_clear()
    RULES.clear()
    RULES.update(before)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a package with an entry point in ``fxlrp.rules`` on the path."""
    (folder / "swish_rules.py").write_text(code)
    info = folder / "swish_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swish-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fxlrp.rules]\nswish = swish_rules\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "swish_rules", raising=False)


@pytest.mark.usefixtures("fresh")
def test_other_packages_register_rules_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        monkeypatch,
        """
import torch, fxlrp

@fxlrp.rule(torch.ops.aten.special_bessel_j1.default)
def bessel(site, c):
    '''``c_x = 7 c``.'''
    return (7 * c,)
""",
    )

    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j1(x)

    x = torch.tensor([[1.0, 2.0]])
    result = fxlrp.compile(Bessel().eval())(x, target=1)
    assert result.relevance.tolist() == [[0.0, 14.0]]
    assert RULES[aten.special_bessel_j1.default].kind == "swish_rules"


@pytest.mark.usefixtures("fresh")
def test_an_entry_point_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "import torch, fxlrp\nfxlrp.rule(torch.ops.aten.relu.default)(lambda s, c: (c,))\n")
    with pytest.raises(RuleError, match=r"rules of swish_rules could not be loaded: aten\.relu\.default has two rules"):
        fxlrp.compile(nn.Linear(2, 2).eval())
