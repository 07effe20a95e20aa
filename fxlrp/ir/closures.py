"""Values that hold functions: how pickles and copies make them again, and how those made alike are equal and hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache, wraps
from inspect import signature
from pkgutil import resolve_name
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")
Key = TypeVar("Key")
Value = TypeVar("Value")


def find_recipe(value: Any) -> tuple[Any, ...]:
    """Tell pickle how to make a dataclass with a function ``apply`` again: by its own recipe, its name, or its fields.

    A decorator that registers leaves the value under the name of its function, which then has none of its own.
    """
    if value.recipe:
        return tuple(value.recipe)
    function = value.apply
    path = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    try:
        named = resolve_name(path) is value
    except (ValueError, ImportError, AttributeError):
        named = False
    return recipe_by_name(path) if named else (type(value), tuple(getattr(value, f.name) for f in fields(value)))


def recipe_by_name(path: str) -> tuple[Any, ...]:
    """Return the recipe of what a module holds under a name, ``package.module:name``."""
    return resolve_name, (path,)


def by_value(make: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
    """Make the same value for the same arguments, which pickles as a call with them; tensors are given as tuples."""

    @cache
    def made(*args: Any) -> Any:
        value: Any = make(*args)  # type: ignore[call-arg]
        return replace(value, recipe=(called, args))

    @wraps(make)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Made:
        given = signature(make).bind(*args, **kwargs)
        given.apply_defaults()
        found: Made = made(*map(freeze, given.args))
        return found

    return called


def freeze(argument: Any) -> Any:
    """Return the numbers of a tensor, an array or a list as nested tuples, which can be compared and do not change."""
    if hasattr(argument, "tolist"):
        argument = argument.tolist()
    return tuple(map(freeze, argument)) if isinstance(argument, (list, tuple)) else argument


class FrozenTable(Mapping[Key, Value]):
    """A table that nothing changes, and that can be hashed."""

    def __init__(self, table: Mapping[Key, Value]) -> None:
        self._table = dict(table)

    def __getitem__(self, key: Key) -> Value:
        return self._table[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __hash__(self) -> int:
        return hash(frozenset(self._table.items()))

    def __repr__(self) -> str:
        return repr(self._table)
