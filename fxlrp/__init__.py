"""fxlrp: any PyTorch model becomes a relevance program."""

from fxlrp import rules
from fxlrp.api import compile, presets, rule_set
from fxlrp.artifacts.artifact import Artifact
from fxlrp.artifacts.load import load
from fxlrp.attributor import Attributor
from fxlrp.datasets.run import batch
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
from fxlrp.ir.rule import Facts, Rule, Site, rule
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import LARGEST, contrast
from fxlrp.reports.ledger import Ledger
from fxlrp.reports.verification import Verification
from fxlrp.session.result import Result

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
    "Verification",
    "VerificationError",
    "batch",
    "compile",
    "contrast",
    "load",
    "presets",
    "rule",
    "rule_set",
    "rules",
]
