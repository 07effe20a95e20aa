"""The mean explanation of noisy copies of an input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxlrp.attributor import Attributor
from fxlrp.averaging.copies import average_calls, check_count
from fxlrp.errors import SignatureError
from fxlrp.ir.targets import Target
from fxlrp.session.result import Result


def smooth(
    attributor: Attributor, n: int = 16, noise: float = 0.15, *, chunk: int = 8, seed: int = 0
) -> Callable[..., Result]:
    """Average the relevance of any rule set over noisy copies of the input, as SmoothGrad does gradients.

    ``R = 1/n sum_k R(x + e_k)``, with ``e_k`` normal and of the standard deviation ``noise * (max(x) - min(x))``, for
    each sample of each floating input. All copies explain the output that the input itself explains. With
    ``rules="gradient"`` this is SmoothGrad times the noisy input.

    Source: Smilkov et al. 2017, sec. 2.

    Args:
        attributor: What explains one input.
        n: Number of copies.
        noise: Standard deviation, in parts of the range of each input.
        chunk: The most copies in a batch.
        seed: Of the noise.

    Returns:
        A function that takes what the attributor takes, ``target=`` included, and returns a result.

    Raises:
        SignatureError: If ``n`` or ``noise`` is no such number; when called, if no input is floating.
    """
    check_count("n", n, "copies")
    if not 0 <= noise < float("inf"):
        raise SignatureError(f"noise={noise!r} is no standard deviation: give 0 or more, in parts of the input's range")

    def explain(*args: Any, target: Target = None, **kwargs: Any) -> Result:
        """Return the mean explanation for these inputs."""
        generator = torch.Generator().manual_seed(seed)

        def disturb(x: Tensor, count: int, _: slice) -> Tensor:
            rows = x.reshape(len(x), -1)
            width = (noise * (rows.amax(1) - rows.amin(1))).reshape(-1, *(1 for _ in x.shape[1:]))
            drawn = torch.randn(count, *x.shape, dtype=torch.float64, generator=generator)
            return x + drawn.to(x) * width

        clean, relevance, read = average_calls(attributor, args, kwargs, target, n * [1 / n], chunk, disturb)
        return replace(clean, relevance=relevance, read=read, question=None)

    return explain
