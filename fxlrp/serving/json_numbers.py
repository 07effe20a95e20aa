"""JSON with many numbers: texts to arrays and back.

A text holds Python's lock from beginning to end while it is read, and that of a stranger may take seconds: no thread of
the service may read it. `fxlrp.serving.json_process` runs these functions in a process of their own, which imports no
more than this.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from fxlrp.artifacts.description.fields import refuse_repeated_names
from fxlrp.errors import RequestError

MAX_LISTED_NUMBERS = 64
"""Numbers of a list that is left as it is."""
MAX_LISTED_ENTRIES = 4096
"""Entries of a list that is left as it is because it holds not only numbers."""
MAX_MARKS = {b"{": 4096, b'"': 32768}
"""How many of these a request may have: the rest is numbers and brackets."""


class TooLarge(RequestError):
    """The text takes more memory or time than it is given."""


@dataclass(frozen=True)
class Numbers:
    """Lists nested evenly.

    Attributes:
        shape: Their lengths, the outermost first.
        types: Names of Python's types of the entries.
        code: Of `array.array`; empty if the entries are not all numbers, too many, or one is beyond all types.
        data: The entries as bytes.
    """

    shape: tuple[int, ...]
    types: tuple[str, ...]
    code: str
    data: bytes | bytearray | memoryview


def parse_json(text: bytes) -> Any:
    """Parse a text.

    Raises:
        RequestError: If it is not JSON, has a name twice in one object, NaN, or far more objects than a request.
        TooLarge: If there is not enough memory for it.
    """
    for mark, most in MAX_MARKS.items():
        if text.count(mark) > most:
            raise RequestError(f"the body has more than {most} times {mark.decode()} in it, which no request has")
    try:
        return json.loads(text.decode(), object_pairs_hook=refuse_repeated_names, parse_constant=refuse_constant)
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    except MemoryError:
        raise TooLarge("the body takes too much memory as JSON: send safetensors") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error


def refuse_constant(constant: str) -> Any:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{constant} is no number of JSON")


def pack_lists(value: Any) -> Numbers:
    """Pack a number, or lists as deep as they are nested evenly."""
    shape: list[int] = []
    level = [value]
    while all(type(part) is list for part in level) and len({len(part) for part in level}) == 1:
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    types = tuple(sorted({type(part).__name__ for part in level}))
    code, data = pack_entries(level, types)
    return Numbers(tuple(shape), types, code, data)


def pack_entries(entries: Sequence[Any], types: tuple[str, ...]) -> tuple[str, bytes]:
    """Find the first kind of array that holds the entries, and return its code and bytes."""
    kinds = {(): "d", ("bool",): "b", ("int",): "qQd", ("float",): "d", ("float", "int"): "d"}
    for code in kinds.get(types, ""):
        with suppress(OverflowError):
            return code, array(code, entries).tobytes()
    return "", b""


def shrink_document(value: Any, most: int) -> Any:
    """Pack the large lists of a document; what is neither small nor numbers loses its entries.

    Args:
        value: The document.
        most: Numbers that a list may have; more are lost too.
    """
    if isinstance(value, dict):
        return {name: shrink_document(part, most) for name, part in value.items()}
    if not isinstance(value, list):
        return value
    numbers = pack_lists(value)
    count = math.prod(numbers.shape)
    if count > most:
        return replace(numbers, code="", data=b"")
    if numbers.code and count > MAX_LISTED_NUMBERS:
        return numbers
    if "dict" in numbers.types and len(value) <= MAX_LISTED_ENTRIES:
        return [shrink_document(part, most) for part in value]
    flat = sum(len(part) if isinstance(part, list) else 1 for part in value)
    return value if max(count, flat) <= MAX_LISTED_ENTRIES else numbers


def write_json(document: Any) -> bytes:
    """Write a document whose arrays become nested lists, with all digits that tell numbers apart."""
    return json.dumps(document, default=nest_numbers, allow_nan=False, separators=(",", ":")).encode()


def nest_numbers(numbers: Any) -> Any:
    """Nest an array's entries in lists; what is not finite is spelled, as Protocol Buffers do in JSON."""
    if not isinstance(numbers, Numbers):
        raise TypeError(f"{type(numbers).__name__} is not written as JSON")
    entries: array[Any] = array(numbers.code)
    entries.frombytes(numbers.data)
    level: list[Any] = list(map(bool, entries)) if numbers.types == ("bool",) else entries.tolist()
    if not all(map(math.isfinite, level)):
        level = [entry if math.isfinite(entry) else spell_number(entry) for entry in level]
    for depth in range(len(numbers.shape) - 1, 0, -1):
        size = numbers.shape[depth]
        level = [level[i * size : (i + 1) * size] for i in range(math.prod(numbers.shape[:depth]))]
    return level if numbers.shape else level[0]


def spell_number(number: float) -> str:
    """Spell a number that is not finite."""
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
