"""The errors of fxlrp: each says what failed, where, and what to do."""


class FxlrpError(Exception):
    """Base of every error that fxlrp raises on purpose."""


class CaptureError(FxlrpError):
    """The model could not be turned into a graph."""


class MissingRules(FxlrpError):
    """Operations on the path from the inputs to the output have no rule."""


class RuleError(FxlrpError):
    """A rule is wrong: registered twice, for no operation, or with a result that does not fit."""


class TargetError(FxlrpError):
    """The target does not select one number of each sample's output."""


class SignatureError(FxlrpError):
    """The inputs of a call, or the names asked for, do not fit the model."""


class ArtifactError(FxlrpError):
    """A saved model is missing, damaged, or not what it says it is."""


class VerificationError(FxlrpError):
    """The program does not compute what the model does."""


class RequestError(FxlrpError):
    """What a client sent to `fxlrp serve` cannot be read."""
