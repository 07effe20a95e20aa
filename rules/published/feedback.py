"""Layer-wise feedback propagation: a reward in the place of a loss, and weights that follow it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.ir.ops import AFFINE, AVERAGE_POOLS, REDUCTIONS, SUMS
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.weighted import epsilon

LFP = RuleSet(
    "lfp",
    "layer-wise feedback propagation: epsilon on linear ops, sums and average pools, identity on activations; "
    "feedback_of gives the update of weights (Weber et al. 2025)",
    dict.fromkeys((*AFFINE, *SUMS, *REDUCTIONS, *AVERAGE_POOLS), epsilon()),
).optional()


def feedback_of(read: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the feedback of parameters, ``d_ij = |w_ij| a_i r_j / stab(z_j)``, by which they ascend.

    Relevance read at a weight is ``w_ij a_i r_j / stab(z_j)``, so that the feedback is ``sgn(w)`` times it. Zero
    weights get none. Rewards start as coefficients ``r / z`` at the output: of the loss of a softmax,
    ``onehot - softmax(z)``.

    Source: Weber et al. 2025.

    Args:
        read: Relevance of parameters by name, as in ``result.read`` with ``read=("*.weight", "*.bias")``.
        parameters: The parameters by name, as in ``dict(model.named_parameters())``.

    Returns:
        By name, in the shape of the parameter; ``parameter + rate * feedback`` gets more reward.

    Raises:
        SignatureError: If a name is no parameter, or relevance has not its shape.
    """
    for name, relevance in read.items():
        if name not in parameters or parameters[name].shape != relevance.shape:
            known = ", ".join(f"{key} {tuple(p.shape)}" for key, p in parameters.items())
            raise SignatureError(
                f"relevance of {name}, {tuple(relevance.shape)}, is of no parameter; there are {known}. "
                "Read relevance at parameters: fxlrp.compile(model, rules='lfp', read=('*.weight', '*.bias'))."
            )
    return {name: torch.sign(parameters[name].detach()) * relevance for name, relevance in read.items()}
