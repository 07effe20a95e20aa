"""Let torchvision import where its C library does not load.

The registry's torchvision is a CUDA build. Beside a CPU torch its library cannot be loaded, and
`import torchvision` then fails while it registers shape functions for operators that nobody declared.
Declaring those two operators is enough for every model that does not use them.
"""

import importlib
import sys

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision() -> None:
    """Import torchvision, declaring the operators it expects if its own library did not."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
