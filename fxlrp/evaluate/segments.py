"""Parts of an input that are replaced together: their ranks, and what a model says without some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.errors import SignatureError, TargetError
from fxlrp.evaluate.baselines import Baseline

Model = Callable[[Tensor], Tensor]
"""Inputs to ``(samples, classes)``: a module, an attributor's model, or a compiled program."""
READS = ("logit", "probability", "accuracy")
Gone = Callable[[Tensor, Tensor], Tensor]
"""Numbers of variants and of samples, row by row, to the segments that are replaced there: ``(rows, segments)``."""


def divide_grid(height: int, width: int, patch: int) -> Tensor:
    """Return the number of the square patch that each pixel is in, ``(height, width)``; borders have smaller ones."""
    if patch < 1:
        raise SignatureError(f"patch={patch} is no side of a square: give 1 pixel or more")
    rows, columns = torch.arange(height) // patch, torch.arange(width) // patch
    return rows[:, None] * -(-width // patch) + columns


def sum_segments(relevance: Tensor, segments: Tensor) -> Tensor:
    """Sum relevance over each segment, ``(samples, segments)``.

    Args:
        relevance: ``(samples, *places)``, or ``(samples, channels, *places)``, which is summed over channels.
        segments: Number of the segment of each place, from 0.

    Raises:
        SignatureError: If shapes do not fit, or relevance is not finite.
    """
    if relevance.ndim == segments.ndim + 2:
        relevance = relevance.sum(1)
    if relevance.shape[1:] != segments.shape:
        raise SignatureError(
            f"relevance has the shape {tuple(relevance.shape)}, but places have {tuple(segments.shape)}: "
            "give one number per place and sample, with channels behind samples or summed"
        )
    if not relevance.isfinite().all():
        raise SignatureError("relevance is not finite, so that it ranks nothing: look where NaN or infinity comes from")
    flat = segments.flatten().to(relevance.device)
    found = relevance.new_zeros(len(relevance), int(flat.max()) + 1)
    return found.index_add_(1, flat, relevance.flatten(1))


def rank_segments(scores: Tensor, *, most: bool = True) -> Tensor:
    """Return the rank of each segment, 0 for the first to go; of equal ones the first in order goes first."""
    order = scores.argsort(dim=1, descending=most, stable=True)
    places = torch.arange(scores.shape[1], device=order.device)
    return torch.empty_like(order).scatter_(1, order, places.expand_as(order))


def count_segments(fraction: float, count: int) -> int:
    """Return how many of some segments a part of them is, rounded up."""
    return math.ceil(round(fraction * count, 9))


def list_rows(step: str, steps: Sequence[Any], **columns: Tensor) -> list[dict[str, Any]]:
    """Return a dictionary per sample and step, ready for ``pandas.DataFrame``, of columns ``(samples, steps)``."""
    values = {name: column.tolist() for name, column in columns.items()}
    samples = range(len(next(iter(columns.values()))))
    return [
        {"sample": i, step: at, **{name: rows[i][k] for name, rows in values.items()}}
        for i in samples
        for k, at in enumerate(steps)
    ]


def call_without(
    model: Model, x: Tensor, gone: Gone, variants: int, segments: Tensor, baseline: Baseline, batch: int
) -> Tensor:
    """Call a model on variants of each input that lack some segments.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``.
        gone: Which segments are replaced.
        variants: How many there are of each sample.
        segments: Number of the segment of each place, from 0.
        baseline: What replaces them.
        batch: Inputs in each forward pass.

    Returns:
        What the model says, ``(variants, samples, ...)``.
    """
    other, flat = baseline(x), segments.flatten().to(x.device)
    shape = [1] * (x.ndim - 1 - segments.ndim) + list(segments.shape)

    def replace(rows: Tensor) -> Tensor:
        variant, sample = rows // len(x), rows % len(x)
        places = gone(variant, sample)[:, flat].reshape(-1, *shape)
        return torch.where(places, other[sample], x[sample])

    said = call_in_batches(model, replace, variants * len(x), batch, x.device)
    return said.reshape(variants, len(x), *said.shape[1:])


def call_in_batches(
    model: Model, make: Callable[[Tensor], Tensor], count: int, batch: int, device: torch.device
) -> Tensor:
    """Call a model on inputs that are made as they are needed, all batches of one size.

    Args:
        model: What is called.
        make: Numbers of inputs to inputs.
        count: How many inputs there are; the last batch is filled up with the last of them.
        batch: Inputs of each call.
        device: Of the inputs.

    Raises:
        SignatureError: If the model is in training mode, where it may also change.
    """
    if isinstance(model, nn.Module) and model.training:
        raise SignatureError("the model is in training mode, where chance and other samples decide: call model.eval()")
    found = []
    for start in range(0, count, batch):
        rows = torch.arange(start, start + batch, device=device).clamp(max=count - 1)
        found.append(model(make(rows))[: count - start])
    return torch.cat(found)


def read_classes(logits: Tensor, target: Tensor, read: str) -> Tensor:
    """Return what a model says of one class of each row.

    Raises:
        SignatureError: If there is not one row of classes per sample, one has NaN, or ``read`` is none.
        TargetError: If a class is out of range.
    """
    if read not in READS:
        raise SignatureError(f"read={read!r} is none of {', '.join(map(repr, READS))}")
    if logits.ndim != 2 or len(logits) != len(target):
        raise SignatureError(f"a model of classes returns (samples, classes), not {tuple(logits.shape)}")
    if logits.isnan().any():
        raise SignatureError("the model says NaN of some inputs, so that no measure of them means anything")
    target = target.to(logits.device)
    if ((target < 0) | (target >= logits.shape[1])).any():
        raise TargetError(f"the classes {target.tolist()} are not all among the {logits.shape[1]} of the model")
    if read == "accuracy":
        return (logits.argmax(1) == target).to(logits.dtype)
    said = logits.softmax(1) if read == "probability" else logits
    return said.gather(1, target[:, None])[:, 0]


def read_variants(logits: Tensor, target: Tensor, read: str) -> Tensor:
    """Return `read_classes` of what `call_without` returned, ``(variants, samples)``."""
    return read_classes(logits.flatten(0, 1), target.repeat(len(logits)), read).reshape(logits.shape[:2])
