"""Whether tensors still hold what something was computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAMPLES = 64
"""Entries of a large tensor that a probe reads."""
MAX_WHOLE = 512
"""A tensor of at most so many entries is read whole."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their bytes."""


class ValueWatch:
    """Whether tensors have changed since it was last asked.

    Every in-place op of torch counts a version of its tensor; fused optimisers, batch norm in training mode, views of
    numpy and ``tensor.data`` do not. These are found by a probe: all entries of a tensor of at most `MAX_WHOLE`, and
    `SAMPLES` entries at even distances of any other, bit by bit. A write between the samples is not seen.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = tuple({id(t): t for t in tensors}.values())
        self.counted = not any(t.is_inference() for t in self.tensors)  # those of inference mode count nothing
        self.versions: list[tuple[Any, ...]] = []
        self.views: list[list[Any]] = []
        self.seen: list[Any] = []
        self.changed()

    def changed(self) -> bool:
        """Look at the tensors; return whether one has changed."""
        versions = [(t.data_ptr(), t._version) if self.counted else (t.data_ptr(),) for t in self.tensors]
        if versions != self.versions:
            self.versions = versions
            self.views = sample_tensors(self.tensors)
            self.seen = list(map(join_views, self.views))
            return True
        seen = list(map(join_views, self.views))
        equal = all(bool((one == other).all()) for one, other in zip(seen, self.seen, strict=True))
        self.seen = seen
        return not (equal and self.counted)


def sample_tensors(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """Take some entries of each tensor bit by bit, as rows of its memory, those of one size and device together.

    On a CPU they are arrays of numpy, which joins hundreds of small ones in a quarter of the time that torch takes.
    """
    found: dict[Any, list[Any]] = defaultdict(list)
    for tensor in tensors:
        if tensor.numel() and tensor.layout is torch.strided:
            view = view_bits(sample_entries(tensor.detach()))
            found[view.dtype, view.device].extend(split_rows(view.numpy() if view.device.type == "cpu" else view))
    return list(found.values())


def sample_entries(tensor: Tensor) -> Tensor:
    """Take some entries of a tensor, at even distances."""
    flat = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    if tensor.numel() <= MAX_WHOLE:
        return flat.view(-1) if flat.is_contiguous() else tensor
    if flat.is_contiguous():  # in an odd distance, so that rows of a power of two are met in different columns
        return flat.view(-1)[:: len(flat.view(-1)) // SAMPLES | 1]
    each = int(SAMPLES ** (1 / tensor.ndim))
    return tensor[tuple(slice(None, None, -(-n // each)) for n in tensor.shape)]


def view_bits(view: Tensor) -> Tensor:
    """Read what a view holds as whole numbers, so that NaN equals itself."""
    view = torch.view_as_real(view) if view.is_complex() else view
    return view.view(INTEGERS[view.itemsize])


def split_rows(view: Any) -> Iterator[Any]:
    """Split a view, of which no copy may be made, into views of one dimension."""
    if view.ndim > 1:
        for part in view:
            yield from split_rows(part)
    else:
        yield view


def join_views(views: Sequence[Any]) -> Any:
    """Return what some rows hold now."""
    return torch.cat(tuple(views)) if isinstance(views[0], Tensor) else np.concatenate(views)
