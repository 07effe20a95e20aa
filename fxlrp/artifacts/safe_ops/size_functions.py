"""Functions of sizes that a graph from elsewhere may call, on numbers that stay small."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from fxlrp.errors import ArtifactError

MAX_SIZE = 2**63 - 1
"""Largest size that torch counts to."""
POWERS = (operator.pow, operator.lshift, operator.rshift)


def restrict_to_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of sizes refuse all that goes beyond what a size can be."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not all(isinstance(x, (bool, int, float)) for x in args):
            raise ArtifactError(f"{function.__name__} is of numbers")
        if function in POWERS and args[1:] and not -64 <= args[1] <= 64:
            raise ArtifactError(f"{function.__name__} by {args[1]} is beyond what a size can be")
        try:
            result = function(*args)
        except (ArithmeticError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{function.__name__} of {args}: {error}") from error
        if not isinstance(result, (bool, int, float)) or (abs(result) > MAX_SIZE and isinstance(result, int)):
            raise ArtifactError(f"{function.__name__} of {args} is beyond what a size can be")
        return result

    return call


def take_result(values: Any, index: Any) -> Any:
    """Return one of several results."""
    if not isinstance(values, (list, tuple)) or type(index) is not int or not -len(values) <= index < len(values):
        raise ArtifactError(f"there is no result {index!r}")
    return values[index]


SIZE_FUNCTION_NAMES = {
    "_operator": (
        "add and_ eq floordiv ge gt le lshift lt mod mul ne neg not_ or_ pos pow rshift sub truediv",
        operator,
    ),
    "math": ("ceil floor sqrt trunc", math),
    "torch": ("sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt _sym_sqrt", torch),
}
SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{module}.{name}": restrict_to_numbers(getattr(source, name))
    for module, (names, source) in SIZE_FUNCTION_NAMES.items()
    for name in names.split()
} | {"_operator.getitem": take_result}
"""Functions of sizes, as torch.export writes their names."""
