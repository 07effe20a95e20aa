"""Published rule sets by name."""

from __future__ import annotations

import torch

from fxlrp._torch import OpOverload
from fxlrp.ir.ops import AVERAGE_POOLS, CONVOLUTIONS, REDUCTIONS, SUMS
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.attention import value_only
from fxlrp.rules.auto import AUTO
from fxlrp.rules.linear import affine
from fxlrp.rules.products import signal_takes_all
from fxlrp.rules.published import PUBLISHED
from fxlrp.rules.softmax import stopped
from fxlrp.rules.taylor import adjoint
from fxlrp.rules.weighted import alpha_beta, epsilon, flat, gamma, z_box, z_plus
from fxlrp.rules.weights import Bounds

aten = torch.ops.aten

LINEAR = (aten.linear.default,)


def map_layers(convolution: Rule) -> dict[OpOverload, Rule]:
    """Map layers as zennit does: one rule for convolutions, epsilon for dense layers, sums and average pools."""
    return dict.fromkeys(CONVOLUTIONS, convolution) | dict.fromkeys(
        (*LINEAR, *SUMS, *REDUCTIONS, *AVERAGE_POOLS), epsilon()
    )


_PLUS = map_layers(z_plus())
_ALPHA_BETA = map_layers(alpha_beta(2.0, 1.0))
_ZENNIT = "zennit's composite of that name, batch norm merged"

PRESETS: dict[str, RuleSet] = {
    preset.name: preset.optional()
    for preset in (
        AUTO,
        RuleSet(
            "attnlrp",
            "AttnLRP for transformers and everything else (Achtibat et al. 2024); binary products as published",
        ),
        RuleSet(
            "attnlrp_gamma",
            "AttnLRP for vision transformers: gamma 0.25 on convolutions, 0.05 on dense layers outside attention "
            "(Achtibat et al. 2024, B.5)",
            dict.fromkeys(CONVOLUTIONS, gamma(0.25)) | dict.fromkeys(LINEAR, gamma(0.05)),
        )
        .where(affine, ops=LINEAR, module="*att*")
        .where(affine, ops=LINEAR, position="last")
        .named("attnlrp_gamma"),
        RuleSet(
            "cp_lrp",
            "CP-LRP: attention weights and activated gates are constants (Ali et al. 2022)",
            {
                aten.softmax.int: stopped,
                aten._softmax.default: stopped,
                aten.scaled_dot_product_attention.default: value_only,
                aten.mul.Tensor: signal_takes_all,
            },
        ),
        RuleSet("epsilon", "LRP-epsilon for all linear ops (Bach et al. 2015)", map_layers(epsilon())),
        RuleSet("epsilon_plus", f"z+ on convolutions, epsilon on dense layers: {_ZENNIT}", _PLUS),
        RuleSet("epsilon_plus_flat", f"epsilon_plus with the flat rule on the first layer: {_ZENNIT}", _PLUS)
        .where(flat(), ops=(*CONVOLUTIONS, *LINEAR), position="first")
        .named("epsilon_plus_flat"),
        RuleSet(
            "epsilon_alpha2_beta1",
            f"alpha-beta on convolutions, epsilon on dense layers: {_ZENNIT}",
            _ALPHA_BETA,
        ),
        RuleSet(
            "epsilon_alpha2_beta1_flat",
            f"epsilon_alpha2_beta1 with the flat rule on the first layer: {_ZENNIT}",
            _ALPHA_BETA,
        )
        .where(flat(), ops=(*CONVOLUTIONS, *LINEAR), position="first")
        .named("epsilon_alpha2_beta1_flat"),
        RuleSet(
            "epsilon_gamma_box",
            f"z-box for inputs in [-3, 3] first, gamma 0.25 on convolutions, epsilon on dense layers: {_ZENNIT}",
            map_layers(gamma(0.25)),
        )
        .where(z_box(-3.0, 3.0), ops=CONVOLUTIONS, position="first")
        .named("epsilon_gamma_box"),
        RuleSet(
            "gradient",
            "every rule is the adjoint: input x gradient, the oracle of the tests",
            default=adjoint,
            freeze=False,
        ),
        *PUBLISHED,
    )
}
"""Every preset by name."""


def epsilon_gamma_box(low: Bounds, high: Bounds) -> RuleSet:
    """Return the preset ``epsilon_gamma_box`` for inputs in ``[low, high]``, as `z_box` takes them."""
    box = z_box(low, high)
    return (
        PRESETS["epsilon_gamma_box"]
        .where(box, ops=CONVOLUTIONS, position="first")
        .named(f"epsilon_gamma_box{box.name.removeprefix('z_box')}")
        .optional()
    )
