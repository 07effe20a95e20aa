"""What a user asks of the compiler."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from fxlrp.backends.choice import BACKENDS
from fxlrp.capture.explained_output import Objective, Output
from fxlrp.errors import RuleError, SignatureError
from fxlrp.ir.rule_set import RuleSet
from fxlrp.passes.lowering.bfloat16 import PRECISION
from fxlrp.passes.lowering.release_order import MEMORY
from fxlrp.rules import PRESETS

VERIFY_CHOICES = ("first", "always", "never")


@dataclass(frozen=True)
class Options:
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Options:
        """Return it itself, as nothing in it changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a preset by its name, as rules are functions.

        Raises:
            RuleError: If the rules are no preset, and pickle cannot save them.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if PRESETS.get(self.rules.name) == self.rules:
            values["rules"] = self.rules.name
        else:
            check_picklable(self.rules)
        return restore_options, (values,)

    def __post_init__(self) -> None:
        choices: dict[str, Collection[Any]] = {
            "backend": BACKENDS,
            "memory": MEMORY,
            "precision": PRECISION,
            "verify": VERIFY_CHOICES,
        }
        for name, allowed in choices.items():
            if (given := getattr(self, name)) not in allowed:
                raise SignatureError(f"{name}={given!r} is none of {', '.join(map(repr, allowed))}")


def check_picklable(rules: RuleSet) -> None:
    """Refuse rules that are made by calls, of which pickle saves none.

    Raises:
        RuleError: Saying what to do.
    """
    try:
        pickle.dumps(rules)
    except (AttributeError, TypeError, RuntimeError, pickle.PicklingError) as error:
        raise RuleError(
            f"the rule set {rules.name!r} cannot be pickled: {error}\nA preset is pickled by its name. With rules "
            "of your own, pickle the model and compile it again, or define each rule's function in a module."
        ) from error


def restore_options(values: dict[str, Any]) -> Options:
    """Make options from what was pickled."""
    rules = values["rules"]
    return Options(**{**values, "rules": PRESETS[rules] if isinstance(rules, str) else rules})
