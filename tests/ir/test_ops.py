"""Families of ops: of real overloads, spelled once; arguments by name; which calls are pure."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from fxlrp._torch import OpOverload
from fxlrp.ir import ops
from fxlrp.ir.program import OneOutput

aten = torch.ops.aten
ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {name: value for name, value in vars(ops).items() if name.isupper() and name != "PURE_MODULES"}
TREE = ast.parse(Path(ops.__file__).read_text())
FEW = 3
"""So many ops are a family; two are a pair that any module may name."""


def spelled(tree: ast.AST) -> list[frozenset[str]]:
    """The ops that each tuple, list, set and call in a module spells out, and each value in a table, where several."""
    groups: list[list[Any]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            groups.append(node.elts)
        elif isinstance(node, ast.Call):
            groups.append(node.args)
        elif isinstance(node, ast.Dict):
            values = [ast.unparse(value) for value in node.values]
            groups += [[k for k, v in zip(node.keys, values, strict=True) if v == one] for one in dict.fromkeys(values)]
    texts = [[ast.unparse(part).removeprefix("torch.ops.") for part in group if part is not None] for group in groups]
    listed = [frozenset(t for t in group if t.startswith("aten.") and t.count(".") == 2) for group in texts]
    return [ops_of_it for ops_of_it in listed if len(ops_of_it) >= FEW]


LISTS = [
    (path, listed)
    for folder in ("fxlrp", "passes", "rules")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.resolve() == path
    for listed in spelled(ast.parse(path.read_text()))
]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_of_overloads_each_named_once(name: str) -> None:
    family = FAMILIES[name]
    assert all(isinstance(op, OpOverload) for op in family)
    assert len(set(family)) == len(family)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_say_what_their_ops_have_in_common(name: str) -> None:
    targets = [[ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else [] for node in TREE.body]
    following = TREE.body[targets.index([name]) + 1]
    assert isinstance(following, ast.Expr)
    assert isinstance(following.value, ast.Constant)
    assert following.value.value.endswith(".")


def test_no_list_of_ops_is_spelled_twice() -> None:
    counts = Counter(listed for _, listed in LISTS)
    assert len(LISTS) > 20
    assert [sorted(listed) for listed, n in counts.items() if n > 1] == []


def test_no_family_is_spelled_inside_another_list() -> None:
    spelled_families = [listed for path, listed in LISTS if path.name == "ops.py"]
    again = [(path.name, sorted(f)) for path, listed in LISTS for f in spelled_families if f < listed]
    assert again == []


def call(op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    graph = fx.Graph()
    given = [graph.placeholder(f"x_{i}") if arg is Tensor else arg for i, arg in enumerate(args)]
    return graph.call_function(op, tuple(given), kwargs)


def test_arguments_are_named_and_complete() -> None:
    node = call(aten.slice.Tensor, Tensor, 1, end=4)
    assert ops.name_arguments(node) == {"self": node.args[0], "dim": 1, "start": None, "end": 4, "step": 1}
    one = call(OneOutput(aten.topk.default, 0), Tensor, 2)
    assert list(ops.name_arguments(one)) == ["self", "k", "dim", "largest", "sorted"]
    assert ops.name_arguments(one)["dim"] == -1


ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default


@pytest.mark.parametrize(
    ("node", "pure"),
    [
        (call(aten.add.Tensor, Tensor, Tensor), True),
        (call(aten.add_.Tensor, Tensor, Tensor), False),
        (call(aten.rand_like.default, Tensor), False),
        (call(aten._assert_scalar.default, Tensor, "message"), False),
        (call(ATTENTION, Tensor, Tensor, Tensor), True),
        (call(ATTENTION, Tensor, Tensor, Tensor, 0.5), False),
        (call(ATTENTION, Tensor, Tensor, Tensor, dropout_p=0.5), False),
        (call(torch.nn.functional.relu, Tensor), False),
        (fx.Graph().placeholder("x"), False),
    ],
    ids=str,
)
def test_which_calls_are_pure(node: fx.Node, pure: bool) -> None:
    assert ops.is_pure(node) is pure


def test_dead_code_goes_and_effects_stay() -> None:
    graph = fx.Graph()
    x, n = graph.placeholder("x"), graph.placeholder("n")
    graph.call_function(aten._assert_scalar.default, (n, "at least one"))
    graph.call_function(aten.exp.default, (x,))
    graph.call_function(aten.rand_like.default, (x,))
    graph.call_function(aten.add_.Tensor, (x, 1))
    graph.output(x)
    ops.erase_dead_code(graph)
    left = [str(node.target) for node in graph.nodes]
    assert left == ["x", "n", "aten._assert_scalar.default", "aten.add_.Tensor", "output"]
