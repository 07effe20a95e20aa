"""Which convolutions are given to oneDNN's packed kernels.

oneDNN chooses among them by size, type and processor, and not all are right: an image of one channel, row or column has
its channels first and last at once, and some results of width 1 hold what was in memory before; adjoints of filters
that are padded beyond their reach are refused, or end the process. So what is not like the convolutions of ordinary
networks is left to torch, on every processor alike. Of 4,300 random geometries that pass here, none was wrong with the
kernels for SSE 4.1, AVX2, AVX-512 or bfloat16; of 15,600 others, about one in fifty was.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Sizes = Sequence[int]


def is_ordinary(x: Tensor, y: Tensor, filters: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes) -> bool:
    """Whether a convolution of images ``x`` to images ``y`` is one that packed kernels are trusted with.

    There are several channels, rows and columns before and behind it. Filters lie within the image and reach beyond
    the padding; they are dilated only if they have several entries, and leave out one pixel at most from step to step.
    """
    if any(len(t.shape) != 4 or not all(isinstance(n, int) for n in t.shape) for t in (x, y, filters)):
        return False
    if any(len(sizes) != 2 for sizes in (stride, padding, dilation)):  # torch repeats a single one
        return False
    if not all(t.shape[0] > 0 and min(t.shape[1:]) > 1 for t in (x, y)):
        return False
    sides = zip(x.shape[2:], filters.shape[2:], stride, padding, dilation, strict=True)
    return all(is_ordinary_side(*side) for side in sides)


def is_ordinary_side(image: int, size: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether one side of image and filter is like that."""
    reach = dilation * (size - 1)
    return padding <= reach < image and stride <= size + 1 and (dilation == 1 or size > 1)


def has_several_rows(rows: int | object, weight: Tensor) -> bool:
    """Whether a product has several rows, and its weight several rows and columns; others are no matrix products."""
    return all(isinstance(n, int) and n > 1 for n in (rows, *weight.shape))
