"""Whether the tensors of a call fit what a program takes: shapes with open sizes, and usable numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

SizeCheck = Callable[[Any, int, dict[Any, int]], bool]
"""Whether an open size may be a number, when others have the values in a dictionary; it may note values there."""


def fit_sizes(
    wanted: Sequence[Sequence[Any]], given: Sequence[Sequence[int]], note: SizeCheck, agrees: SizeCheck
) -> tuple[dict[Any, int], int | None]:
    """Compare the shapes of tensors with those that a program takes, and find the values of open sizes.

    Args:
        wanted: Shapes whose sizes are numbers, or open in whatever notation.
        given: Shapes of the tensors.
        note: Notes the value of a size that stands by itself; passes one that is computed of others.
        agrees: Checks one that is computed of others, when the values of all inputs are noted.

    Returns:
        The values of the sizes, and the place of the first tensor that does not fit, if there is one.
    """
    sizes: dict[Any, int] = {}
    for check in (note, agrees):
        for i, (shape, numbers) in enumerate(zip(wanted, given, strict=True)):
            if len(shape) != len(numbers):
                return sizes, i
            for size, n in zip(shape, numbers, strict=True):
                if not (size == n if isinstance(size, int) else check(size, n, sizes)):
                    return sizes, i
    return sizes, None


def count_unusable(tensor: Tensor) -> dict[str, int]:
    """Count NaN and +inf, whose relevance would be a wrong number; -inf is what masks are made of."""
    if not tensor.is_floating_point():
        return {}
    found = {"NaN": tensor.isnan(), "+inf": tensor.isposinf()}
    return {what: int(bad.sum()) for what, bad in found.items() if bad.any()}
