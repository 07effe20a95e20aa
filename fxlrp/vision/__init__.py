"""Pictures of what a model saw: photographs beside their relevance, one rule set or several.

Takes results or models, and the images as the model got them. Returns figures of matplotlib, and writes them where a
path is given. Colours are of each map by itself, red for and blue against, white for zero.
"""

from fxlrp.vision.pictures import compare, show

__all__ = ["compare", "show"]
