"""Graph networks: what nodes give each other, layer by layer."""

from __future__ import annotations

from fxlrp.ir.ops import AFFINE
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.weighted import gamma


def gnn_lrp(first: float = 2.0, rest: float = 1.0) -> RuleSet:
    """Return the preset ``gnn_lrp`` for the gamma of the first dense layer, and that of the rest.

    A graph convolution that sums neighbours before its dense layer has the rule of the paper: of ``z = L h W`` with a
    fixed ``L`` node ``j`` gives ``R_j = sum_k h_j l_jk (w + g w+) R_k / (sum_j h_j l_jk (w + g w+))``. One that sums
    behind the layer shares between neighbours by their messages ``h_j W``, without gamma. The rule is generalised to
    inputs and outputs of both signs, and biases count.

    `fxlrp.circuits.walks.trace_walks` tells the walks apart of which a node's relevance is the sum.

    Source: Schnake et al. 2021, section 4; the numbers are those of Liu et al. 2021 (DIG), the paper gives none.
    """
    return (
        RuleSet(
            "gnn_lrp",
            f"GNN-LRP: gamma {first:g} on the first dense layer and {rest:g} on the others, sums of neighbours by "
            "their shares (Schnake et al. 2021)",
            dict.fromkeys(AFFINE, gamma(rest)),
        )
        .where(gamma(first), ops=AFFINE, position="first")
        .named("gnn_lrp")
        .optional()
    )


GNN_LRP = gnn_lrp()
