"""What is explained: from the user's target to the seed, the coefficient at the output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxlrp.errors import TargetError

Index = tuple[int | None, ...]
TargetEntry = int | Index


@dataclass(frozen=True)
class Contrast:
    """Explain why one entry of the output and not another; see `contrast`."""

    wanted: Any
    other: Any


def contrast(wanted: Any, other: Any) -> Contrast:
    """Make a target that explains the difference of two outputs.

    The seed is +1 at ``wanted`` and -1 at ``other``, so that relevances sum to the difference of the two.

    Args:
        wanted: A class, an index tuple, or one of these per sample.
        other: Likewise.
    """
    return Contrast(wanted, other)


Target = None | int | Index | Sequence[TargetEntry] | Tensor | Contrast

LARGEST = -(2**63)
"""Stands for the largest entry where an index is a tensor, as for artefacts; every other number is a place."""

Shape = Sequence[int | None]
"""Sizes of an output; None for one that is known from the result only."""


@dataclass(frozen=True)
class Form:
    """The part of a target that shapes the program; the numbers are tensors given at each call.

    Attributes:
        weights: Weight of each term; none for a seed tensor.
        wild: For each term, the output dimensions where the largest entry is taken; None if the index tells at each
            call, by `LARGEST`.
        starts: Names of nodes where relevance starts, in place of the output.
        kept: Names of nodes whose coefficient is multiplied by a mask.
    """

    weights: tuple[float, ...]
    wild: tuple[tuple[int, ...] | None, ...]
    starts: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


INDEX_FORM = Form((1.0,), (None,))
"""One entry per sample, that of an artefact: its index may be negative, or `LARGEST`. Programs for a call in Python
have indices from 0 on, and know the dimensions of the largest."""
SEED_FORM = Form((), ())
"""A coefficient for every entry."""
FORMS = {"index": INDEX_FORM, "seed": SEED_FORM}
"""The kinds of target that an artefact can take."""


def split_target(target: Target, shape: Shape) -> tuple[Form, tuple[Tensor, ...]]:
    """Split a target for an output of the given shape into its form and its tensors.

    Raises:
        TargetError: If the target does not select one number of each sample.
    """
    if isinstance(target, Contrast):
        (one, a), (two, b) = split_target(target.wanted, shape), split_target(target.other, shape)
        if not (one.weights and two.weights):
            raise TargetError("contrast() takes classes or index tuples; give a seed tensor by itself as target=seed")
        return Form((*one.weights, *(-w for w in two.weights)), one.wild + two.wild), a + b
    tensor = to_numbers(target, shape)
    if tensor.is_floating_point():
        return SEED_FORM, (tensor,)
    largest = tensor == LARGEST
    if bool((largest != largest[:1]).any()):
        raise TargetError("None (the largest entry) must be in the same place of every sample's index")
    return Form((1.0,), (tuple(dim for dim in range(1, len(shape)) if bool(largest[:, dim - 1].any())),)), (tensor,)


def to_numbers(target: Target, shape: Shape) -> Tensor:
    """Return a target that is no contrast as a tensor: a seed, or an index per sample with `LARGEST` for None.

    Raises:
        TargetError: If it does not select one number of each sample.
    """
    if hasattr(target, "__array__"):  # of numpy too
        target = torch.as_tensor(target)
    if isinstance(target, Tensor) and target.is_meta:
        raise TargetError("the target is on the device meta, where there are no numbers: give it on one that has them")
    if isinstance(target, Tensor) and target.is_floating_point():
        if not is_shaped_as(target.shape, shape):
            raise TargetError(
                f"a seed has the shape of the output, {format_shape(shape)}, not {tuple(target.shape)}. "
                "For one class per sample give integers."
            )
        if not target.isfinite().all():
            raise TargetError("the seed has entries that are not finite")
        return target.double()
    entries = [complete_index(entry, shape) for entry in spread_over_samples(target, shape)]
    return torch.tensor(entries, dtype=torch.int64).reshape(len(entries), len(shape) - 1)


def is_shaped_as(found: Sequence[int], shape: Shape) -> bool:
    """Return whether these may be the sizes of a shape."""
    return len(found) == len(shape) and all(size in (n, None) for n, size in zip(found, shape, strict=True))


def format_shape(shape: Shape) -> str:
    """Write a shape as Python does, with ? for what is not known."""
    return str(tuple(shape)).replace("None", "?")


def spread_over_samples(target: Any, shape: Shape) -> list[Any]:
    """Return one entry per sample."""
    batch, rank = shape[0], len(shape) - 1
    if target is None:
        target = (None,) * rank
    if isinstance(target, bool) or (isinstance(target, Tensor) and target.dtype is torch.bool):
        raise TargetError("a target is a class index, not a truth value")
    if isinstance(target, Tensor):
        target = target.tolist() if target.ndim else int(target)
        target = [tuple(e) if isinstance(e, list) else e for e in target] if isinstance(target, list) else target
    if isinstance(target, (int, tuple)):
        if batch is None:
            raise TargetError("how many samples there are is known from the results only: give a list with one of each")
        return [target] * batch
    if not isinstance(target, Sequence) or isinstance(target, str):
        raise TargetError(
            f"target={target!r} is none of: None, a class, an index tuple, a list or tensor of one per sample, "
            "a floating point seed shaped as the output, fxlrp.contrast(a, b)"
        )
    if batch not in (len(target), None):
        raise TargetError(f"{len(target)} targets for a batch of {batch} samples: give one per sample")
    return list(target)


def complete_index(entry: Any, shape: Shape) -> list[int]:
    """Return one sample's index, complete and in range, and not negative where the size is known."""
    index = tuple(entry) if isinstance(entry, (tuple, list)) else (entry,)
    index = tuple(i.item() if isinstance(i, np.generic) else i for i in index)
    sizes = shape[1:]
    if len(index) != len(sizes):
        hint = ""
        if len(sizes) == 2:
            hint = ". For logits of a sequence give (position, token); (-1, None) is the largest of the last position"
        raise TargetError(
            f"target {entry!r} has {len(index)} indices, but each sample's output has shape {format_shape(sizes)}: "
            f"give {len(sizes)} of them{hint}"
        )
    found: list[int] = []
    for dim, (i, size) in enumerate(zip(index, sizes, strict=True), 1):
        if i is None:
            found.append(LARGEST)
            continue
        if not isinstance(i, int) or isinstance(i, bool):
            raise TargetError(f"target {entry!r}: indices are whole numbers or None, not {i!r}")
        end = sys.maxsize if size is None else size
        if i != LARGEST and not -end <= i < end:
            raise TargetError(
                f"target {entry!r}: index {i} is out of range for dimension {dim} of the output, of size {end}"
            )
        found.append(i if i == LARGEST or size is None else i % size)
    return found


