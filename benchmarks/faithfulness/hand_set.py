"""Networks whose weights are set by hand, so that the contribution of every pixel is known (Zhang et al. 2023).

Images have blots of pure colours in several strengths, and the networks add up what is red. The score is the cosine of
an explanation with the true contributions, sample by sample: 1 is said only of what is right up to a factor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from image_methods import Classifier, list_methods
from known_signals import sum_channels
from tasks import Task
from torch import Tensor, nn

from fxlrp.evaluate.localisation import measure_mass, measure_rank

SIDE, SAMPLES, BLOT, REACH = 16, 16, 2, 4
COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
DIM = 0.5
"""Strength of colours at least: what is darker was never seen."""


def draw_blots() -> Tensor:
    """Draw images of squares of two pixels, ``(samples, 3, side, side)``, each of one colour and strength."""
    generator = torch.Generator().manual_seed(0)
    size = (SAMPLES, SIDE // BLOT, SIDE // BLOT)
    colours = COLOURS[torch.randint(len(COLOURS), size, generator=generator)].permute(0, 3, 1, 2)
    strengths = DIM + (1 - DIM) * torch.rand(size, generator=generator)[:, None]
    return (colours * strengths).repeat_interleave(BLOT, 2).repeat_interleave(BLOT, 3)


def add_up(weights: Tensor, biases: list[float], parts: list[float]) -> nn.Module:
    """Average what units see of one pixel or its surroundings, first over ``REACH`` x ``REACH`` pixels, then over all.

    Args:
        weights: Of the units: ``(units, 3)``, or ``(units, 3, 3, 3)`` for surroundings.
        biases: Of the units.
        parts: What each unit counts.
    """
    units, reach = len(parts), 3 if weights.ndim == 4 else 1
    see = nn.Conv2d(3, units, reach, padding=reach // 2)
    gather = nn.Conv2d(units, 1, REACH, stride=REACH, bias=False)
    see.weight.data, see.bias.data = weights.reshape(units, 3, reach, reach).clone(), torch.tensor(biases)
    gather.weight.data = torch.tensor(parts)[None, :, None, None].expand(1, units, REACH, REACH) / REACH**2
    return nn.Sequential(see, nn.ReLU(), gather, nn.AvgPool2d(SIDE // REACH), nn.Flatten())


RED, BLUE = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])


def add_red() -> nn.Module:
    """Red pixels count as much as they are red, and no others: all that is seen adds to the answer."""
    return add_up(torch.stack([RED]), [0.0], [1.0])


def add_red_less_blue() -> nn.Module:
    """Blue pixels count against red ones."""
    return add_up(torch.stack([RED, BLUE]), [0.0, 0.0], [1.0, -1.0])


def add_with_redundancy() -> nn.Module:
    """Whatever is not red is seen twice, by units that cancel exactly."""
    return add_up(torch.stack([RED, torch.ones(3), torch.ones(3)]), [0.0] * 3, [1.0, 1.0, -1.0])


def add_with_cancelled_surroundings() -> nn.Module:
    """Surroundings are added to what is red, and taken away again."""
    around = torch.full((3, 3, 3), 1 / 9)
    centre = torch.zeros(3, 3, 3)
    centre[:, 1, 1] = torch.tensor([1.0, 0, 0])
    return add_up(torch.stack([centre + around, around]), [0.0, 0.0], [1.0, -1.0])


def add_with_unseen() -> nn.Module:
    """What is darker than any pixel ever seen would count ten times, which says nothing of images without it."""
    return add_up(torch.stack([RED, -torch.ones(3)]), [0.0, DIM], [1.0, -10.0])


def count_alone(images: Tensor) -> Tensor:
    return (images * RED[:, None, None]).sum(1).relu()


def count_difference(images: Tensor) -> Tensor:
    return count_alone(images) - (images * BLUE[:, None, None]).sum(1).relu()


def count_red(images: Tensor) -> Tensor:
    return images[:, 0]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "sum": (add_red, count_alone),
    "difference": (add_red_less_blue, count_difference),
    "redundant": (add_with_redundancy, count_alone),
    "surroundings": (add_with_cancelled_surroundings, count_red),
    "unseen": (add_with_unseen, count_alone),
}
"""Networks, and what every pixel contributes to the average that they answer."""


def compare_with_truth(name: str) -> Task:
    build, contribute = NETWORKS[name]
    images = draw_blots()
    classifier = Classifier.of(build(), images, BLOT, "1")
    truth = contribute(images)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(images)[:, 0], truth.mean((1, 2)), rtol=1e-5, atol=1e-5)
    masks = truth != 0

    def cosine(relevance: Tensor) -> list[float]:
        rows = sum_channels(relevance, 3).flatten(1)
        return nn.functional.cosine_similarity(rows, truth.flatten(1)).tolist()

    def mass(relevance: Tensor) -> list[float]:
        return measure_mass(sum_channels(relevance, 3).abs(), masks).tolist()

    def rank(relevance: Tensor) -> list[float]:
        return measure_rank(sum_channels(relevance, 3).abs(), masks).tolist()

    return Task("cosine with the truth", cosine, list_methods(classifier), {"mass": mass, "rank": rank})


TASKS = {f"hand_set_{name}": partial(compare_with_truth, name) for name in NETWORKS}
