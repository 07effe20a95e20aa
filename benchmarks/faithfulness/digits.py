"""Small networks on MNIST: does the logit hang on the patches that an explanation names?"""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from image_methods import Classifier
from known_signals import choose_correct, learn
from photographs import judge_by_flipping
from tasks import Task, find_file
from torch import Tensor, nn

SIDE, PATCH, PER_STEP, EXPLAINED, LEARNED, TESTED = 28, 4, 3, 24, 10_000, 500
DIGEST = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


class ArraysOnly(pickle.Unpickler):
    """Read arrays, and refuse everything else that a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return np._core.multiarray._reconstruct if name == "_reconstruct" else getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")


@cache
def load_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load images in -1 to 1 with their classes, to learn from and to test with."""
    with gzip.open(find_file("mnist/data/mnist.pkl.gz", DIGEST)) as file:
        (images, classes), _, (tests, answers) = ArraysOnly(file, encoding="latin1").load()
    images, classes, tests, answers = map(torch.from_numpy, (images, classes, tests, answers))
    return shape_images(images[:LEARNED]), classes[:LEARNED], shape_images(tests[:TESTED]), answers[:TESTED]


def shape_images(rows: Tensor) -> Tensor:
    return rows.float().reshape(-1, 1, SIDE, SIDE) * 2 - 1


def make_vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for given, made in ((1, 12), (12, 24), (24, 32)):
        layers += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU(), nn.Conv2d(made, made, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 9, 64), nn.ReLU(), nn.Linear(64, 10))


class Residual(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        first = (nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())
        self.body = nn.Sequential(*first, nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made))
        self.around = nn.Sequential(nn.Conv2d(given, made, 1, stride, bias=False), nn.BatchNorm2d(made))
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(x) + self.around(x))
        return out


def make_resnet() -> nn.Module:
    stem = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()
    blocks = Residual(12, 12, 1), Residual(12, 24, 2), Residual(24, 48, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def make_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(SIDE, PATCH, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2.0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str | None, int, float]] = {
    "vgg": (make_vgg, "13", 2, 0.002),
    "resnet": (make_resnet, "5", 2, 0.004),
    "vit": (make_vit, None, 6, 0.002),
}
"""Networks, the layer that GradCAM reads, epochs and rate of learning."""


def read_digits(name: str) -> Task:
    """24 digits that the network reads right: patches of 4 pixels, three a step."""
    build, last, epochs, rate = NETWORKS[name]
    images, classes, tests, answers = load_digits()
    model = learn(build, images, classes, epochs=epochs, rate=rate)
    chosen = choose_correct(model, tests, answers)[:EXPLAINED]
    return judge_by_flipping(Classifier.of(model, tests[chosen], PATCH, last), PER_STEP)


TASKS = {f"digits_{name}": partial(read_digits, name) for name in NETWORKS}
