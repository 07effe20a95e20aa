"""Conditions on sizes as text, which artefacts carry: written of torch's expressions, and read without running code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fxlrp._torch import print_python
from fxlrp.errors import ArtifactError

LENGTH = 4000
"""Characters of one condition."""
BITS = 4096
"""Of a number in it."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: base ** bounded(base, exponent),
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.And: lambda *values: all(values),
    ast.Or: lambda *values: any(values),
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"max": max, "min": min, "abs": abs}


def write(expression: Any, names: Mapping[str, str]) -> str:
    """An expression in named sizes.

    Raises:
        ArtifactError: If it cannot be written.
    """
    symbols = {
        symbol: type(symbol)(names.get(str(symbol), str(symbol)), integer=True) for symbol in expression.free_symbols
    }
    text = print_python(expression.xreplace(symbols))
    check(text)
    return text


def check(text: Any) -> None:
    """Refuse what is no arithmetic condition.

    Raises:
        ArtifactError: If it is none.
    """
    for node in ast.walk(parsed(text)):
        known = isinstance(node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Load))
        number = isinstance(node, ast.Constant) and type(node.value) is int
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        if not (known or number or called or type(node) in OPERATORS):
            raise ArtifactError(f"a condition on sizes has {type(node).__name__} in it: {text[:80]}")


def parsed(text: Any) -> ast.Expression:
    """A condition as a tree."""
    try:
        if len(text) > LENGTH:
            raise ValueError(f"it has {len(text)} characters")
        tree: ast.Expression = ast.parse(text, mode="eval")
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise ArtifactError(f"a condition on sizes cannot be read: {error}") from None


def value(text: str, sizes: Mapping[str, int]) -> Any:
    """Value of an expression; None if it needs a size that is not there, or has none."""
    try:
        return evaluated(parsed(text).body, sizes)
    except (KeyError, ArithmeticError, RecursionError):
        return None


def evaluated(node: Any, sizes: Mapping[str, int]) -> Any:
    """Value of a part of an expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Compare):
        values = [evaluated(part, sizes) for part in (node.left, *node.comparators)]
        return all(OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, values[:-1], values[1:], strict=True))
    if isinstance(node, ast.Call):
        return FUNCTIONS[node.func.id](*(evaluated(part, sizes) for part in node.args))  # type: ignore[attr-defined]
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else getattr(node, "values", None) or (node.operand,)
    return OPERATORS[type(node.op)](*(evaluated(part, sizes) for part in parts))


def bounded(base: int, exponent: int) -> int:
    """An exponent whose power is no huge number.

    Raises:
        OverflowError: If it is one.
    """
    if not 0 <= exponent <= BITS or base.bit_length() * exponent > BITS:
        raise OverflowError("a condition on sizes computes a huge number")
    return exponent
