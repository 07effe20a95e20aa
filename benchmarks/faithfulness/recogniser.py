"""PP-OCRv4's reader of lines of text: PP-LCNetV3 and two layers of SVTR, with the weights of a package."""

from __future__ import annotations

from typing import Any

import torch
from tasks import find_file
from torch import Tensor, nn

from fxlrp.optional import require

FILE = (
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
)
"""The recogniser of the package rapidocr-onnxruntime (Apache-2.0), and its SHA-256."""
BLOCKS = (
    *((16, 32, 3, (1, 1), False), (32, 64, 3, (1, 1), False), (64, 64, 3, (1, 1), False)),
    *((64, 128, 3, (2, 1), False), (128, 128, 3, (1, 1), False), (128, 240, 3, (1, 2), False)),
    *(4 * ((240, 240, 5, (1, 1), False),)),
    *((240, 480, 5, (2, 1), True), (480, 480, 5, (1, 1), True)),
    *((480, 480, 5, (2, 1), False), (480, 480, 5, (1, 1), False)),
)
"""Channels given and made, side of the kernel, stride, and whether channels are weighted, of each block."""
CHANNELS, WIDTH, HEADS, CHARACTERS = 480, 120, 8, 6625


class Affine(nn.Module):
    """One factor and one addend for all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.scale + self.shift
        return out


class Excitation(nn.Module):
    """Weights of channels, from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, wide = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), narrow, nn.ReLU(), wide, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.weigh(x)
        return out


class Attention(nn.Module):
    """Attention of the places of a line."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
        dense = nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        self.think = nn.Sequential(nn.LayerNorm(WIDTH), *dense)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        out: Tensor = x + self.think(x)
        return out


class Recogniser(nn.Module):
    """Lines, ``(samples, 3, 48, width)``, to the logits of all characters at each of ``width // 8`` places."""

    def __init__(self) -> None:
        super().__init__()
        parts = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)]
        for given, made, side, stride, weighted in BLOCKS:
            parts += convolve(given, given, side, stride, given)
            parts += [Excitation(given)] if weighted else []
            parts += convolve(given, made, 1, (1, 1), 1)
        self.see = nn.Sequential(*parts)
        self.pool = nn.AvgPool2d((3, 2))
        self.narrow = nn.Sequential(*condense(CHANNELS, CHANNELS // 8, 3), *condense(CHANNELS // 8, WIDTH, 1))
        self.mix = nn.Sequential(Layer(), Layer(), nn.LayerNorm(WIDTH, eps=1e-6))
        self.widen = nn.Sequential(*condense(WIDTH, CHANNELS, 1))
        self.merge = nn.Sequential(*condense(2 * CHANNELS, CHANNELS // 8, 3), *condense(CHANNELS // 8, WIDTH, 1))
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.pool(self.see(x))
        mixed = self.mix(self.narrow(seen).flatten(2).mT).mT.unsqueeze(2)
        merged = self.merge(torch.cat([seen, self.widen(mixed)], 1))
        logits: Tensor = self.head(merged.squeeze(2).mT)
        return logits


def convolve(given: int, made: int, side: int, stride: tuple[int, int], groups: int) -> list[nn.Module]:
    return [nn.Conv2d(given, made, side, stride, side // 2, groups=groups), Affine(), nn.Hardswish(), Affine()]


def condense(given: int, made: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(given, made, (1, side), padding=(0, side // 2), bias=False), nn.BatchNorm2d(made), nn.SiLU()]


def load_recogniser() -> tuple[Recogniser, list[str]]:
    """Load the network, and the characters that its logits are of; the first is none."""
    onnx = require("onnx", "onnx")
    file = onnx.load(find_file(*FILE))
    model = Recogniser()
    own = [value for name, value in model.state_dict().items() if "num_batches_tracked" not in name]
    for mine, given in zip(own, list_weights(file.graph, onnx.numpy_helper.to_array), strict=True):
        mine.copy_((given.T if given.ndim == 2 else given).reshape(mine.shape))
    merge_factors(model.see)
    (names,) = (part.value for part in file.metadata_props if part.key == "character")
    return model.eval().requires_grad_(False), ["", *names.splitlines(), " "]


def list_weights(graph: Any, read: Any) -> list[Tensor]:
    """List the weights in the order in which they are used, without the constants of activations and norms."""
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    found, scaled = [], set()
    for node in graph.node:
        first = node.input[0] if node.input else ""
        if node.op_type == "Mul" and first in constants:  # scales all by one number, which an addend follows
            scaled.update(node.output)
            found.append(first)
        elif node.op_type in ("Conv", "BatchNormalization", "MatMul", "Mul", "Add"):
            given = [name for name in node.input if name in constants]
            found += [name for name in given if first in scaled or max(constants[name].dims, default=1) > 1]
    return [torch.from_numpy(read(constants[name]).copy()) for name in found]


@torch.no_grad()
def merge_factors(layers: nn.Sequential) -> None:
    """Merge what scales the output of a convolution with it, as batch norms are."""
    for i, (layer, after) in enumerate(zip(layers, list(layers)[1:], strict=False)):
        if isinstance(layer, nn.Conv2d) and isinstance(after, Affine):
            layer.weight *= after.scale
            layer.bias.mul_(after.scale).add_(after.shift)
            layers[i + 1] = nn.Identity()
