"""How many bits each layer gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fxlrp.errors import SignatureError
from fxlrp.optional import require


def allocate_bits(
    importance: Sequence[float], sensitivity: Mapping[int, Sequence[float]], sizes: Sequence[int], average: float
) -> tuple[int, ...]:
    """Give each layer a number of bits, so that what is lost is least and the mean number of bits is kept.

    Minimises ``sum_l importance_l * sensitivity_l(b_l)`` with ``sum_l sizes_l * b_l <= average * sum_l sizes_l``, by
    integer programming. The objective is ours: LRP-QViT (Ranjan and Savakis 2024) does not give its own.

    Args:
        importance: Of each layer, such as the mean absolute relevance of its output.
        sensitivity: What is lost if one layer alone has so many bits, by number of bits and layer.
        sizes: Weights of each layer.
        average: Mean number of bits of a weight.

    Raises:
        SignatureError: If there is not one of each per layer, one is not finite, or the fewest bits are too many.
        FxlrpError: If scipy is not installed.
    """
    choices = sorted(sensitivity)
    if not choices or any(len(sensitivity[b]) != len(sizes) for b in choices) or len(sizes) != len(importance):
        raise SignatureError("importance, sizes, and sensitivity for each number of bits need one number per layer")
    losses = np.array([[w * sensitivity[b][i] for b in choices] for i, w in enumerate(importance)], dtype=float)
    if not np.isfinite(losses).all():
        raise SignatureError("importance times sensitivity is not finite for some layer")
    if average < choices[0]:
        raise SignatureError(f"a mean of {average:g} bits is less than the fewest there are, {choices[0]}")
    optimize = require("scipy.optimize", "compression")
    cost = np.outer(sizes, choices).ravel() / sum(sizes)
    one_each = np.kron(np.eye(len(sizes)), np.ones(len(choices)))
    found = optimize.milp(
        losses.ravel(),
        constraints=[
            optimize.LinearConstraint(cost[None], ub=average + 1e-9),
            optimize.LinearConstraint(one_each, 1, 1),
        ],
        integrality=1,
        bounds=(0, 1),
    )
    return tuple(choices[i] for i in found.x.reshape(losses.shape).argmax(1))
