"""Tetrominoes in noise (XAI-TRIS, Clark et al. 2024): is what separates the classes found?

Images of 8 x 8 pixels show a T or an L, in four ways: added at a place of its own (linear), as a factor of the noise
(multiplicative), anywhere and turned (rigid), or both at once with signs whose product is the class (xor). The noise is
white, or smoothed so that it is correlated. Where shapes have their places, the absence of one tells the class as well
as the presence of the other, so that the truth has the pixels of both.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from image_methods import Classifier
from known_signals import Known, choose_correct, judge_by_masks, learn
from scipy.ndimage import gaussian_filter
from tasks import Task
from torch import nn

from fxlrp.errors import FxlrpError

SIDE, SAMPLES, TESTED, EXPLAINED = 8, 10_000, 1_000, 32
LEAST = 0.8
"""Part of right answers that a model has at least, as published."""
SHAPES = (np.array([[1, 0], [1, 1], [1, 0]]), np.array([[1, 0], [1, 0], [1, 1]]))
"""T and L."""
PLACES = ((1, 1), (4, 5))
SIGNALS = {
    "linear": (0.18, 0.0125),
    "multiplicative": (0.7, 0.1),
    "rigid": (0.65, 0.2),
    "xor": (0.35, 0.15),
}
"""Parts that the signal has, in white and in correlated noise, as published for 8 x 8 pixels."""
SMOOTH = 3.0
"""Deviation in pixels of the filter of correlated noise."""


def draw_shapes(scenario: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the shapes alone, ``(samples, side, side)``, and the classes."""
    classes = generator.integers(0, 2, SAMPLES)
    images = np.zeros((SAMPLES, SIDE, SIDE))
    for image, k in zip(images, classes, strict=True):
        if scenario == "rigid":
            shape = np.rot90(SHAPES[k], generator.integers(4))
            paste(image, shape, [generator.integers(SIDE - size + 1) for size in shape.shape])
        elif scenario == "xor":
            sign = generator.choice((-1, 1))
            for shape, place, side in zip(SHAPES, PLACES, (sign, sign if k == 0 else -sign), strict=True):
                paste(image, side * shape, place)
        else:
            paste(image, SHAPES[k], PLACES[k])
    return images, classes


def paste(image: np.ndarray, shape: np.ndarray, place: tuple[int, int] | list[int]) -> None:
    (y, x), (height, width) = place, shape.shape
    image[y : y + height, x : x + width] += shape


def add_noise(scenario: str, shapes: np.ndarray, smooth: bool, generator: np.random.Generator) -> np.ndarray:
    noise = generator.normal(0, 0.5**0.5, shapes.shape)
    if smooth:
        noise = gaussian_filter(noise, (0, SMOOTH, SMOOTH))
    noise /= np.linalg.norm(noise)
    part = SIGNALS[scenario][smooth]
    if scenario == "multiplicative":
        images = (1 - part * shapes) * noise
    else:
        images = part * shapes / np.linalg.norm(shapes) + (1 - part) * noise
    return images / images.std()


def make_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 2, bias=False))


def make_mlp() -> nn.Module:
    layers = (nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(8, 2))


def make_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (1, 8, 8, 8):
        layers += [nn.Conv2d(channels, 8, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))
    for layer in (*model[:12:3], model[-1]):
        nn.init.kaiming_normal_(layer.weight)
    return model


MODELS = {"linear": (make_linear, None), "mlp": (make_mlp, None), "cnn": (make_cnn, "10")}
"""As published, without the softmax, and with twice the channels; and the layer that GradCAM reads."""


def place_shapes(scenario: str, kind: str) -> Task:
    """Images in white noise, and as many in correlated noise, each with a model of its own that has learned them."""
    build, last = MODELS[kind]
    parts = []
    for smooth in (False, True):
        generator = np.random.default_rng(0)
        shapes, classes = draw_shapes(scenario, generator)
        images = torch.from_numpy(add_noise(scenario, shapes, smooth, generator)).float()[:, None]
        wanted, shown = torch.from_numpy(classes), torch.from_numpy(shapes != 0)
        masks = shown if scenario == "rigid" else shown.any(0).expand_as(shown)
        model = learn(build, images[TESTED:], wanted[TESTED:], epochs=10)
        right = choose_correct(model, images[:TESTED], wanted[:TESTED])
        if len(right) < LEAST * TESTED:
            continue
        chosen = right[:EXPLAINED]
        parts.append(Known(Classifier.of(model, images[chosen], 2, last), masks[chosen]))
    if not parts:
        raise FxlrpError(f"no {kind} learned what is {scenario}: fewer than {LEAST:.0%} of its answers are right")
    return judge_by_masks(parts)


KINDS = {scenario: ("linear", "mlp", "cnn") if scenario == "linear" else ("mlp", "cnn") for scenario in SIGNALS}
TASKS = {
    f"tetrominoes_{scenario}_{kind}": partial(place_shapes, scenario, kind)
    for scenario, kinds in KINDS.items()
    for kind in kinds
}
