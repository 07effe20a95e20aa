"""What a call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxlrp.program import Program
from fxlrp.signatures import Entry


@dataclass(frozen=True)
class Result:
    """An attribution.

    Attributes:
        relevance: Relevance of the input, shaped as it; for token ids one number per token; for several inputs
            a dictionary by argument name.
        output: The model's own output, from the same program.
        read: Relevance at the places asked for with ``read=``, by name.
    """

    relevance: Any
    output: Any
    read: dict[str, Tensor]


def pack(entry: Entry, program: Program, flat: list[Any]) -> Result:
    """Put a program's flat results into the shape that the user knows."""
    own, rest = flat[: program.outputs], flat[program.outputs :]
    relevances = dict(zip(program.relevances, rest, strict=False))
    read = dict(zip(program.reads, rest[len(relevances) :], strict=True))
    single = next(iter(relevances.values())) if len(relevances) == 1 else relevances
    return Result(single, entry.plan.captured.output(own), read)
