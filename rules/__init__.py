"""The rules, one module per mathematical kind. Importing this package fills the table.

A rule takes a site (one application of an op) and the coefficient of its output, and returns one coefficient per
operand. It is a pure function of tensors that works for any sizes; presets are rule sets by name, each with the method
that it computes. Every rule has a record and a literal reference in the tests.
"""

from fxlrp.rules import (
    attention,
    linear,
    norms,
    pointwise,
    presets,
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
    "presets",
    "products",
    "reductions",
    "selection",
    "silent",
    "softmax",
    "taylor",
    "weighted",
]
