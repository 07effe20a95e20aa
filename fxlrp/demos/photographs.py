"""The demonstration on photographs: where does a network see a palace, a daisy, a uniform?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxlrp.demos.efficientnet_lite import MEAN, SIDE, STD, load_network
from fxlrp.optional import require
from fxlrp.vision import compare

NAMES = {698: "palace", 985: "daisy", 652: "military uniform"}
"""Of ImageNet's classes, those of the photographs."""


@dataclass(frozen=True)
class PhotographsReport:
    """What the demonstration made.

    Attributes:
        classes: What the network sees, with its probability.
        files: The sheet.
    """

    classes: tuple[tuple[str, float], ...]
    files: tuple[Path, ...]


def load_photographs() -> Tensor:
    """Load a temple and a flower from scikit-learn and a portrait from matplotlib, between 0 and 1."""
    samples = require("sklearn.datasets", "demo").load_sample_images().images
    with require("matplotlib.cbook", "demo").get_sample_data("grace_hopper.jpg") as file:
        portrait = require("matplotlib.image", "demo").imread(file, format="jpg")
    return torch.cat([crop_middle(torch.from_numpy(np.array(image))) for image in (*samples, portrait)])


def crop_middle(image: Tensor) -> Tensor:
    """Crop the middle square of ``(height, width, 3)`` bytes, and make it as large as the network's images."""
    side = min(image.shape[:2])
    top, left = ((size - side) // 2 for size in image.shape[:2])
    square = image[top : top + side, left : left + side].movedim(-1, 0)[None] / 255
    return torch.nn.functional.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)


def explain_photographs(folder: Path) -> PhotographsReport:
    """Explain what the network sees in each photograph, by several rule sets, and draw the sheet."""
    images = (load_photographs() - MEAN) / STD
    model = load_network()
    with torch.no_grad():
        best = model(images).softmax(1).max(1)
    classes = tuple(
        (NAMES.get(index, f"class {index}"), value)
        for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "photographs.jpg"
    captions = [f"{name} ({100 * probability:.0f} %)" for name, probability in classes]
    compare(model, images, target=best.indices.tolist(), mean=MEAN, std=STD, captions=captions, path=path)
    return PhotographsReport(classes, (path,))
