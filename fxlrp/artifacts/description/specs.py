"""Tensors and sizes as artefacts describe them, and what such a description may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.fields import (
    Check,
    either,
    integer,
    list_of,
    one_of,
    optional,
    record,
    refuse_field,
    text,
)
from fxlrp.errors import ArtifactError

Size = int | str
"""A number, or the name of a size that may change between calls."""


@dataclass(frozen=True)
class Range:
    """The values that a size may take; no end if ``max`` is None."""

    min: int
    max: int | None

    def __str__(self) -> str:
        return f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"


@dataclass(frozen=True)
class Spec:
    """A tensor that goes in or comes out.

    Attributes:
        name: Its name.
        dtype: Name of its torch.dtype.
        shape: Its sizes.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        return f"{self.name}: ({', '.join(map(str, self.shape))}) {self.dtype}"


def find_type_and_rank(spec: Spec) -> tuple[str, int]:
    """Return the type and rank of a tensor; all floating types are one."""
    return "float" if "float" in spec.dtype else spec.dtype, len(spec.shape)


TARGET_KINDS: dict[str, Callable[[int], tuple[str, int]]] = {
    "index": lambda rank: ("int64", 2),
    "seed": lambda rank: ("float", rank),
}
"""What the input for a target must be, by the rank of what is explained."""


def check_clause_field(value: Any, name: str) -> str:
    """Check an expression of sizes."""
    expression: str = text(clauses.MAX_LENGTH)(value, name)
    try:
        clauses.check_clause(expression)
    except ArtifactError as error:
        raise ArtifactError(f"the manifest's {name}: {error}") from None
    return expression


def check_device(value: Any, name: str) -> str:
    """Check a device: of a plain kind, and one that this machine has."""
    plain: str = text(8, r"cpu|cuda(:\d{1,3})?")(value, name)
    number = int(plain.partition(":")[2] or 0)
    if plain.startswith("cuda") and number >= torch.cuda.device_count():
        refuse_field(
            name, plain, f"a device of this machine, which has {torch.cuda.device_count()} of CUDA: save it for 'cpu'"
        )
    return plain


DTYPE_NAMES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)
NAME = text(1000, ".+")
IDENTIFIER = text(1000, r"[^\W\d]\w*")
RESULT = text(1000, r"(output|relevance|read)(\..*)?")
DTYPE = one_of(*DTYPE_NAMES)
SHAPE = list_of(either(str, check_clause_field, integer(0)), most=64)
RANGE = record(Range, {"min": integer(0), "max": optional(integer(0))})


def spec_record(name: Check) -> Check:
    """Make a check for the description of a tensor."""
    return record(Spec, {"name": name, "dtype": DTYPE, "shape": SHAPE})
