"""The demonstration on images: why does a network read this digit?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fxlrp.api import compile
from fxlrp.attributor import Attributor
from fxlrp.optional import require
from fxlrp.rules.presets import epsilon_gamma_box
from fxlrp.vision.images import restore_images, sum_channels
from fxlrp.vision.sheet import Sheet, draw_sheet

HELD_OUT = 360
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images of digits with values in [0, 1], and their labels."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class ExplainedDigit:
    """One explained digit.

    Attributes:
        label: The digit.
        predicted: What the network reads.
        probability: Of the predicted digit.
        logit: Of the predicted digit.
        relevance: Sum of the AttnLRP relevance of all pixels.
        biases: What the biases add to the logit, by autograd: the sum of bias times gradient.
        box: Sum of the relevance of all pixels under epsilon_gamma_box.
    """

    label: int
    predicted: int
    probability: float
    logit: float
    relevance: float
    biases: float
    box: float


@dataclass(frozen=True)
class DigitsReport:
    """What the demonstration made."""

    accuracy: float
    samples: tuple[ExplainedDigit, ...]
    attributor: Attributor
    files: tuple[Path, ...]


def load_digits(seed: int) -> Digits:
    """Load scikit-learn's 1797 handwritten digits of 8 x 8 pixels, and split them by class."""
    digits = require("sklearn.datasets", "demo").load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    split = require("sklearn.model_selection", "demo").train_test_split
    train, test = split(range(len(labels)), test_size=HELD_OUT, random_state=seed, stratify=digits.target)
    return Digits(images[train], labels[train], images[test], labels[test])


def make_network() -> nn.Sequential:
    """Make three convolutions and a dense layer, all with biases."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train_network(data: Digits, seed: int, epochs: int, step: Callable[[], object]) -> nn.Sequential:
    """Train a network; ``step`` is called after each epoch."""
    with use_one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = make_network()
        batches = -(-len(data.labels) // BATCH)
        optimizer = torch.optim.AdamW(model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * batches)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(data.labels)), BATCH):
                loss = F.cross_entropy(model(data.images[batch]), data.labels[batch], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            step()
    return model.eval()


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Use one thread: small tensors gain nothing from more, and sums are then the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def explain_digits(model: nn.Sequential, data: Digits, folder: Path) -> DigitsReport:
    """Explain the first test image of every digit and write what was found."""
    with torch.no_grad():
        accuracy = (model(data.test_images).argmax(1) == data.test_labels).double().mean().item()
    first = [int((data.test_labels == digit).nonzero()[0]) for digit in range(10)]
    images, labels = data.test_images[first], data.test_labels[first]
    attributor = compile(model, rules="attnlrp")
    found = attributor(images)
    chosen, box = (compile(model, rules=rules)(images) for rules in ("auto", epsilon_gamma_box(0.0, 1.0)))
    samples = tuple(
        ExplainedDigit(
            int(label), int(logits.argmax()), float(logits.softmax(0).max()), float(logits.max()), *map(float, sums)
        )
        for label, logits, *sums in zip(
            labels,
            found.output,
            found.relevance.flatten(1).sum(1),
            compute_bias_shares(model, images),
            box.relevance.flatten(1).sum(1),
            strict=True,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / name for name in ("digits.png", "digits.json", "digits-coverage.json"))
    maps = [sum_channels(result.relevance, len(images)) for result in (chosen, found, box)]
    sheet = Sheet(
        restore_images(1 - images, 0, 1),  # dark on light, as on paper
        np.concatenate(maps, 1),
        ["auto", "AttnLRP", "epsilon,\ngamma, box"],
        [f"{s.predicted} ({100 * s.probability:.1f} %)" for s in samples],
        under=True,
    )
    draw_sheet(sheet, "Why the network reads each digit: red pixels speak for it, blue ones against").savefig(files[0])
    numbers = {"accuracy": accuracy, "samples": [asdict(sample) for sample in samples]}
    files[1].write_text(json.dumps(numbers, indent=2) + "\n")
    files[2].write_text(attributor.coverage().to_json() + "\n")
    return DigitsReport(accuracy, samples, attributor, files)


def compute_bias_shares(model: nn.Module, images: Tensor) -> list[float]:
    """Compute what the biases add to the largest logit of each image: bias times gradient, summed."""
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    with torch.enable_grad():
        gradients = [torch.autograd.grad(logit, biases, retain_graph=True) for logit in model(images).amax(1)]
    return [sum(float((b.detach() * g).sum()) for b, g in zip(biases, gs, strict=True)) for gs in gradients]
