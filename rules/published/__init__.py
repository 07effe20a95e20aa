"""Rule sets of single papers, with the rules that only they need.

Takes nothing. Returns presets, which `fxlrp.rules.presets` lists with all others. Where a paper does not give its
formula, the docstring says that it is ours.
"""

from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.published.balancing import LIBRAGRAD
from fxlrp.rules.published.chefer import CHEFER
from fxlrp.rules.published.feedback import LFP
from fxlrp.rules.published.filtering import FILTERING
from fxlrp.rules.published.graphs import GNN_LRP
from fxlrp.rules.published.patching import RELP, RELP_AH
from fxlrp.rules.published.positions import PA_LRP
from fxlrp.rules.published.ratios import DYNAMICLRP
from fxlrp.rules.published.recurrent import ARRAS_LSTM, ARRAS_LSTM_SHARED, MAMBA_LRP
from fxlrp.rules.published.residuals import RESLRP

PUBLISHED: tuple[RuleSet, ...] = (
    *FILTERING,
    RELP,
    RELP_AH,
    RESLRP,
    MAMBA_LRP,
    ARRAS_LSTM,
    ARRAS_LSTM_SHARED,
    LFP,
    DYNAMICLRP,
    CHEFER,
    GNN_LRP,
    PA_LRP,
    LIBRAGRAD,
)
"""Every rule set of this room."""

__all__ = ["PUBLISHED"]
