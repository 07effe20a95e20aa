"""Conditions on sizes as text, which artefacts carry: written of torch's expressions, and read without running code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fxlrp._torch import print_python
from fxlrp.errors import ArtifactError

MAX_LENGTH = 4000
"""Characters of one condition."""
MAX_DEPTH = 100
"""Of the expressions in it."""
MAX_BITS = 4096
"""Of a number in it, or computed on the way."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: base ** check_exponent(base, exponent),
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.And: all,
    ast.Or: any,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], range]] = {
    "max": (max, range(2, MAX_LENGTH)),
    "min": (min, range(2, MAX_LENGTH)),
    "abs": (abs, range(1, 2)),
}
"""With the numbers of arguments that each takes."""


def write_clause(expression: Any, names: Mapping[str, str]) -> str:
    """Write an expression in named sizes.

    Raises:
        ArtifactError: If it cannot be written.
    """
    symbols = {
        symbol: type(symbol)(names.get(str(symbol), str(symbol)), integer=True) for symbol in expression.free_symbols
    }
    text = print_python(expression.xreplace(symbols))
    check_clause(text)
    return text


def check_clause(text: Any) -> None:
    """Refuse what is no arithmetic condition.

    Raises:
        ArtifactError: If it is none, or is nested deeply.
    """
    if not isinstance(text, str):
        raise ArtifactError(f"a condition on sizes is no text but {type(text).__name__}")
    level: list[ast.AST] = [parse_clause(text)]
    for _ in range(MAX_DEPTH):
        if wrong := [node for node in level if not is_computable(node)]:
            raise ArtifactError(f"a condition on sizes has {type(wrong[0]).__name__} in it: {text[:80]}")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ArtifactError(f"a condition on sizes is nested more than {MAX_DEPTH} deep: {text[:80]}")


def is_computable(node: ast.AST) -> bool:
    """Return whether a part of an expression can be computed."""
    if isinstance(node, ast.Constant):
        return type(node.value) is int and node.value.bit_length() <= MAX_BITS
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Name)
            and node.func.id in FUNCTIONS
            and len(node.args) in FUNCTIONS[node.func.id][1]
        )
    kinds = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Load)
    return isinstance(node, kinds) or type(node) in OPERATORS


def find_sizes(text: str) -> set[str]:
    """Return the sizes that an expression is of."""
    found = {node.id for node in ast.walk(parse_clause(text)) if isinstance(node, ast.Name)}
    return found - FUNCTIONS.keys()


@lru_cache(1024)
def parse_clause(text: str) -> ast.Expression:
    """Parse a condition into a tree."""
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"it has {len(text)} characters")
        tree: ast.Expression = ast.parse(text, mode="eval")
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"a condition on sizes cannot be read: {error}") from None


def evaluate_clause(text: str, sizes: Mapping[str, int]) -> Any:
    """Return the value of an expression; None if it needs a size that is not there, or has none."""
    try:
        return evaluate_node(parse_clause(text).body, sizes)
    except (KeyError, ArithmeticError):
        return None


def evaluate_node(node: Any, sizes: Mapping[str, int]) -> Any:
    """Evaluate a part of an expression; as in Python, of parts joined by ``and`` and ``or`` only those that decide."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Compare):
        return evaluate_comparisons(node, sizes)
    if isinstance(node, ast.BoolOp):
        return OPERATORS[type(node.op)](evaluate_node(part, sizes) for part in node.values)
    if isinstance(node, ast.Call):
        function, parts = FUNCTIONS[node.func.id][0], node.args  # type: ignore[attr-defined]
    else:
        function = OPERATORS[type(node.op)]
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.operand]
    return refuse_huge(function(*(evaluate_node(part, sizes) for part in parts)))


def evaluate_comparisons(node: ast.Compare, sizes: Mapping[str, int]) -> bool:
    """Return whether each of a chain of comparisons holds; what follows one that does not is left alone."""
    left = evaluate_node(node.left, sizes)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = evaluate_node(part, sizes)
        if not OPERATORS[type(op)](left, right):
            return False
        left = right
    return True


def refuse_huge(number: int) -> int:
    """Return a number unless it is a huge one.

    Raises:
        OverflowError: If it is.
    """
    if number.bit_length() > MAX_BITS:
        raise OverflowError("a condition on sizes computes a huge number")
    return number


def check_exponent(base: int, exponent: int) -> int:
    """Return an exponent unless its power is a huge number.

    Raises:
        OverflowError: If it is one.
    """
    if not 0 <= exponent <= MAX_BITS or base.bit_length() * exponent > MAX_BITS:
        raise OverflowError("a condition on sizes computes a huge number")
    return exponent
