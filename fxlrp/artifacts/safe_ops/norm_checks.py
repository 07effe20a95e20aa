"""What normalisations and attention rely on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fxlrp.artifacts.safe_ops.expectations import expect, expect_shape, expect_vectors


def check_layer_norm_backward(
    grad_out: Tensor, input: Tensor, normalized_shape: Sequence[int], mean: Tensor, rstd: Tensor
) -> None:
    """Expect one mean and deviation per vector."""
    expect_shape(grad_out, input.shape, "grad_out")
    dims = len(normalized_shape)
    expect(0 < dims <= input.ndim, "a shape that ends in normalized_shape")
    vectors = math.prod(input.shape[: input.ndim - dims])
    expect(mean.numel() == rstd.numel() == vectors, f"{vectors} means and deviations")


def check_rms_norm_backward(grad_out: Tensor, input: Tensor, normalized_shape: Sequence[int], rstd: Tensor) -> None:
    """Expect one deviation per vector."""
    check_layer_norm_backward(grad_out, input, normalized_shape, rstd, rstd)


def check_group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int
) -> None:
    """Expect the sizes of the input."""
    expect(input.ndim >= 2 and tuple(input.shape[:2]) == (N, C), "the batch and the channels of the input")
    expect(math.prod(input.shape[2:]) == HxW, "the size of the input's images")
    expect(group >= 1 and C % group == 0, "groups of one size")
    expect_vectors(C, weight=weight, bias=bias)


def check_group_norm_backward(
    grad_out: Tensor,
    input: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
) -> None:
    """Expect one mean and deviation per group."""
    check_group_norm(input, weight, None, N, C, HxW, group)
    expect_shape(grad_out, input.shape, "grad_out")
    expect(mean.numel() == rstd.numel() == N * group, "a mean and a deviation per group")


def check_batch_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
) -> None:
    """Expect one number of each kind per channel."""
    expect(input.ndim >= 2, "a batch with channels")
    expect_vectors(input.shape[1], weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)


def check_frozen_norm(training: bool) -> None:
    """Expect not to be in training, where running statistics are written to."""
    expect(not training, "to be out of training")


def check_instance_norm(running_mean: Tensor | None, running_var: Tensor | None, use_input_stats: bool) -> None:
    """Expect no running statistics where those of the input would be written to them."""
    expect(not use_input_stats or (running_mean is None and running_var is None), "no statistics to write to")


def check_batch_norm_update_backward(
    grad_out: Tensor,
    input: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_var: Tensor | None,
    update: bool,
) -> None:
    """Expect the same as `check_batch_norm_backward`, under other names."""
    check_batch_norm_backward(grad_out, input, weight, running_mean, running_var, save_mean, save_var, update)


def check_batch_statistics(input: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool) -> None:
    """Expect to be in training: without running statistics, those of the batch are what there is."""
    expect(training, "to be in training")
    check_batch_norm(input, weight, bias)


def check_softmax_backward(grad_output: Tensor, output: Tensor, dim: int) -> None:
    """Expect one gradient per entry of the output."""
    expect_shape(grad_output, output.shape, "grad_output")
    expect(-max(output.ndim, 1) <= dim < max(output.ndim, 1), "a dimension that there is")


def check_dropout(train: bool) -> None:
    """Expect that nothing is drawn."""
    expect(not train, "to be out of training")


def check_batch_norm_backward(
    grad_out: Tensor,
    input: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
) -> None:
    """Expect one number of each kind per channel, among them those that were saved in training."""
    check_batch_norm(input, weight, None, running_mean, running_var)
    expect_shape(grad_out, input.shape, "grad_out")
    needed = (save_mean, save_invstd) if train else (running_mean, running_var)
    expect(None not in needed, "the statistics of the forward pass")
    if train:
        expect_vectors(input.shape[1], save_mean=save_mean, save_invstd=save_invstd)


def check_no_dropout(dropout_p: float) -> None:
    """Expect that nothing is drawn."""
    expect(dropout_p == 0, "no dropout")


def check_attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float) -> None:
    """Expect heads that fit to each other."""
    check_no_dropout(dropout_p)
    expect(query.ndim == key.ndim == value.ndim == 4, "batches of heads")
    expect(min(*query.shape, *key.shape, *value.shape) > 0, "tensors that are not empty")
    expect(query.shape[0] == key.shape[0] == value.shape[0], "one batch")
    expect(key.shape[1] == value.shape[1], "a value for each key")
    expect(query.shape[1] % key.shape[1] == 0 and key.shape[2] == value.shape[2], "a key for each query")
    expect(query.shape[3] == key.shape[3], "queries and keys of one length")


def check_flash_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float, attn_mask: Tensor | None
) -> None:
    """Expect values as long as keys, and a mask for these."""
    check_attention(query, key, value, dropout_p)
    expect(key.shape[3] == value.shape[3], "values and keys of one length")
    if attn_mask is not None:
        scores = [*query.shape[:3], key.shape[2]]
        fits = all(m in (1, n) for m, n in zip(reversed(attn_mask.shape), reversed(scores), strict=False))
        expect(attn_mask.ndim in (2, 4) and fits, f"a mask for scores of shape {tuple(scores)}")


def check_flash_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    attn_mask: Tensor | None,
) -> None:
    """Expect one gradient per entry of the output, and one normaliser per query."""
    check_flash_attention(query, key, value, dropout_p, attn_mask)
    check_attention_backward(grad_out, query, key, value, out, logsumexp, dropout_p)
    expect_shape(logsumexp, query.shape[:3], "logsumexp")


def check_attention_backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, dropout_p: float
) -> None:
    """Expect the same of kernels that pad normalisers."""
    check_attention(query, key, value, dropout_p)
    expect_shape(out, [*query.shape[:3], value.shape[3]], "out")
    expect_shape(grad_out, out.shape, "grad_out")
    expect(tuple(logsumexp.shape[:2]) == tuple(query.shape[:2]) and logsumexp.ndim >= 3, "a normaliser per query")
    expect(logsumexp.shape[2] >= query.shape[2], "a normaliser per query")
