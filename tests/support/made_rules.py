"""Rules as a user makes them, and a model to give them to."""

from __future__ import annotations

from torch import Tensor, nn

from fxlrp.ir.rule import Rule, Site


def half(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c / 2``."""
    return (c / 2,)


def other(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c / 3``."""
    return (c / 3,)


HALF, OTHER = Rule("half", "test", half), Rule("other", "test", other)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).tanh()


class Nested(nn.Module):
    """Two blocks, the second of which runs twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(4), Block(4)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x))
        return self.head(self.blocks[1](x))
