"""The rule set that serves each part of a model as measurements say; it is the default."""

from __future__ import annotations

import torch

from fxlrp.ir.ops import CONVOLUTIONS
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.linear import affine
from fxlrp.rules.published.residuals import is_residual_addition, residual_gamma
from fxlrp.rules.regions import find_attention_layers, find_image_region, find_word_region
from fxlrp.rules.weighted import gamma

aten = torch.ops.aten

AUTO = (
    RuleSet("auto", "AttnLRP, with gamma where images are seen and bounded residual additions where words are read")
    .where(
        residual_gamma(1.0),
        ops=aten.add.Tensor,
        predicate=is_residual_addition,
        region=find_word_region,
        reason="residual additions behind embeddings: two large terms that cancel would blow relevance up",
    )
    .where(
        gamma(0.05),
        ops=aten.linear.default,
        region=find_image_region,
        reason="dense layers behind image convolutions: without gamma, relevance of both signs adds up to noise",
    )
    .where(affine, ops=aten.linear.default, region=find_attention_layers)
    .where(affine, ops=aten.linear.default, position="last")
    .where(
        gamma(0.1),
        ops=CONVOLUTIONS,
        region=find_image_region,
        reason="convolutions over images: without gamma, relevance of both signs adds up to speckle",
    )
    .named("auto")
    .optional()
)
"""Every row is the best of what was tried on the models of its kind in benchmarks/faithfulness."""
