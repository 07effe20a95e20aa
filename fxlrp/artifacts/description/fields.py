"""What a description in JSON may hold: checks that are composed as the description is, and name the field that fails.

A check takes a value and the name of its field, and returns what the value stands for, or raises `ArtifactError`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fxlrp.errors import ArtifactError

Check = Callable[[Any, str], Any]

MAX_CHARACTERS = 2**22
"""Characters of a description."""
MAX_DIGITS = 19
"""Of a number in it."""


def refuse_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, in which no name may come twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def parse_json(content: str | bytes) -> dict[str, Any]:
    """Read an object of JSON whose numbers are whole and whose names come once.

    Raises:
        ArtifactError: If it is none, or is too long.
    """
    try:
        if len(content) > MAX_CHARACTERS:
            raise ValueError(f"it has {len(content)} characters, and {MAX_CHARACTERS} are the most")
        text = content if isinstance(content, str) else content.decode()
        found = json.loads(
            text,
            object_pairs_hook=refuse_repeated_names,
            parse_int=parse_whole_number,
            parse_float=refuse_fraction,
            parse_constant=refuse_fraction,
        )
        if not isinstance(found, dict):
            raise ValueError("it is no object of JSON")
        return found
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest is damaged: {type(error).__name__}: {error}") from error


def parse_whole_number(digits: str) -> int:
    """Read a number that is not too long."""
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def refuse_fraction(text: str) -> NoReturn:
    """Refuse fractions, NaN and infinity, which no field holds."""
    raise ValueError(f"{text[:MAX_DIGITS]} is no whole number")


def refuse_field(name: str, value: Any, wanted: str) -> NoReturn:
    """Say which field is wrong, what it holds, and what it should."""
    raise ArtifactError(f"the manifest's {name} is {reprlib.repr(value)}, and should be {wanted}")


def text(longest: int = 1000, pattern: str | None = None, lines: bool = False) -> Check:
    """Make a check for a text that can be printed, on one line unless ``lines``."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > longest:
            refuse_field(name, value, f"a text of at most {longest} characters")
        if not all(line.isprintable() for line in (value.split("\n") if lines else [value])):
            refuse_field(name, value, "a text that can be printed")
        if pattern is not None and not re.fullmatch(pattern, value):
            refuse_field(name, value, f"a text of the form {pattern}")
        return value

    return check


def one_of(*words: str) -> Check:
    """Make a check for one of some words."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in words:
            refuse_field(name, value, f"one of {', '.join(words)}")
        return value

    return check


def integer(least: int, most: int = 2**63 - 1) -> Check:
    """Make a check for a number; a truth value is none."""

    def check(value: Any, name: str) -> int:
        if type(value) is not int or not least <= value <= most:
            refuse_field(name, value, f"a whole number from {least} to {most}")
        return value

    return check


def optional(inner: Check) -> Check:
    """Make a check for None or what another check takes."""
    return lambda value, name: None if value is None else inner(value, name)


def either(kind: type, inner: Check, other: Check) -> Check:
    """Make a check that leaves values of a type to one check, and all others to another."""
    return lambda value, name: (inner if isinstance(value, kind) else other)(value, name)


def list_of(inner: Check, most: int) -> Check:
    """Make a check for a list, which becomes a tuple."""

    def check(value: Any, name: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            refuse_field(name, value, f"a list of at most {most} entries")
        return tuple(inner(entry, f"{name}[{i}]") for i, entry in enumerate(value))

    return check


def mapping_of(key: Check, inner: Check, most: int) -> Check:
    """Make a check for an object whose names are not fixed."""

    def check(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            refuse_field(name, value, f"an object of at most {most} entries")
        return {key(one, f"name in {name}"): inner(entry, f"{name}[{one[:100]!r}]") for one, entry in value.items()}

    return check


def record(make: Callable[..., Any], fields: Mapping[str, Check]) -> Check:
    """Make a check for an object that has each of some fields and no other, and is made into something."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            refuse_field(name, value, f"an object of {', '.join(fields)}")
        inside = f" in {name}" if name else ""
        for one in sorted(fields.keys() - value.keys()):
            raise ArtifactError(f"the manifest is incomplete: there is no {one}{inside}")
        for one in sorted(value.keys() - fields.keys()):
            raise ArtifactError(f"the manifest has an unknown field{inside}, {reprlib.repr(one)}")
        return make(**{one: inner(value[one], f"{name}.{one}" if name else one) for one, inner in fields.items()})

    return check
