"""Rule sets of single papers, with the rules that only they need.

Takes nothing. Returns presets, which `fxlrp.rules.presets` lists with all others. Where a paper does not give its
formula, the docstring says that it is ours.
"""

from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.published.filtering import FILTERING

PUBLISHED: tuple[RuleSet, ...] = FILTERING
"""Every rule set of this room."""

__all__ = ["PUBLISHED"]
