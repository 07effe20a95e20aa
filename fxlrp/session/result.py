"""What a call returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from fxlrp.ir.program import Program
from fxlrp.session.doubts import Question, find_doubts
from fxlrp.session.signature import CapturedSignature, plain_mode


@dataclass(frozen=True)
class Result:
    """An attribution.

    Attributes:
        relevance: Relevance of the input, shaped as it; for token ids one number per token; for several inputs
            a dictionary by argument name.
        output: The model's own output, from the same program.
        read: Relevance at the places asked for with ``read=``, by name.
        question: Which numbers of the output are explained, if that is known.
    """

    relevance: Any
    output: Any
    read: dict[str, Tensor]
    question: Question | None = field(default=None, repr=False, compare=False)

    @cached_property
    def explained(self) -> Tensor | None:
        """Compute the explained value of each sample, for several targets of each target and sample.

        None where relevance has nothing to sum to: it starts inside the model, or is masked.
        """
        with plain_mode():
            return None if self.question is None else self.question.answer(self.output)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Say what speaks against this explanation, in sentences; computed when it is first read.

        That is: more than 90 % of the explained value does not arrive, or absolute relevance sums to more than 50
        times the explained value, or something is not finite.
        """
        relevances = self.relevance.values() if isinstance(self.relevance, Mapping) else [self.relevance]
        with plain_mode():
            return () if self.explained is None else find_doubts(self.explained, list(relevances))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the warnings, and not the question, which holds the caller's functions."""
        return {**vars(self), "explained": self.explained, "warnings": self.warnings, "question": None}


def make_result(
    entry: CapturedSignature, program: Program, flat: list[Any], question: Question | None = None
) -> Result:
    """Put a program's flat results into the shape that the user knows."""
    own, rest = flat[: program.outputs], flat[program.outputs :]
    relevances = dict(zip(program.relevances, rest, strict=False))
    read = dict(zip(program.reads, rest[len(relevances) :], strict=True))
    single = next(iter(relevances.values())) if len(relevances) == 1 else relevances
    return Result(single, entry.plan.captured.output(own), read, question)
