"""Compile any PyTorch model into a program that returns its output and the relevance of every input.

Begin with `compile`; what it returns, an `Attributor`, is called as the model is, and gives a `Result`:

    attributor = fxlrp.compile(model)
    result = attributor(x, target=3)
    result.relevance  # as the input, and sums to the explained output

`Attributor.verify` checks the program on your own model, `Attributor.ledger` accounts for what was lost on the way.
`tune` chooses rules by measurement, on samples of your own. `load`, `batch` and `Artifact` are for programs in files;
`rule`, `Site`, `RuleSet` and `fxlrp.rules` for rules of your own. What goes wrong is an `FxlrpError` that says what
failed, where, and what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fxlrp.errors import (
    ArtifactError,
    CaptureError,
    FxlrpError,
    MissingRules,
    RuleError,
    SignatureError,
    TargetError,
    VerificationError,
)

if TYPE_CHECKING:
    from fxlrp import rules, vision
    from fxlrp.api import compile, presets, rule_set
    from fxlrp.artifacts.artifact import Artifact
    from fxlrp.artifacts.load import load
    from fxlrp.attributor import Attributor
    from fxlrp.averaging.integrate import integrate
    from fxlrp.averaging.smooth import smooth
    from fxlrp.datasets.run import batch
    from fxlrp.ir.rule import Facts, Rule, Site, rule
    from fxlrp.ir.rule_set import RuleSet
    from fxlrp.ir.targets import LARGEST, contrast
    from fxlrp.reports.ledger import Ledger
    from fxlrp.reports.verification import Verification
    from fxlrp.session.result import Result
    from fxlrp.tuning.report import TuningReport
    from fxlrp.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "LARGEST",
    "Artifact",
    "ArtifactError",
    "Attributor",
    "CaptureError",
    "Facts",
    "FxlrpError",
    "Ledger",
    "MissingRules",
    "Result",
    "Rule",
    "RuleError",
    "RuleSet",
    "SignatureError",
    "Site",
    "TargetError",
    "TuningReport",
    "Verification",
    "VerificationError",
    "batch",
    "compile",
    "contrast",
    "integrate",
    "load",
    "presets",
    "rule",
    "rule_set",
    "rules",
    "smooth",
    "tune",
    "vision",
]

HOMES = {
    "api": ("compile", "presets", "rule_set"),
    "artifacts.artifact": ("Artifact",),
    "artifacts.load": ("load",),
    "attributor": ("Attributor",),
    "averaging.integrate": ("integrate",),
    "averaging.smooth": ("smooth",),
    "datasets.run": ("batch",),
    "ir.rule": ("Facts", "Rule", "Site", "rule"),
    "ir.rule_set": ("RuleSet",),
    "ir.targets": ("LARGEST", "contrast"),
    "reports.ledger": ("Ledger",),
    "reports.verification": ("Verification",),
    "session.result": ("Result",),
    "tuning.report": ("TuningReport",),
    "tuning.tune": ("tune",),
}
"""Where names come from that are imported when they are first used: the compiler takes as long to import as torch."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in ("rules", "vision"):
        return import_module(f"fxlrp.{name}")
    for home, names in HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"fxlrp.{home}"), name)
            return found
    raise AttributeError(f"module 'fxlrp' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return [*__all__, "__version__"]
