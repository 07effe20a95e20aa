"""What each part of an input does by itself, and how well relevance agrees with that."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.correlation import correlate_ranks, correlate_rows
from fxlrp.evaluate.segments import Model, call_in_batches, call_without, read_variants, sum_segments

WAYS = {"pearson": correlate_rows, "spearman": correlate_ranks}


@torch.no_grad()
def drop_each(
    model: Model,
    x: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    read: str = "logit",
    batch: int = 32,
) -> Tensor:
    """Measure what a model loses when one segment alone is replaced: ``f(x) - f(x without it)``.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        target: Class of each sample.
        segments: Number of the segment of each place, from 0; ``torch.arange(length)`` for tokens.
        baseline: What replaces it.
        read: ``"logit"`` of the class, or its ``"probability"``.
        batch: Inputs in each forward pass.

    Returns:
        ``(samples, segments)``.

    Raises:
        TargetError: If a class is out of range.
    """
    numbers = torch.arange(int(segments.max()) + 1, device=x.device)

    def replace(variant: Tensor, sample: Tensor) -> Tensor:
        return numbers == variant[:, None] - 1  # the first variant is whole

    said = read_variants(call_without(model, x, replace, len(numbers) + 1, segments, baseline, batch), target, read)
    return (said[:1] - said[1:]).T


@torch.no_grad()
def drop_each_in_layer(
    model: nn.Module,
    layer: str,
    x: Tensor,
    target: Tensor,
    *,
    read: str = "logit",
    batch: int = 32,
) -> Tensor:
    """Measure what a model loses when one place of a layer's output is replaced by the mean over its places.

    It runs a copy of the model, since a hook would change the model that an attributor knows. Compare it with the
    relevance of the layer: ``attributor(x, target=...).read[layer].sum(-1)``, of an attributor that reads the layer.

    Args:
        model: Inputs to ``(samples, classes)``.
        layer: Name of a module whose output, or its first, is ``(samples, places, features)``.
        x: Inputs.
        target: Class of each sample.
        read: ``"logit"`` of the class, or its ``"probability"``.
        batch: Inputs in each forward pass.

    Returns:
        ``(samples, places)``.

    Source: our definition of the agreement by layers in You et al. 2025.

    Raises:
        SignatureError: If there is no such module, or its output has another shape.
        TargetError: If a class is out of range.
    """
    own = copy.deepcopy(model)
    if layer not in dict(own.named_modules()):
        raise SignatureError(f"layer={layer!r} is no module of the model: give one of its named_modules()")
    gone = torch.full((batch,), -1, device=x.device)  # by row of a batch; -1 is none
    places = 0

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal places
        h = output if isinstance(output, Tensor) else output[0]
        if h.ndim != 3 or len(h) != batch:
            raise SignatureError(f"layer={layer!r} returns {tuple(h.shape)}, and not (samples, places, features)")
        places = h.shape[1]
        at = torch.arange(places, device=h.device) == gone[:, None].to(h.device)
        changed = torch.where(at[..., None], h.mean(1, keepdim=True), h)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    def choose(rows: Tensor) -> Tensor:
        gone.copy_(rows // len(x) - 1)
        return x[rows % len(x)]

    own.get_submodule(layer).register_forward_hook(replace)
    call_in_batches(own, choose, 1, batch, x.device)  # finds the number of places
    logits = call_in_batches(own, choose, (places + 1) * len(x), batch, x.device)
    said = read_variants(logits.reshape(places + 1, len(x), -1), target, read)
    return (said[:1] - said[1:]).T


def compare_with_drops(relevance: Tensor, drops: Tensor, segments: Tensor, way: str = "pearson") -> Tensor:
    """Correlate relevance with what `drop_each` measured, for each sample; 0 where either is constant.

    Source: You et al. 2025, agreement of attributions with leave-one-out.

    Args:
        relevance: ``(samples, *places)``, or with channels behind the samples.
        drops: ``(samples, segments)``.
        segments: Number of the segment of each place.
        way: ``"pearson"`` or ``"spearman"``.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or ``way`` is none.
    """
    if way not in WAYS:
        raise SignatureError(f"way={way!r} is none of {', '.join(map(repr, WAYS))}")
    scores = sum_segments(relevance, segments)
    if scores.shape != drops.shape:
        raise SignatureError(f"there are scores of {tuple(scores.shape)}, and drops of {tuple(drops.shape)}")
    return WAYS[way](scores.to(drops), drops)
