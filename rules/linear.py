"""Degree 1: the output is a sum of its operands' entries, and each entry's coefficient is the adjoint's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, fx

from fxlrp.ir.numerics import Relevance, widen_dtype
from fxlrp.ir.ops import AFFINE, AVERAGE_POOLS, MOVES, OFFSETS, REDUCTIONS
from fxlrp.ir.rule import Parts, Site, rule
from fxlrp.ir.stop_gradient import STRAIGHT
from fxlrp.rules.unchanged import pass_moved

aten = torch.ops.aten


@rule(
    # sums and scalings
    *OFFSETS,
    *REDUCTIONS,
    aten.neg.default,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.sum.default,
    aten.cumsum.default,
    aten.lerp.Scalar,
    aten.trace.default,
    # pooling and resampling
    *AVERAGE_POOLS,
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool3d.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_nearest1d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest3d.default,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten.upsample_trilinear3d.vec,
    aten.upsample_linear1d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
    aten.upsample_trilinear3d.default,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bicubic2d_aa.default,
    # sums of entries at fixed indices
    aten.col2im.default,
    aten.index_put.default,
    aten.index_add.default,
    aten.scatter_add.default,
    aten.as_strided.default,
    aten.put.default,
    aten.max_pool2d_with_indices_backward.default,
    # complex numbers as pairs of real ones, and the Fourier transform
    aten.view_as_real.default,
    aten.view_as_complex.default,
    aten.complex.default,
    aten._conj.default,
    aten._conj_physical.default,
    aten._neg_view.default,
    aten._fft_r2c.default,
    aten._fft_c2c.default,
    aten._fft_c2r.default,
)
def linear(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: an op of degree 1 conserves exactly, and what a bias adds the bias absorbs.

    Shapes: ``c`` as ``site.out``; each result as its operand.
    Source: Bach et al. 2015, eq. 56-58 with epsilon -> 0, divided by the input; Euler's identity for k = 1.
    """
    return site.adjoint(c)


@rule(
    *MOVES,
    # views and copies
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.stack.default,
    aten.repeat_interleave.self_int,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.diagonal.default,
    aten.im2col.default,
    aten.tril.default,
    aten.triu.default,
    # selection by fixed indices and masks
    aten.embedding.default,
    aten.where.self,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.masked_select.default,
    aten.masked_scatter.default,
    aten.scatter.src,
    aten.scatter.value,
    aten.diagonal_scatter.default,
    aten.permute_copy.default,
    takes_relevance=True,
)
@pass_moved
def move(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c``: every entry of the output is one of the operands' entries, or a constant.

    Shapes: ``c`` as ``site.out``; each result as its operand.
    Source: Bach et al. 2015, eq. 56-58 with epsilon -> 0, divided by the input; Euler's identity for k = 1.
    """
    return site.adjoint(c)


@rule(aten.narrow_copy.default, takes_relevance=True)
def move_narrowed(site: Site, c: Tensor | Relevance) -> Parts:
    """``c_x = J^T c``, of the view: torch has no derivative of the copy before 2.12."""
    return move(replace(site, op=aten.narrow.default), c)


@rule(*AFFINE)
def affine(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = W^T c``; a weight that depends on the input makes the op a product of two, which halve.

    Source: Bach et al. 2015, eq. 58 with epsilon -> 0; Achtibat et al. 2024, eq. 8.
    """
    input_and_weight = max(sum(slot < 2 for slot in site.slots), 1)
    parts = zip(site.slots, site.adjoint(c), strict=True)
    return tuple(part / input_and_weight if slot < 2 else part for slot, part in parts)


@rule(aten.as_strided_scatter.default)
def strided_scatter(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_src`` is ``c`` in the places written to, ``c_x`` the rest: the adjoint, which torch 2.13 gets wrong for x."""
    a = site.arguments
    layout = a["size"], a["stride"], a["storage_offset"]
    row = c.repeat([1] * c.ndim)  # strides are those of this memory
    rest = torch.as_strided_scatter(row, torch.zeros_like(a["src"]), *layout)
    return tuple(rest if slot == 0 else row.as_strided(*layout) for slot in site.slots)


@rule(aten._embedding_bag.default)
def embedding_bag(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_table = J^T c``: rows are summed, averaged, or the largest wins; live weights per row halve with the table.

    Source: Bach et al. 2015, eq. 58 with epsilon -> 0; Achtibat et al. 2024, eq. 8.
    """
    return tuple(part / len(site.slots) for part in site.adjoint(c))


@rule(aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def sampled(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c`` for the image: a weighted mean of its pixels; a live grid passes its adjoint on, by Taylor.

    Positions are no amounts, so that what the grid gets is not taken from the image.
    """
    return site.adjoint(c)


@rule(aten._to_copy.default, takes_relevance=True)
@pass_moved
def cast(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c``: a cast moves a value between dtypes and keeps its relevance."""
    (x,) = site.operands
    return (c.to(device=x.device, dtype=widen_dtype(x.dtype)),)


def hold_written(node: fx.Node, reached: tuple[int, ...]) -> Iterable[int]:
    """Hold the value that was written."""
    return (slot for slot in reached if slot == 1)


@rule(STRAIGHT, holds=hold_written)
def straight(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = c``: the author wrote another value in the place of ``x``, and lets the gradient pass it by."""
    return (c,)
