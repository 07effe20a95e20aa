"""Pictures of images beside their relevance.

Take images as a model takes them, and relevance or the presets that shall find it. Return figures of matplotlib, which
are shown by notebooks and written by ``figure.savefig``. Red speaks for what is explained, blue against it; zero is
white in every map, and each map says where its colours end.
"""

from fxlrp.vision.pictures import compare, show

__all__ = ["compare", "show"]
