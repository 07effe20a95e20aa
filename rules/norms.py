"""Normalisers: the statistic is held fixed, the rest is affine, the bias absorbs its part."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.ir.rule import Site, rule

aten = torch.ops.aten


@rule(aten.layer_norm.default)
def layer_norm(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = g - mean(g)`` with ``g = c * w / std``: the adjoint with the standard deviation fixed.

    Source: Achtibat et al. 2024, proposition 3.4; Ali et al. 2022, LN-rule.
    """
    a = site.arguments
    dims = tuple(range(-len(a["normalized_shape"]), 0))
    return split_parts(site, c, pull_back_centred(c, a["input"], a["weight"], a["eps"], dims))


@rule(aten.group_norm.default)
def group_norm(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = g - mean(g)`` with ``g = c * w / std``, mean and deviation over each group of channels."""
    a = site.arguments
    x: Tensor = a["input"]
    weight = view_along_channels(a["weight"], x)
    grouped = x.reshape(x.shape[0], a["num_groups"], x.shape[1] // a["num_groups"], *x.shape[2:])
    g = (c if weight is None else c * weight).reshape(grouped.shape)
    return split_parts(
        site, c, pull_back_centred(g, grouped, None, a["eps"], tuple(range(2, grouped.ndim))).reshape(x.shape)
    )


@rule(aten.instance_norm.default)
def instance_norm(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = g - mean(g)`` with ``g = c * w / std``, per channel; affine with running statistics."""
    a = site.arguments
    if not a["use_input_stats"]:
        return site.adjoint(c)
    x: Tensor = a["input"]
    return split_parts(
        site, c, pull_back_centred(c, x, view_along_channels(a["weight"], x), a["eps"], tuple(range(2, x.ndim)))
    )


@rule(aten.rms_norm.default)
def rms_norm(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c * w / rms``: relevance passes element by element.

    Source: Achtibat et al. 2024, proposition 3.4.
    """
    a = site.arguments
    x: Tensor = a["input"]
    eps = torch.finfo(x.dtype).eps if a["eps"] is None else a["eps"]
    scale = torch.rsqrt(x.square().mean(tuple(range(-len(a["normalized_shape"]), 0)), keepdim=True) + eps)
    return split_parts(site, c, c * scale if a["weight"] is None else c * a["weight"] * scale)


@rule(
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit.no_stats,
    aten._batch_norm_with_update_functional.default,
)
def batch_statistics(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = g - mean(g)`` with ``g = c * w / std``: batch norm with the statistics of the batch, held fixed.

    Samples influence each other, as they do in the model. Its statistics, as outputs, have no derivative in torch and
    pass nothing on.
    """
    a = site.arguments
    if getattr(site.op, "index", 0) != 0 or not a.get("training", True):
        return site.adjoint(c)
    x: Tensor = a["input"]
    return split_parts(
        site, c, pull_back_centred(c, x, view_along_channels(a["weight"], x), a["eps"], (0, *range(2, x.ndim)))
    )


def split_parts(site: Site, c: Tensor, of_input: Tensor) -> tuple[Tensor, ...]:
    """Return coefficients of all operands: a live weight halves with the input, a bias takes its own share."""
    if site.slots == (0,):
        return (of_input,)
    weight = site.arguments["weight"]
    factor = [slot == 0 or site.leaves[slot] is weight for slot in site.slots]
    plain = zip(site.slots, site.adjoint(c), factor, strict=True)
    return tuple((of_input if slot == 0 else part) / (sum(factor) if f else 1) for slot, part, f in plain)


def pull_back_centred(c: Tensor, x: Tensor, weight: Tensor | None, eps: float, dims: tuple[int, ...]) -> Tensor:
    """Apply the adjoint of ``w * (x - mean) / std`` with ``std`` fixed."""
    g = (c if weight is None else c * weight) * torch.rsqrt(x.var(dims, correction=0, keepdim=True) + eps)
    return g - g.mean(dims, keepdim=True)


def view_along_channels(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Shape a vector over channels to multiply ``x``."""
    return None if weight is None else weight.reshape(-1, *[1] * (x.ndim - 2))
