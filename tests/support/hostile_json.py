"""JSON with other values, of other types, in other places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Json = Any
Place = tuple[Any, Any]
"""A list or mapping, and the key of an entry."""

NUMBERS = (0, -1, 1, 2, 3, 64, 2**31, -(2**31), 2**40, 2**63 - 1, 2**63, -(2**63), 10**12, 10**40)
TEXTS = (
    "", "x", "target", "input_1", "../canary", "canary", "__class__", "__import__('os').system('touch canary')", "\0",
    "\ud800", "ü" * 1000, "a" * 10**5, "torch.ops.aten.relu.default", "os.system", "cuda:7", "meta", "9" * 5000,
)  # fmt: skip


def weird(rng: Random) -> Json:
    """A value that is not expected anywhere."""
    nested: Json = []
    for _ in range(rng.choice((2, 50, 200))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    others = (
        None,
        True,
        False,
        1.5,
        -0.0,
        float("nan"),
        float("inf"),
        [],
        {},
        [[]],
        nested,
        [0] * 10**4,
        {"as_int": 1},
    )
    return copy.deepcopy(rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), rng.choice(others))))


def places(value: Json) -> Iterator[Place]:
    """Every entry of a structure."""
    stack = [value]
    while stack:
        found = stack.pop()
        items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        for key, inner in items:
            yield found, key
            stack.append(inner)


def scramble(value: Json, rng: Random, among: Callable[[Place], bool] = lambda place: True) -> None:
    """Change some entries of a structure: their value or type, or remove, double, or exchange them."""
    found = [place for place in places(value) if among(place)]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not found:
            return
        inside, key = rng.choice(found)
        other, where = rng.choice(found)
        if key not in (inside if isinstance(inside, dict) else range(len(inside))):
            continue
        how = rng.randrange(6)
        if how <= 2:
            inside[key] = near(inside[key], rng) if how else weird(rng)
        elif how == 3:
            del inside[key]
        elif how == 4 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]))
        elif where in (other if isinstance(other, dict) else range(len(other))):
            inside[key] = copy.deepcopy(other[where])


def near(value: Json, rng: Random) -> Json:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2**20, rng.choice(NUMBERS)))
    if isinstance(value, float):
        return rng.choice((0.0, -value, 1e300, float("nan")))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), rng.choice(TEXTS)))
    return weird(rng)
