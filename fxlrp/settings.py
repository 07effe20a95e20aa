"""What a user asks of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxlrp.backends import backend
from fxlrp.errors import SignatureError
from fxlrp.outputs import Objective, Output
from fxlrp.passes.order import MEMORY
from fxlrp.passes.precision import PRECISION
from fxlrp.rulesets import RuleSet

VERIFY = ("first", "always", "never")


@dataclass(frozen=True)
class Settings:
    """The arguments of `fxlrp.compile` besides the model and its inputs, which say what they mean.

    Raises:
        SignatureError: If one names nothing.
    """

    rules: RuleSet
    read: tuple[str, ...] = ()
    output: Output = None
    objective: Objective = None
    dynamic_shapes: Any = None
    backend: str = "eager"
    memory: str = "normal"
    precision: str | None = None
    strict: bool = True
    verify: str = "first"

    def __post_init__(self) -> None:
        backend(self.backend)
        for name, allowed in (("memory", MEMORY), ("precision", PRECISION), ("verify", VERIFY)):
            if (given := getattr(self, name)) not in allowed:
                raise SignatureError(f"{name}={given!r} is none of {', '.join(map(repr, allowed))}")
