"""Published architectures at their published sizes, without weights: build them on the meta device.

The sizes of transformers' models are those of the ``config.json`` of the checkpoint that names the entry; values
that are the configuration class's own defaults are left out.
"""

from published import plain, sound, text, vision
from published.record import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "plain", "sound", "text", "vision"]
