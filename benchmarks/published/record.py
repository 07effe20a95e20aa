"""What a published architecture is, and what its builders share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from torchvision_ops import import_torchvision

import_torchvision()

import timm  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()

Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """One published model.

    Attributes:
        name: Checkpoint or configuration.
        family: Kind of architecture.
        build: Makes the model with example inputs; call it under ``torch.device("meta")``.
        paper: Name in the DynamicLRP paper's table of coverage, if it is there.
    """

    name: str
    family: str
    build: Callable[[], Sample]
    paper: str = ""


ARCHITECTURES: dict[str, Architecture] = {}


def published(name: str, family: str, paper: str = "") -> Callable[[Callable[[], Sample]], Callable[[], Sample]]:
    """Register an architecture."""

    def register(build: Callable[[], Sample]) -> Callable[[], Sample]:
        ARCHITECTURES[name] = Architecture(name, family, build, paper)
        return build

    return register


TEXT = 16
"""Tokens in a text."""


BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


def ids(length: int = TEXT) -> Tensor:
    return torch.ones(1, length, dtype=torch.int64)


def text(length: int = TEXT) -> dict[str, Tensor]:
    return {"input_ids": ids(length), "attention_mask": ids(length)}


def pixels(size: int) -> Tensor:
    return torch.zeros(1, 3, size, size)


def hugging_face(kind: str, inputs: dict[str, Any], **sizes: Any) -> Sample:
    """A class of transformers with a configuration."""
    found = getattr(transformers, kind)
    return found(found.config_class(**sizes)), (), inputs


def language(kind: str, length: int = TEXT, **sizes: Any) -> Sample:
    """A decoder of text without its cache."""
    return hugging_face(kind, text(length), use_cache=False, **sizes)


def from_torchvision(path: str, size: int = 224, **options: Any) -> Sample:
    """A classifier of torchvision, without weights."""
    module, _, name = path.rpartition(".")
    place = importlib.import_module(f"torchvision.models{'.' * bool(module)}{module}")
    return getattr(place, name)(weights=None, **options), (pixels(size),), {}


def from_timm(name: str, size: int = 224) -> Sample:
    return timm.create_model(name, pretrained=False), (pixels(size),), {}
