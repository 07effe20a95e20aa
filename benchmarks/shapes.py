"""Random convolutions and products, as source code: what `geometries.py` judges.

All numbers are small multiples of powers of 2, so that types with 8 bits of mantissa hold them, and sums of products of
them are exact in all others. Decisions, such as that of a ReLU or of a maximum, are then the same in every type.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

KINDS = ("convolutions", "products")
LARGEST = 20_000
"""Entries of an input or of an output at most."""


@dataclass(frozen=True)
class Case:
    """A small network.

    Attributes:
        kind: What it is about.
        layers: Its source code.
        shape: That of its input.
        order: Order of the input in memory; one of `ORDERS`.
    """

    kind: str
    layers: str
    shape: tuple[int, ...]
    order: str

    def model(self) -> nn.Module:
        """The network in float64, the same at every call."""
        model = nn.Sequential(*eval(f"[{self.layers}]", {"nn": nn, "Affine": Affine})).double().eval()
        generator = torch.Generator().manual_seed(zlib.crc32(self.layers.encode()))
        for name, parameter in model.named_parameters():
            drawn = torch.randint(-8, 8, parameter.shape, generator=generator).double()
            odd = (2 * drawn + 1) / 128  # of smaller units than products are, so that no sum with a bias is 0
            parameter.data = odd if name.endswith("bias") else (drawn + (drawn == 0)) / 8
        return model

    def input(self) -> Tensor:
        """Its input in float64, the same at every call."""
        generator = torch.Generator().manual_seed(zlib.crc32(str(self.shape).encode()))
        return ordered(torch.randint(-8, 9, self.shape, generator=generator).double() / 8, self.order)

    def __str__(self) -> str:
        return f"nn.Sequential({self.layers}) on {self.order} of {self.shape}"


def ordered(x: Tensor, order: str) -> Tensor:
    """The input in an order of memory; of an expanded one all samples are the first."""
    if order == "channels last" and x.ndim > 2:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if order == "turned":
        back = range(x.ndim - 1, -1, -1)
        return x.permute(*back).contiguous().permute(*back)
    if order == "every other":
        return torch.stack([x, x + 1], -1).flatten(-2)[..., ::2]
    if order == "behind others":
        return torch.cat([x.new_ones(3), x.flatten()])[3:].view(x.shape)
    if order == "expanded":
        return x[:1].expand(x.shape)
    return x


ORDERS = ("rows", "rows", "channels last", "turned", "every other", "behind others", "expanded")


class Affine(nn.Module):
    """``x @ weight + bias`` by an op of a name, the weight and the bias laid out in some way."""

    def __init__(self, op: str, before: int, behind: int, weight: str = "rows", bias: str = "rows") -> None:
        super().__init__()
        self.op, self.layout, self.behind = op, (weight, bias), behind
        shapes = {"turned": (behind, before), "every other": (before, 2 * behind), "middle": (before + 2, behind)}
        self.weight = nn.Parameter(torch.empty(shapes.get(weight, (before, behind))))
        sizes = {"none": 0, "every other": 2 * behind, "expanded": 1, "middle": behind + 2}
        self.bias = nn.Parameter(torch.empty(sizes.get(bias, behind)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = laid(self.weight, self.layout[0]), laid(self.bias, self.layout[1])
        bias = bias.expand(self.behind) if self.layout[1] == "expanded" else bias
        if self.op == "linear":
            return nn.functional.linear(x, weight.t(), None if self.layout[1] == "none" else bias)
        if self.op == "addmm" and self.layout[1] != "none":
            return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)
        if self.op == "bmm":
            x = torch.bmm(x.reshape(1, -1, x.shape[-1]), weight[None])[0]
        else:
            x = x @ weight if self.op == "matmul" else torch.einsum("...i,ij->...j", x, weight)
        return x if self.layout[1] == "none" else x + bias


def laid(x: Tensor, layout: str) -> Tensor:
    """A view of a parameter."""
    views = {"turned": lambda: x.t(), "every other": lambda: x[..., ::2], "middle": lambda: x[1:-1]}
    return views.get(layout, lambda: x)()


def case(seed: int, kind: str, index: int) -> Case:
    """One of the cases of a seed."""
    chance = random.Random(f"{seed}/{kind}/{index}")
    while True:
        layers, shape = (convolution if kind == "convolutions" else product)(chance)
        found = Case(kind, layers, shape, chance.choice(ORDERS))
        try:
            entries = found.model().to("meta")(torch.empty(shape, dtype=torch.float64, device="meta")).numel()
            if 0 < entries <= LARGEST and 0 < torch.Size(shape).numel() <= LARGEST:
                found.model()(found.input())
                return found
        except (RuntimeError, ValueError):
            continue  # no convolution


def convolution(chance: random.Random) -> tuple[str, tuple[int, ...]]:
    """A convolution, and what comes before and behind it."""
    pick = chance.choice
    dims, same = pick((1, 2, 2, 2, 2, 3)), chance.random() < 0.5

    def sides(*values: int) -> tuple[int, ...]:
        return (pick(values),) * dims if same else tuple(pick(values) for _ in range(dims))

    groups = pick((1, 1, 1, 1, 2, 3, 8))
    before, behind = (groups * pick((1, 1, 2, 3, 4, 8, 16, 17)) for _ in range(2))
    size, stride, dilation = sides(1, 1, 2, 3, 3, 4, 5, 7), sides(1, 1, 1, 2, 2, 3, 4), sides(1, 1, 1, 1, 2, 3)
    padding: object = sides(0, 0, 0, 1, 1, 2, 3, 5)
    image = sides(1, 2, 3, 4, 5, 7, 8, 9, 14, 20, 28) if dims < 3 else sides(1, 2, 3, 5, 8)
    options = f"stride={stride}, padding={padding}, dilation={dilation}"
    name, more = f"nn.Conv{dims}d", ""
    if chance.random() < 0.25:
        name, more = f"nn.ConvTranspose{dims}d", f", output_padding={sides(0, 0, 1, 2)}"
    elif chance.random() < 0.15:
        options = f"padding={pick(('same', 'valid'))!r}, dilation={dilation}"
    followers = ("", "", "view", "relu", "norm", "norm of a view", "twice", "pool")
    behind_it = pick(followers if dims < 3 else followers[:-1])  # torch has no average of volumes in bfloat16
    bias = chance.random() < 0.6 or behind_it in ("relu", "twice")
    own = f"{name}({before}, {behind}, {size}, {options}, groups={groups}, bias={bias}{more})"
    pooled = chance.random() < 0.1
    layers = [f"nn.MaxPool{dims}d(2)", own] if pooled else [own]
    norm = f"nn.GroupNorm({pick([n for n in (1, 2, 4, behind) if behind % n == 0])}, {behind}), nn.SiLU()"
    layers += {
        "": [],
        "view": [f"nn.Unflatten(1, (1, {behind}))"],
        "relu": ["nn.ReLU()"],
        "norm": [norm],
        "norm of a view": ["nn.Flatten(2)", norm],
        "pool": [f"nn.AvgPool{dims}d(2, 1)"],
        "twice": ["nn.ReLU()", f"nn.Conv{dims}d({behind}, {pick((1, 2, 5, 8))}, {pick((1, 2, 3))}, padding=1)"],
    }[behind_it]
    return ", ".join(layers), (pick((1, 1, 2, 3)), before, *image)


def product(chance: random.Random) -> tuple[str, tuple[int, ...]]:
    """A product with a weight, or two in a row."""
    pick = chance.choice
    sizes = [pick((1, 1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33, 64, 65)) for _ in range(3)]
    twice = chance.random() < 0.3
    layers = []
    for before, behind in pairwise(sizes if twice else sizes[:2]):
        if chance.random() < 0.3:
            layers.append(f"nn.Linear({before}, {behind})")
        else:
            op = pick(("linear", "addmm", "matmul", "bmm", "einsum"))
            weight = pick(("rows", "turned", "every other", "middle"))
            bias = pick(("none", "rows", "every other", "expanded", "middle"))
            layers.append(f"Affine({op!r}, {before}, {behind}, {weight!r}, {bias!r})")
    if twice:
        layers.insert(1, "nn.Tanh()")
    rows = pick(((), (1,), (2,), (3,), (7,), (16,), (33,), (1, 1), (2, 5), (1, 9), (3, 1), (2, 3, 4)))
    return ", ".join(layers), (*rows, sizes[0])
