"""The demonstration on photographs: what does a network that was trained on ImageNet look at?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxlrp.api import compile
from fxlrp.attributor import Attributor
from fxlrp.demos.efficientnet import MEAN, SIDE, STD
from fxlrp.optional import require
from fxlrp.reports.ledger import Ledger
from fxlrp.vision import compare, show

PHOTOGRAPHS = "china.jpg", "flower.jpg"
"""Of scikit-learn."""
CLASSES = {698: "palace", 985: "daisy"}
"""Names of the classes of ImageNet that the network sees there."""


@dataclass(frozen=True)
class ExplainedPhotograph:
    """One explained photograph.

    Attributes:
        name: Of the file.
        predicted: What the network sees.
        probability: Of that class.
        logit: Of that class.
        relevance: Sum of the relevance of all pixels.
    """

    name: str
    predicted: str
    probability: float
    logit: float
    relevance: float


@dataclass(frozen=True)
class PhotographsReport:
    """What the demonstration made."""

    samples: tuple[ExplainedPhotograph, ...]
    attributor: Attributor
    ledger: Ledger
    files: tuple[Path, ...]


def load_photographs() -> Tensor:
    """Load scikit-learn's photographs, their middle squares, as the network takes them."""
    load = require("sklearn.datasets", "demo").load_sample_image
    library = require("PIL.Image", "demo")
    images = [np.asarray(cut_square(library.fromarray(load(name)))) for name in PHOTOGRAPHS]
    values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (values - MEAN) / STD


def cut_square(image: Any) -> Any:
    """Cut out the largest square in the middle of an image, and scale it to the size of the network's images."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), require("PIL.Image", "demo").BICUBIC)


def explain_photographs(model: nn.Module, folder: Path) -> PhotographsReport:
    """Explain what a network sees in each photograph, by the default rules and by several presets."""
    images = load_photographs()
    attributor = compile(model)
    found = attributor(images)
    values, classes = found.output.softmax(1).max(1)
    samples = tuple(
        ExplainedPhotograph(name, CLASSES.get(int(k), f"class {k}"), float(p), float(logits[k]), float(r.sum()))
        for name, k, p, logits, r in zip(PHOTOGRAPHS, classes, values, found.output, found.relevance, strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    names = "photographs.jpg", "presets.jpg", "photographs.json", "photographs-coverage.json"
    files = tuple(folder / name for name in names)
    pictures = (
        show(found, images, mean=MEAN, std=STD, classes=CLASSES),
        compare(model, images, mean=MEAN, std=STD, classes=CLASSES),
    )
    for picture, file in zip(pictures, files[:2], strict=True):
        picture.savefig(file, pil_kwargs={"quality": 85, "subsampling": 0})  # a fifth of a .png, and colours stay
    files[2].write_text(json.dumps([asdict(sample) for sample in samples], indent=2) + "\n")
    files[3].write_text(attributor.coverage().to_json() + "\n")
    return PhotographsReport(samples, attributor, attributor.ledger(images), files)
