"""What the default chooses for which part of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

import fxlrp
from fxlrp.rules.weighted import flat

aten = torch.ops.aten

FIRST, GAMMA, BOUNDED = "z_plus", "gamma(0.1)", "residual_gamma(1)"


class Block(nn.Module):
    """A block of a transformer in front of whose branches there are norms; attention is fused or written out."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixes, self.joins = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.grows, self.shrinks = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mixes(self.first(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.joins(y.transpose(1, 2).flatten(2))
        return x + self.shrinks(functional.gelu(self.grows(self.second(x))))


class Patches(nn.Module):
    """Patches of an image with the embeddings of their places, which integers of the model choose."""

    def __init__(self, width: int, fused: bool = True) -> None:
        super().__init__()
        self.cut, self.places, self.block = nn.Conv2d(3, width, 4, 4), nn.Embedding(4, width), Block(width, fused)
        self.register_buffer("numbers", torch.arange(4))

    def forward(self, image: Tensor) -> Tensor:
        return self.block(self.cut(image).flatten(2).transpose(1, 2) + self.places(self.numbers))


class Images(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.see, self.head = Patches(8, fused), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.see(image).mean(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.block, self.head = nn.Embedding(11, 8), Block(8, True), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.words(ids))[:, -1])


class Both(nn.Module):
    """Words behind the patches of an image, in one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.project = Patches(8), nn.Linear(8, 8)
        self.words, self.block, self.head = nn.Embedding(11, 8), Block(8, True), nn.Linear(8, 3)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        return self.head(self.block(torch.cat([self.project(self.see(image)), self.words(ids)], 1))[:, -1])


class Neighbours(nn.Module):
    """Rows of the input that integers of the input choose are no words."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(8, True), nn.Linear(8, 3)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        return self.head(self.block(features[:, edges])[:, 0])


class Filtered(nn.Module):
    """A filter that depends on the input has no rule but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(3, 27, 8)

    def forward(self, image: Tensor) -> Tensor:
        return functional.conv2d(image, self.make(image).view(3, 3, 3, 1)).flatten(1)


def cnn(dims: int) -> nn.Module:
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    layers = convolution(3, 4, 3), nn.ReLU(), convolution(4, 4, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * 4**dims, 6), nn.ReLU(), nn.Linear(6, 3))


IDS, IMAGE = torch.tensor([[1, 5, 7]]), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def count_rules(model: nn.Module, args: Sequence[Tensor], rules: Any = "auto") -> Counter[str]:
    """Count the rules of linear ops and of those additions that are not served as all sums are."""
    rows = fxlrp.compile(model.eval(), tuple(args), rules=rules).coverage().to_rows()
    shown = [row for row in rows if row["op"].split(".")[1] in ("conv1d", "conv2d", "conv3d", "linear", "add")]
    return Counter(
        {f"{row['op'].split('.')[1]} {row['rule']}": row["count"] for row in shown if row["rule"] != "linear"}
    )


@pytest.mark.parametrize(
    ("model", "args", "found"),
    [
        (
            lambda: cnn(2),
            (IMAGE,),
            {f"conv2d {FIRST}": 1, f"conv2d {GAMMA}": 1, "linear affine": 2},
        ),
        (
            lambda: cnn(3),
            (torch.ones(1, 3, 8, 8, 8),),
            {f"conv3d {FIRST}": 1, f"conv3d {GAMMA}": 1, "linear affine": 2},
        ),
        (lambda: cnn(1), (torch.ones(1, 3, 8),), {"conv1d affine": 2, "linear affine": 2}),
        (
            lambda: Images(True),
            (IMAGE,),
            {f"conv2d {FIRST}": 1, "linear affine": 5},
        ),
        (
            lambda: Images(False),
            (IMAGE,),
            {f"conv2d {FIRST}": 1, "linear affine": 5},
        ),
        (Words, (IDS,), {"linear affine": 5, f"add {BOUNDED}": 2}),
        (
            Both,
            (IDS, IMAGE),
            {
                f"conv2d {FIRST}": 1,
                "linear affine": 10,
                f"add {BOUNDED}": 2,
            },
        ),
        (Filtered, (IMAGE,), {f"conv2d {FIRST}": 1, "conv2d affine": 1}),
        (Neighbours, (torch.ones(1, 5, 8), torch.tensor([0, 3, 1])), {"linear affine": 5}),
    ],
    ids=["planes", "volumes", "signals", "patches", "patches, written out", "words", "both", "filter", "neighbours"],
)
def test_parts_get_their_rules(model: Any, args: tuple[Tensor, ...], found: dict[str, int]) -> None:
    assert count_rules(model(), args) == found


def test_every_image_has_its_first_convolution() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.joined = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.joined(self.left(left).relu() + self.right(right).relu()).flatten(1)

    assert count_rules(Pair(), (IMAGE, IMAGE)) == {f"conv2d {FIRST}": 2, f"conv2d {GAMMA}": 1}


@pytest.mark.slow
def test_state_spaces_have_constant_gates_and_selections() -> None:
    """Sums are not bounded there, and norms multiply as they do elsewhere; what is stopped has no row."""
    model, args, kwargs = ZOO["mamba"]()
    rows = fxlrp.compile(model, args, kwargs).coverage().to_rows()
    found = Counter((row["op"].split(".")[1], row["rule"]) for row in rows for _ in range(row["count"]))
    assert found["linear", "affine"] == 5  # two of each layer, and the head
    assert found["mul", "signal_takes_all"] > 2
    assert found["mul", "product"] > 0
    assert found["add", BOUNDED] == 0


def test_reports_say_what_was_chosen_and_why() -> None:
    report = fxlrp.compile(Both().eval(), (IDS, IMAGE)).coverage()
    assert [line.partition(":")[0] for line in sorted(report.choices)] == [
        f"{BOUNDED} (2)",
        f"{FIRST} (1)",
    ]
    shown = " ".join(str(report).split())
    assert all(line in shown for line in report.choices)


def test_a_table_of_the_users_wins() -> None:
    """Over what the default chooses for the same ops."""
    found = count_rules(cnn(2), (IMAGE,), {aten.conv2d.default: flat()})
    assert found == {"conv2d flat": 2, "linear affine": 2}
