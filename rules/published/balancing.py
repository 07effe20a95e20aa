"""LibraGrad: gradients whose branches are pruned and scaled until they account for the output."""

from __future__ import annotations

import torch

from fxlrp.ir.ops import SOFTMAXES
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.attention import value_only
from fxlrp.rules.softmax import stopped

LIBRAGRAD = RuleSet(
    "libragrad",
    "LibraGrad: attention weights, gates of activations and deviations of norms are constants, gated products take "
    "halves (Mehri et al. 2025, code)",
    dict.fromkeys(SOFTMAXES, stopped) | {torch.ops.aten.scaled_dot_product_attention.default: value_only},
)
