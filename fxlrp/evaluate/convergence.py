"""Whether relevance at lower layers still depends on where, and on what, it started from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fxlrp.attributor import Attributor
from fxlrp.errors import SignatureError
from fxlrp.ir.targets import Target


@dataclass(frozen=True)
class Convergence:
    """How far apart the directions of relevance are that started at random.

    Attributes:
        names: Places, in the order of ``read=`` of the attributor; the input is the last.
        distances: Median of ``1 - |cos|`` over pairs, samples and locations at each place; NaN if none has any.
    """

    names: tuple[str, ...]
    distances: Tensor

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per place, ready for ``pandas.DataFrame``."""
        return [{"place": name, "distance": d} for name, d in zip(self.names, self.distances.tolist(), strict=True)]


def measure_convergence(
    attributor: Attributor,
    *args: Any,
    start: str,
    target: Target = None,
    draws: int = 5,
    dim: int = 1,
    seed: int = 0,
    **kwargs: Any,
) -> Convergence:
    """Start relevance from random coefficients at a layer, and compare directions at the layers below.

    A product of matrices without negative entries nears rank 1: with ``z_plus`` and the like, distances fall by orders
    of magnitude, so that a map does not depend on the layers above. With gradients, and rules like them, they do not.
    Authors draw relevance; here coefficients are drawn, ``R = x c``, which needs no division by activations.

    Args:
        attributor: What explains; ``read=`` of its options names ``start`` and the layers below.
        args: Inputs of the model.
        start: Where relevance starts.
        target: Of one call that finds the shape of ``start``; any that the model has.
        draws: Random starts of each sample; all pairs are compared.
        dim: Along which a location's vector lies: 1 for channels of images, -1 for features of tokens.
        seed: Of what is drawn.
        kwargs: Keyword inputs of the model.

    Source: Sixt et al. 2020, cosine similarity convergence.

    Raises:
        SignatureError: If ``start`` is not read, or there is nothing to compare.
    """
    if draws < 2:
        raise SignatureError(f"draws={draws!r} are no pairs: give 2 or more")
    shape = attributor(*args, target=target, **kwargs).read
    if start not in shape:
        raise SignatureError(f"start={start!r} is not read: compile with read=({start!r}, ...) and the layers below it")
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        drawn = torch.randn(shape[start].shape, generator=generator, dtype=torch.float64).to(shape[start])
        result = attributor(*args, inject={start: drawn}, **kwargs)
        own = {"input": result.relevance} if isinstance(result.relevance, Tensor) else dict(result.relevance)
        found.append({**result.read, **own})
    names = tuple(found[0])
    pairs = [[measure_angles(a[name], b[name], dim) for a, b in combinations(found, 2)] for name in names]
    return Convergence(names, torch.stack([torch.cat(rows).nanmedian() for rows in pairs]))


def measure_angles(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return ``1 - |cos|`` of each pair of vectors; NaN where one is 0. In float64, where 1 - cos has digits."""
    a, b = (functional.normalize(x.double(), dim=dim, eps=0.0) for x in (a, b))
    return (1 - (a * b).sum(dim).abs()).clamp(min=0).flatten()
