"""What is expected of arguments that come from a stranger's file.

Torch calls its backward ops from its own formulas alone, so that their kernels trust what they are given: an index out
of range, or a tensor of another shape, makes them read and write memory that is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Check = Callable[..., None]
"""Takes the arguments that it names, by their names in the op's schema, and raises if the op must not have them."""


def expect(holds: bool, what: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise ValueError(f"it expects {what}")


def expect_shape(x: Tensor, shape: Sequence[int], name: str) -> None:
    """Refuse a tensor of another shape."""
    expect(tuple(x.shape) == tuple(shape), f"{name} of shape {tuple(shape)}, not {tuple(x.shape)}")


def expect_range(indices: Tensor, size: int, start: int = 0, name: str = "indices") -> None:
    """Refuse indices below ``start``, or not below ``size``."""
    if indices.numel():
        low, high = (int(n) for n in torch.aminmax(indices))
        expect(start <= low and high < size, f"{name} from {start} to {size - 1}, not from {low} to {high}")


def expect_offsets(offsets: Tensor, last: int, name: str = "offsets") -> None:
    """Refuse offsets along the last dimension that do not begin with 0, or that fall, or that go beyond ``last``."""
    expect_range(offsets, last + 1, name=name)
    if offsets.shape[-1]:
        expect(bool((offsets[..., 0] == 0).all()), f"{name} that begin with 0")
        expect(bool((offsets.diff() >= 0).all()), f"{name} that do not fall")


def expect_vectors(size: int, **vectors: Tensor | None) -> None:
    """Refuse vectors of another length; None is left out."""
    for name, x in vectors.items():
        if x is not None:
            expect_shape(x, (size,), name)


def repeat_per_dimension(numbers: int | Sequence[int], n: int) -> list[int]:
    """Return one number per dimension, of which torch takes one for all."""
    given = [numbers] if isinstance(numbers, int) else list(numbers)
    return given * n if len(given) == 1 else given


def compute_extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Return how far the last entry is from the first."""
    return sum((n - 1) * step for n, step in zip(size, stride, strict=True))
