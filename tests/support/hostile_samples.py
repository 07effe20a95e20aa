"""Small models of many kinds of ops, saved in every format, for tests that change what was saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp

ENDINGS = {"pt2": ".pt2", "onnx": ".onnx", "aoti": ".pt2"}
"""Ending of files, by format."""


@dataclass(frozen=True)
class Sample:
    """A model with inputs, the target of a call, and the formats that it is saved in.

    Attributes:
        model: Makes it.
        draw: Makes its inputs.
        target: What a call explains.
        kind: The kind of target that it is saved for.
        sizes: Which sizes may change.
        formats: Formats that it is saved in.
    """

    model: Callable[[], nn.Module]
    draw: Callable[[], tuple[Tensor, ...]]
    target: Any = 1
    kind: str = "index"
    sizes: str | None = "auto"
    formats: tuple[str, ...] = ("pt2",)

    def inputs(self) -> tuple[Tensor, ...]:
        """The same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.draw()

    def save(self, path: Path, format: str) -> Path:
        """Write it to a file."""
        torch.manual_seed(0)
        attributor = fxlrp.compile(self.model().eval(), self.inputs(), dynamic_shapes=self.sizes)
        return attributor.save(path, *self.inputs(), format=format, target=self.kind)


class Text(nn.Module):
    """Tokens, attention and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.words(ids)).mean(1))


class Selections(nn.Module):
    """Bags, pools with indices, sorting, scattering and matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, mode="sum")
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_max_pool2d(image, (2, 3)).flatten(1)
        best = torch.topk(pooled, 6, 1).values.sort(1).values
        spread = torch.zeros_like(best).scatter_add(1, ids[:, :6] % 6, best)
        frequencies = torch.fft.rfft(image.flatten(1)[:, :12]).abs()[:, :6]
        return self.head(self.bag(ids) + spread + frequencies.cumsum(1))


def network() -> nn.Module:
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.GELU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 10))


def images() -> tuple[Tensor, ...]:
    return (torch.rand(2, 1, 8, 8),)


def ids() -> tuple[Tensor, ...]:
    return (torch.randint(20, (2, 7)),)


SAMPLES = {
    "images": Sample(network, images, formats=("pt2", "onnx", "aoti")),
    "seeds": Sample(network, images, torch.ones(2, 10), "seed"),
    "text": Sample(Text, ids, formats=("pt2", "onnx")),
    "selections": Sample(Selections, lambda: (*ids(), torch.rand(2, 1, 4, 6)), sizes=None),
}


def save(folder: Path, formats: Sequence[str]) -> None:
    """Save every sample, in a folder for each format."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for format in formats:
        (folder / format).mkdir(parents=True)
        for name, sample in SAMPLES.items():
            if format in sample.formats:
                sample.save(folder / format / f"{name}{ENDINGS[format]}", format)
