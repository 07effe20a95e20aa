"""JSON held against dataclasses: whether a text from elsewhere has the fields and types that its writer gives it."""

from __future__ import annotations

import functools
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints

from fxlrp._torch import is_tagged
from fxlrp.errors import ArtifactError

FLOAT_WORDS = ("Infinity", "-Infinity", "NaN")
"""How torch writes floating point numbers that JSON does not have."""
LARGEST = 2**63


def check_type(value: Any, kind: Any, where: str) -> None:
    """Refuse a value that a type does not describe.

    Args:
        value: What `json.loads` returned.
        kind: A dataclass, an enumeration, a plain type, or a list, dictionary or union of these.
        where: Names the value in errors.

    Raises:
        ArtifactError: Naming the first part that is something else.
    """
    if not fits(value, kind):
        raise ArtifactError(f"{where} is not what fxlrp writes there: {str(value)[:100]!r}")
    for name, part, type_ in list_parts(value, kind):
        check_type(part, type_, f"{where}.{name}")


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value, but for its parts, is of a type."""
    if is_dataclass(kind):
        return isinstance(value, dict) and fits_fields(value, kind)
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return type(value) is int and value in set(kind)
    if kind is float:
        return type(value) is float or value in FLOAT_WORDS or fits(value, int)
    if kind is int:
        return type(value) is int and -LARGEST <= value < LARGEST
    alternatives = get_args(kind) if get_origin(kind) not in (list, dict) else ()
    return type(value) is (get_origin(kind) or kind) if not alternatives else any(fits(value, k) for k in alternatives)


def fits_fields(value: dict[str, Any], kind: Any) -> bool:
    """Return whether a dictionary has the fields of a dataclass, or the only one of a tagged union."""
    known = {field.name for field in fields(kind)}
    if is_tagged(kind):
        return len(value) == 1 and value.keys() <= known
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return needed <= value.keys() <= known


def list_parts(value: Any, kind: Any) -> list[tuple[str, Any, Any]]:
    """List the parts of a value: name, value and type of each."""
    if is_dataclass(kind):
        types = read_field_types(cast(type, kind))
        return [(name, part, types[name]) for name, part in value.items()]
    if get_origin(kind) is list:
        return [(str(i), part, get_args(kind)[0]) for i, part in enumerate(value)]
    if get_origin(kind) is dict:
        return [(name[:40], part, get_args(kind)[1]) for name, part in value.items()]
    if (alternatives := get_args(kind)) and value is not None:
        return [("", value, next(k for k in alternatives if k is not NoneType and fits(value, k)))]
    return []


@functools.cache
def read_field_types(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    return get_type_hints(kind)
