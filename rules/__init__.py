"""The rules, one module per mathematical kind. Importing this package fills the table."""

from fxlrp.rules import (
    attention,
    linear,
    norms,
    pointwise,
    products,
    reductions,
    selection,
    silent,
    softmax,
    taylor,
    weighted,
)
from fxlrp.rules.presets import PRESETS

__all__ = [
    "PRESETS",
    "attention",
    "linear",
    "norms",
    "pointwise",
    "products",
    "reductions",
    "selection",
    "silent",
    "softmax",
    "taylor",
    "weighted",
]
