"""Lesions planted into a brain: does relevance lie where they are, or at the edges of the brain?

The template of nilearn (ICBM 152 T1, Fonov et al. 2011) at 8 mm, in subjects that differ in what is not to be found:
age thins their grey matter, scanners differ in brightness, and a smooth field and noise are their own. A network learns
whether there is a lesion, a ball of 1.2 to 2.7 voxels that a contrast agent makes brighter; another learns how large
it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from image_methods import Classifier
from known_signals import Known, choose_correct, judge_by_masks, learn
from tasks import Task, find_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate, max_pool3d, pad

SHAPE = (24, 32, 24)
SCALE = 8
SAMPLES, TESTED, EXPLAINED, EPOCHS, RATE = 660, 60, 16, 8, 0.01
LIGHT, THINNING, FIELD, NOISE = 0.7, 0.3, 0.1, 0.03
"""What a lesion adds, what age takes from grey matter at most, and deviations; white matter is about 1."""


@cache
def load_template() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load the image inside the brain, its grey and white matter in parts of a voxel, and where the brain is."""
    t1, grey, white = (load_map(name) for name in ("t1", "gm", "wm"))
    brain = grey + white > 0.2
    return t1 / t1[white > 0.9].mean() * brain, grey, white, brain


def load_map(name: str) -> Tensor:
    import nibabel

    path = find_file(f"nilearn/datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    whole = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    small = avg_pool3d(torch.from_numpy(whole)[None, None], SCALE)[0, 0]
    missing = [side - given for side, given in zip(SHAPE, small.shape, strict=True)]
    return pad(small / (255 if small.max() > 1 else 1), [n for m in reversed(missing) for n in (m // 2, m - m // 2)])


@cache
def draw_subjects(always: bool) -> tuple[Tensor, Tensor]:
    """Draw images ``(samples, 1, *shape)`` and where their lesions are; half have none unless they all do."""
    t1, grey, white, brain = load_template()
    generator = torch.Generator().manual_seed(0)
    centres = (white > 0.6).nonzero()
    axes = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"), -1)
    images, lesions = torch.empty(SAMPLES, 1, *SHAPE), torch.zeros(SAMPLES, *SHAPE, dtype=torch.bool)
    for i in range(SAMPLES):
        age, scanner, size = torch.rand(3, generator=generator).tolist()
        field = interpolate(torch.randn(1, 1, 4, 5, 4, generator=generator), SHAPE, mode="trilinear")[0, 0]
        image = t1 * (1 + FIELD * field) * (1.1 if scanner > 0.5 else 1) - THINNING * age * grey
        centre = centres[torch.randint(len(centres), (), generator=generator)]
        if always or i % 2:
            lesions[i] = ((axes - centre).square().sum(-1) <= (1.2 + 1.5 * size) ** 2) & brain
        noise = NOISE * torch.randn(SHAPE, generator=generator)
        images[i] = (image + LIGHT * lesions[i] + noise) * brain
    return images, lesions


def make_network(outputs: int, pool: nn.Module) -> nn.Module:
    layers: list[nn.Module] = []
    for given, made in ((1, 8), (8, 16), (16, 24)):
        layers += [nn.Conv3d(given, made, 3, padding=1), nn.BatchNorm3d(made), nn.ReLU(), nn.MaxPool3d(2)]
    return nn.Sequential(*layers[:-1], pool, nn.Flatten(), nn.Linear(24, outputs))


LAST = "10"


def find_lesions() -> Task:
    """The network says whether there is a lesion, and those that it finds are explained."""
    images, lesions = draw_subjects(always=False)
    there = lesions.flatten(1).any(1).long()
    model = learn(
        partial(make_network, 2, nn.AdaptiveMaxPool3d(1)), images[TESTED:], there[TESTED:], epochs=EPOCHS, rate=RATE
    )
    right = choose_correct(model, images[:TESTED], there[:TESTED])
    return judge(model, images, lesions, right[there[right] == 1][:EXPLAINED])


def size_lesions() -> Task:
    """The network says how many voxels the lesion has, in thousands."""
    images, lesions = draw_subjects(always=True)
    sizes = lesions.flatten(1).sum(1, keepdim=True) / 1000
    model = learn(
        partial(make_network, 1, nn.AdaptiveAvgPool3d(1)),
        images[TESTED:],
        sizes[TESTED:],
        nn.functional.mse_loss,
        EPOCHS,
    )
    return judge(model, images, lesions, torch.arange(EXPLAINED))


def judge(model: nn.Module, images: Tensor, lesions: Tensor, chosen: Tensor) -> Task:
    """Score by the mass in the lesion; what is outside of the brain and at its edge is written down, too."""
    brain, masks = load_template()[3], lesions[chosen]
    inner = -max_pool3d(-brain.float()[None], 3, 1, 1)[0] > 0
    places = {"outside": (~brain).expand_as(masks), "edge": (brain & ~inner) & ~masks}
    classifier = Classifier.of(model, images[chosen], 4, LAST)
    return judge_by_masks([Known(classifier, masks)], {name: share(mask) for name, mask in places.items()})


def share(mask: Tensor) -> Callable[[Tensor], list[float]]:
    """Return what measures the part of relevance in a mask."""

    def measure(sizes: Tensor) -> list[float]:
        return ((sizes * mask).flatten(1).sum(1) / sizes.flatten(1).sum(1).clamp(min=1e-30)).tolist()

    return measure


TASKS = {"lesions": find_lesions, "lesions_size": size_lesions}