def make_examples(form: Form, y: Tensor) -> tuple[Tensor, ...]:
    """Make tensors of the shapes that a target of this form has for the output ``y``."""
    if not form.weights:
        return (torch.empty_like(y, dtype=torch.float64),)
    return tuple(y.new_empty((y.shape[0], y.ndim - 1), dtype=torch.int64) for _ in form.weights)


def make_example_targets(form: Form, shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Make a target that explains the largest output, or all of them, for an artefact of this form."""
    if form == INDEX_FORM:
        return [torch.full((shape[0], len(shape) - 1), LARGEST, device=device)]
    return [torch.ones(shape, dtype=torch.float64, device=device)]


def make_seed(form: Form, y: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Compute the coefficient at the output ``y``: 1 at the chosen entries, 0 elsewhere."""
    if not form.weights:
        return tensors[0].to(y.dtype)
    terms = [make_term(y, weight, wild, t) for weight, wild, t in zip(form.weights, form.wild, tensors, strict=True)]
    return functools.reduce(torch.add, terms)


def make_term(y: Tensor, weight: float, wild: tuple[int, ...] | None, index: Tensor) -> Tensor:
    """Put a weight at one entry of each sample."""
    if y.ndim == 1:
        return torch.full_like(y, weight)
    flat = torch.zeros_like(y).flatten(1).scatter(1, find_flat_position(y, wild, index), weight)
    return (flat * mask_out_of_range(y, index) if wild is None else flat).view_as(y)


def mask_out_of_range(y: Tensor, index: Tensor) -> Tensor:
    """Return 1 for each sample whose index is in range, else NaN: a wrong index at run time must show in the result."""
    return torch.where(is_in_range(y.shape, index).all(1, keepdim=True), 1.0, torch.nan).to(y.dtype)


def is_in_range(shape: Sequence[int], index: Tensor) -> Tensor:
    """Return, for each number of an index, whether it is a place in an output of this shape, or `LARGEST`."""
    columns = zip(index.unbind(1), shape[1:], strict=True)
    return torch.stack([(i == LARGEST) | ((-size <= i) & (i < size)) for i, size in columns], 1)


def find_flat_position(y: Tensor, wild: tuple[int, ...] | None, index: Tensor) -> Tensor:
    """Find the position of each sample's entry in its flattened output; the largest one along wild dimensions."""
    if wild == ():
        position = index[:, :1] * 0
        for dim in range(1, y.ndim):
            position = position * y.shape[dim] + index[:, dim - 1 : dim]
        return position
    candidates = y
    for dim in range(1, y.ndim):
        if wild is None or dim not in wild:
            along = torch.arange(y.shape[dim], device=y.device).view([-1 if d == dim else 1 for d in range(y.ndim)])
            chosen = index[:, dim - 1].view([-1] + [1] * (y.ndim - 1))
            meant = along == chosen
            if wild is None:
                meant = meant | (along - y.shape[dim] == chosen) | (chosen == LARGEST)
            candidates = torch.where(meant, candidates, -torch.inf)
    return candidates.flatten(1).argmax(1, keepdim=True)


def resolve_index(y: Tensor, index: Tensor) -> Tensor:
    """Return the places that indices of `INDEX_FORM` mean in the output ``y``, from 0 on."""
    return torch.stack(torch.unravel_index(find_flat_position(y, None, index).squeeze(1), y.shape[1:]), 1)
