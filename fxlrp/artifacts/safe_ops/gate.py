"""What a graph from elsewhere may call, so that it cannot reach memory that is not its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from fxlrp._torch import OpOverload
from fxlrp.artifacts.safe_ops import bag_checks, image_checks, memory_checks, norm_checks
from fxlrp.artifacts.safe_ops.expectations import Check
from fxlrp.artifacts.safe_ops.size_functions import SIZE_FUNCTIONS
from fxlrp.artifacts.safe_ops.vocabulary import OPS
from fxlrp.backends.dense import ORDERS, order_operand
from fxlrp.errors import ArtifactError

ATEN_PREFIX = "torch.ops.aten."

RESIZED = (
    *(f"upsample_{kind}{backward}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d",
                                                "bicubic2d", "trilinear3d") for backward in ("", "_backward")),
    *(f"_upsample_{kind}_aa{backward}" for kind in ("bilinear2d", "bicubic2d") for backward in ("", "_backward")),
)  # fmt: skip

CHECKS: dict[str, Check] = {
    "_adaptive_avg_pool2d_backward.default": image_checks.check_average_backward(2),
    "_adaptive_avg_pool3d_backward.default": image_checks.check_average_backward(3),
    "_batch_norm_with_update_functional.default": norm_checks.check_batch_norm,
    "_cdist_backward.default": memory_checks.check_cdist_backward,
    "_embedding_bag.default": bag_checks.check_bag,
    "_embedding_bag_backward.default": bag_checks.check_whole_bag_backward,
    "_embedding_bag_dense_backward.default": bag_checks.check_bag_backward,
    "_embedding_bag_forward_only.default": bag_checks.check_bag,
    "_embedding_bag_per_sample_weights_backward.default": bag_checks.check_bag_weights_backward,
    "_fft_c2c.default": memory_checks.check_transform,
    "_fft_c2r.default": memory_checks.check_half_transform,
    "_fft_r2c.default": memory_checks.check_real_transform,
    "_fused_rms_norm_backward.default": norm_checks.check_rms_norm_backward,
    "_log_softmax_backward_data.default": norm_checks.check_softmax_backward,
    "_native_batch_norm_legit.no_stats": norm_checks.check_batch_statistics,
    "_native_batch_norm_legit_functional.default": norm_checks.check_batch_norm,
    "_native_batch_norm_legit_no_training.default": norm_checks.check_batch_norm,
    "_pdist_backward.default": memory_checks.check_pdist_backward,
    "_pdist_forward.default": memory_checks.check_pdist,
    "_scaled_dot_product_attention_math.default": norm_checks.check_no_dropout,
    "_scaled_dot_product_cudnn_attention.default": norm_checks.check_attention,
    "_scaled_dot_product_cudnn_attention_backward.default": norm_checks.check_attention_backward,
    "_scaled_dot_product_efficient_attention.default": norm_checks.check_attention,
    "_scaled_dot_product_efficient_attention_backward.default": norm_checks.check_attention_backward,
    "_scaled_dot_product_flash_attention.default": norm_checks.check_attention,
    "_scaled_dot_product_flash_attention_backward.default": norm_checks.check_attention_backward,
    "_scaled_dot_product_flash_attention_for_cpu.default": norm_checks.check_flash_attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward.default": norm_checks.check_flash_attention_backward,
    "_segment_reduce_backward.default": memory_checks.check_segments_backward,
    "_softmax_backward_data.default": norm_checks.check_softmax_backward,
    "adaptive_max_pool2d_backward.default": image_checks.check_pool_backward(2),
    "adaptive_max_pool3d_backward.default": image_checks.check_pool_backward(3),
    "as_strided.default": memory_checks.check_strided,
    "as_strided_copy.default": memory_checks.check_strided,
    "as_strided_scatter.default": memory_checks.check_strided_scatter,
    "avg_pool2d_backward.default": image_checks.check_average_backward(2),
    "avg_pool3d_backward.default": image_checks.check_average_backward(3),
    "batch_norm_backward.default": norm_checks.check_batch_norm_update_backward,
    "batch_norm.default": norm_checks.check_frozen_norm,
    "convolution_backward.default": image_checks.check_convolution_backward,
    "div.Scalar_mode": memory_checks.check_division,
    "div.Tensor_mode": memory_checks.check_division,
    "dropout.default": norm_checks.check_dropout,
    "embedding_dense_backward.default": bag_checks.check_embedding_backward,
    "fractional_max_pool2d.default": image_checks.check_fractional_pool,
    "fractional_max_pool2d_backward.default": image_checks.check_pool_backward(2),
    "fractional_max_pool3d.default": image_checks.check_fractional_pool,
    "fractional_max_pool3d_backward.default": image_checks.check_pool_backward(3),
    "grid_sampler_2d.default": image_checks.check_grid,
    "grid_sampler_2d_backward.default": image_checks.check_grid_backward,
    "grid_sampler_3d.default": image_checks.check_grid,
    "grid_sampler_3d_backward.default": image_checks.check_grid_backward,
    "instance_norm.default": norm_checks.check_instance_norm,
    "linalg_lu_solve.default": memory_checks.check_pivots,
    "lu_unpack.default": memory_checks.check_unpacked_pivots,
    "max_pool1d.default": image_checks.check_window,
    "max_pool2d_with_indices_backward.default": image_checks.check_pool_backward(2),
    "max_pool3d_with_indices_backward.default": image_checks.check_pool_backward(3),
    "native_batch_norm_backward.default": norm_checks.check_batch_norm_backward,
    "native_group_norm.default": norm_checks.check_group_norm,
    "native_group_norm_backward.default": norm_checks.check_group_norm_backward,
    "native_layer_norm_backward.default": norm_checks.check_layer_norm_backward,
    "nll_loss2d_backward.default": memory_checks.check_loss_backward,
    "nll_loss2d_forward.default": memory_checks.check_loss,
    "nll_loss_backward.default": memory_checks.check_loss_backward,
    "nll_loss_forward.default": memory_checks.check_loss,
    "scaled_dot_product_attention.default": norm_checks.check_no_dropout,
    "segment_reduce.default": memory_checks.check_segments,
    "unfold_backward.default": memory_checks.check_unfold_backward,
    "view.dtype": memory_checks.check_view_as,
    "view_copy.dtype": memory_checks.check_view_as,
    **{
        f"{kind}_pad{dims}d{backward}.default": check(dims)
        for kind in ("reflection", "replication")
        for dims in (1, 2, 3)
        for backward, check in (("", image_checks.check_pad), ("_backward", image_checks.check_pad_backward))
    },
    **{f"{name}.default": image_checks.check_scales for name in RESIZED},
    **{f"{name}.vec": image_checks.check_factors for name in RESIZED},
}
"""What torch leaves unchecked of some ops."""

UNFILLED = ("empty.memory_format", "empty_like.default", "empty_permuted.default", "new_empty.default")
"""Their results show what was in memory before."""


@functools.cache
def resolve_op(target: str) -> Callable[..., Any]:
    """Find the function of a name such as ``torch.ops.aten.add.Tensor``, ``_operator.add`` or ``math.trunc``.

    It takes the arguments of the op and gives its results. Of arguments that torch would trust though they are wrong,
    it raises an ArtifactError.

    Args:
        target: What a graph calls.

    Raises:
        ArtifactError: If artefacts may not call it.
    """
    if target in SIZE_FUNCTIONS:
        return SIZE_FUNCTIONS[target]
    name = target.removeprefix(ATEN_PREFIX)
    if name == target or name not in OPS:
        raise ArtifactError(
            f"the graph calls {target[:100]!r}, which artefacts may not call: "
            "fxlrp.artifacts.safe_ops.vocabulary lists what they may"
        )
    packet, overload = name.split(".")
    op = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if op is None:
        raise ArtifactError(f"the graph calls {target!r}, which torch {torch.__version__} does not have")
    return guard_op(op, name)


def guard_op(op: OpOverload, name: str) -> Callable[..., Any]:
    """Put the checks that an overload needs in front of it."""
    call: Callable[..., Any] = op
    if op in ORDERS:
        call = take_any_order(op)
    if name in UNFILLED:
        call = fill_with_zeros(op)
    checks = [CHECKS[name]] if name in CHECKS else []
    if {argument.name for argument in op._schema.arguments} & {"dtype", "layout", "device"}:
        checks.append(memory_checks.check_new_tensor)
    return add_checks(op, call, checks) if checks else call


def take_any_order(op: OpOverload) -> Callable[..., Any]:
    """Make an overload take operands in any order of memory; see `fxlrp.backends.dense`."""
    order, which = ORDERS[op]
    names = [argument.name for argument in op._schema.arguments]
    operands = set(names[which])

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return op(**{name: order_operand(x, order) if name in operands else x for name, x in given.items()})

    return call


def fill_with_zeros(op: OpOverload) -> Callable[..., Any]:
    """Make an overload fill its new memory with zeros: it would show what was there before."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return op(*args, **kwargs).zero_()

    return call


def add_checks(op: OpOverload, call: Callable[..., Any], checks: list[Check]) -> Callable[..., Any]:
    """Put checks of the arguments that these name in front of a call."""
    schema = {argument.name: argument.default_value for argument in op._schema.arguments}
    wanted = [(check, [name for name in inspect.signature(check).parameters if name in schema]) for check in checks]

    def checked_call(*args: Any, **kwargs: Any) -> Any:
        given = {**schema, **dict(zip(schema, args, strict=False)), **kwargs}
        try:
            for check, names in wanted:
                check(**{name: given[name] for name in names})
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            raise ArtifactError(f"the graph of the artefact asks for what {op} must not do: {error}") from error
        return call(*args, **kwargs)

    return checked_call
