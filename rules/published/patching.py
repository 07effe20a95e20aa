"""RelP: coefficients in place of gradients for attribution patching."""

from __future__ import annotations

import torch

from fxlrp.ir.ops import SOFTMAXES
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.attention import value_only
from fxlrp.rules.softmax import stopped
from fxlrp.rules.taylor import adjoint

aten = torch.ops.aten

ATTENTION = dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.scaled_dot_product_attention.default), adjoint)
"""Both factors of a product of attention get all of its coefficient, so that the sum over inputs is no account."""

RELP = RuleSet(
    "relp",
    "RelP for patching scores: half-rule for gates, identity for activations, norms held, the plain gradient through "
    "attention, which does not conserve (Rezaei Jafari et al. 2025)",
    ATTENTION,
)
RELP_AH = RuleSet(
    "relp_ah",
    "RelP with the AH-rule: attention weights are constants too (Rezaei Jafari et al. 2025; Ali et al. 2022)",
    ATTENTION | dict.fromkeys(SOFTMAXES, stopped) | {aten.scaled_dot_product_attention.default: value_only},
)
