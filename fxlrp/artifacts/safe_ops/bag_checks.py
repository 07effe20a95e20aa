"""What lookups of rows, and bags of them, rely on."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.artifacts.safe_ops.expectations import expect, expect_offsets, expect_range, expect_shape, expect_vectors


def check_embedding_backward(grad_output: Tensor, indices: Tensor, num_weights: int) -> None:
    """Expect one gradient per index of a row."""
    expect_range(indices, num_weights)
    expect_shape(grad_output, [*indices.shape, *grad_output.shape[-1:]], "grad_output")


def check_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    mode: int,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int,
) -> None:
    """Expect bags of rows that there are, which follow one another."""
    expect(weight.ndim == 2 and indices.ndim == offsets.ndim == 1, "rows, indices and offsets")
    expect_range(indices, weight.shape[0])
    expect_offsets(offsets, indices.shape[0])
    expect(mode in (0, 1, 2) and -1 <= padding_idx < weight.shape[0], "a mode and a padding that there are")
    expect(offsets.shape[0] > int(include_last_offset), "a bag")
    expect_vectors(indices.shape[0], per_sample_weights=per_sample_weights)


def check_bag_backward(
    grad: Tensor,
    indices: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    mode: int,
    per_sample_weights: Tensor | None,
) -> None:
    """Expect indices of rows and of bags that there are."""
    expect(grad.ndim == 2 and indices.ndim == 1 and mode in (0, 1, 2), "gradients of bags")
    bags = grad.shape[0]
    expect_range(indices, num_weights)
    expect_vectors(indices.shape[0], per_sample_weights=per_sample_weights)
    expect_vectors(bags, bag_size=bag_size)
    if mode == 2:
        expect_shape(maximum_indices, grad.shape, "maximum_indices")
        expect_range(maximum_indices, num_weights, start=-1)
    else:
        expect_bag_of_each(indices, offset2bag, bags)


def expect_bag_of_each(indices: Tensor, offset2bag: Tensor, bags: int) -> None:
    """Refuse what does not name, for each index, a bag that there is."""
    expect_vectors(indices.shape[0], offset2bag=offset2bag)
    expect_range(offset2bag, bags, name="offset2bag")


def expect_bags(grad: Tensor, indices: Tensor, offsets: Tensor) -> None:
    """Refuse offsets of other bags than those that there are gradients for."""
    expect(offsets.ndim == 1 and grad.ndim == 2, "offsets and gradients of bags")
    expect_offsets(offsets, indices.numel())
    expect(bool((offsets[grad.shape[0] :] == indices.numel()).all()), "a gradient for each bag")


def check_whole_bag_backward(
    grad: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
) -> None:
    """Expect the same of a gradient that is not sparse; bags follow from offsets where they are not given."""
    expect(not sparse, "a strided gradient")
    if offset2bag.numel() == 0:
        expect_bags(grad, indices, offsets)
        offset2bag = torch.zeros_like(indices)
    check_bag_backward(grad, indices, offset2bag, bag_size, maximum_indices, num_weights, mode, per_sample_weights)


def check_bag_weights_backward(
    grad: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor, offset2bag: Tensor
) -> None:
    """Expect the same for the weights of samples."""
    expect(grad.ndim == weight.ndim == 2 and grad.shape[1] == weight.shape[1], "gradients of bags of rows")
    expect(indices.ndim == 1, "indices of rows")
    expect_range(indices, weight.shape[0])
    if offset2bag.numel() == 0:
        expect_bags(grad, indices, offsets)
    else:
        expect_bag_of_each(indices, offset2bag, grad.shape[0])
