"""Networks whose signal is known, since it was put into their data: does relevance lie where it is?

Weights are learned here, once: they are kept in ``fxlrp`` of the folder of `torch.hub`, each under a digest of all that
it was learned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from image_methods import NOISE, SAMPLES, Classifier, Method, list_methods
from tasks import Task
from torch import Tensor, nn

import fxlrp
from fxlrp.evaluate.localisation import measure_mass, measure_rank

BATCH = 32


@dataclass(frozen=True)
class Known:
    """A classifier with what it has to look at.

    Attributes:
        classifier: The model, and the samples that are explained.
        masks: Where their signal is: boolean, ``(samples, *places)``.
    """

    classifier: Classifier
    masks: Tensor


def judge_by_masks(parts: Sequence[Known], others: Mapping[str, Callable[[Tensor], list[float]]] | None = None) -> Task:
    """Score by the mass of the sizes of relevance that is in the masks, and by their rank besides.

    Sizes are taken, as published (Clark et al. 2024), since absence may speak as well as presence.

    Args:
        parts: Classifiers of one architecture; their samples are judged together.
        others: What else is written down.
    """
    masks = torch.cat([part.masks for part in parts])
    bound = [list_methods(part.classifier, FURTHER) for part in parts]

    def explain(name: str) -> Tensor:
        return torch.cat([sum_channels(methods[name](), masks.ndim).abs() for methods in bound])

    def mass(sizes: Tensor) -> list[float]:
        return measure_mass(sizes, masks).tolist()

    def rank(sizes: Tensor) -> list[float]:
        return measure_rank(sizes, masks).tolist()

    methods = {name: lambda name=name: explain(name) for name in bound[0]}
    return Task("relevance mass in the signal", mass, methods, {"rank": rank, **(others or {})})


def read_coefficients(task: Classifier, copies: int = 1) -> Tensor:
    """Return what relevance is divided by the input, averaged over noisy copies as SmoothGrad is if there are some.

    Like the gradient it tells what an input would count for, not what it did, which is little where it is near 0.
    """
    name = "input:coefficient"
    attributor = fxlrp.compile(task.model, rules="auto", read=name)
    attribute = fxlrp.smooth(attributor, copies, NOISE) if copies > 1 else attributor
    found: Tensor = attribute(task.inputs, target=task.target.tolist()).read[name]
    return found


def smooth_relevance(task: Classifier) -> Tensor:
    attribute = fxlrp.smooth(fxlrp.compile(task.model, rules="auto"), SAMPLES, NOISE)
    found: Tensor = attribute(task.inputs, target=task.target.tolist()).relevance
    return found


FURTHER: dict[str, Method] = {
    "auto smoothed": smooth_relevance,
    "coefficients of auto": read_coefficients,
    "coefficients of auto smoothed": partial(read_coefficients, copies=SAMPLES),
}
"""What can be made of the default rules besides; the models are sequences, whose input has the name ``input``."""


def sum_channels(relevance: Tensor, dimensions: int) -> Tensor:
    return relevance.detach() if relevance.ndim == dimensions else relevance.detach().sum(1)


def learn(
    build: Callable[[], nn.Module],
    inputs: Tensor,
    wanted: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    epochs: int = 30,
    rate: float = 0.003,
) -> nn.Module:
    """Make a model with Adam, at a rate that falls to 0 by a cosine, or read it if it was made before.

    The same arguments give the same weights.
    """
    torch.manual_seed(0)
    model = build()

    def train() -> dict[str, Tensor]:
        steps = -(-len(inputs) // BATCH) * epochs
        optimiser = torch.optim.Adam(model.parameters(), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(epochs):
            for chosen in torch.randperm(len(inputs)).split(BATCH):
                optimiser.zero_grad()
                loss(model(inputs[chosen]), wanted[chosen]).backward()
                optimiser.step()
                schedule.step()
        return model.state_dict()

    file = find_weights(f"{model} {epochs} {rate} {BATCH} {torch.__version__}", inputs, wanted)
    model.load_state_dict(remember(file, train))
    return model.eval()


def remember(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights that a file holds, or make them and write it."""
    if not file.exists():
        weights = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights, file)
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


def find_weights(settings: str, *data: Tensor) -> Path:
    """Return the file that weights learned in this way from these data have."""
    digest = hashlib.sha256(settings.encode())
    for part in data:
        digest.update(part.contiguous().numpy().tobytes())
    return Path(torch.hub.get_dir()) / "fxlrp" / f"{digest.hexdigest()[:16]}.pt"


def choose_correct(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Return the numbers of the samples that a model puts into the right class."""
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in inputs.split(256)]) == classes
    return right.nonzero()[:, 0]


def smoke() -> Task:
    """A small network that finds bright balls in noisy volumes, to try out the script."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(64) % 2
    masks = torch.zeros(64, 8, 8, 8, dtype=torch.bool)
    masks[classes == 1, 2:5, 3:6, 1:4] = True
    images = (masks + 0.1 * torch.randn(masks.shape, generator=generator))[:, None]

    def build() -> nn.Module:
        ends = nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
        return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), *ends)

    model = learn(build, images, classes, epochs=5, rate=0.05)
    chosen = slice(1, 6, 2)
    return judge_by_masks([Known(Classifier.of(model, images[chosen], 2, "2"), masks[chosen])])


TASKS = {"smoke_volumes": smoke}
