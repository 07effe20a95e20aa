"""Which parameters of a test are left to the slow tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def leave_to_slow(values: Iterable[Any], *, but: Collection[Any]) -> list[Any]:
    """Mark parameters as slow.

    Args:
        values: Parameters, each a value or a tuple of values.
        but: Those that are in this, or whose first value is, remain among the fast tests.
    """
    found = []
    for value in values:
        row = value if isinstance(value, tuple) else (value,)
        found.append(pytest.param(*row, marks=() if row[0] in but or row in but else pytest.mark.slow))
    return found
