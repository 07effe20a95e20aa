"""Masks: dropped where a factor repeats them, one op where not, and the same numbers always."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from fxlrp import passes
from fxlrp._torch import make_fx
from fxlrp.passes.cleanup import masks, subexpressions

aten = torch.ops.aten
SHARE = ("share", subexpressions.share_subexpressions)
Function = Callable[[Tensor, Tensor], Tensor]


def given(number: int) -> Tensor:
    """Numbers of both signs, and zeros."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    return torch.where(x.abs() < 0.3, 0.0, x)


def mask(z: Tensor, c: Tensor) -> Tensor:
    return torch.where(z > 0, c, 0.0)


def pooled(z: Tensor, c: Tensor) -> Tensor:
    """The adjoint of a pooling of ``relu(z)``, of a masked coefficient."""
    y, places = aten.max_pool2d_with_indices.default(torch.relu(z), [2, 2], [2, 2])
    masked = mask(y, c[..., ::2, ::2])
    return aten.max_pool2d_with_indices_backward.default(
        masked, torch.relu(z), [2, 2], [2, 2], [0, 0], [1, 1], False, places
    )


def traced(function: Function) -> fx.GraphModule:
    module = make_fx(function, tracing_mode="fake")(given(1), given(2))
    passes.run_passes(module, [SHARE])
    return module


def masks_in(module: fx.GraphModule) -> int:
    return sum(masks.find_masked(node) is not None for node in module.graph.nodes)


def check(function: Function, apply: passes.Pass, count: int) -> fx.GraphModule:
    """Run a pass: it fires ``count`` times, once and for all, and changes no number."""
    module = traced(function)
    assert passes.run_passes(module, [("it", apply)]) == {"it": count}
    torch.testing.assert_close(module(given(3), given(4)), function(given(3), given(4)), rtol=0, atol=0)
    assert passes.run_passes(module, [("again", apply)]) == {"again": 0}
    return module


@pytest.mark.parametrize(
    ("function", "count", "left"),
    [
        (lambda z, c: mask(z, c) * z.relu(), 1, 0),
        (lambda z, c: z.relu() * mask(z, c), 1, 0),
        (lambda z, c: mask(z.relu(), c) * z.relu(), 1, 0),
        (lambda z, c: mask(z, mask(z.relu(), c)) * z.relu(), 2, 0),
        (lambda z, c: (mask(z, c) + c.exp()) * z.relu(), 1, 0),
        (lambda z, c: (c - torch.add(mask(z, c), mask(z, c.exp()), alpha=2)) * z.relu(), 2, 0),
        (lambda z, c: mask(z, pooled(z, c)) * z.relu(), 2, 0),
        (lambda z, c: mask(z, c) * z.relu() + mask(z, c), 1, 1),
        (lambda z, c: (y := mask(z, c) + 1) * z.relu() + y, 0, 1),
        (lambda z, c: mask(c, z) * z.relu(), 0, 1),
        (lambda z, c: mask(z, c) * z, 0, 1),
        (lambda z, c: mask(z, c) + z.relu(), 0, 1),
        (lambda z, c: mask(z, c).exp() * z.relu(), 0, 1),
        (lambda z, c: torch.where(z > 0, c, 1.0) * z.relu(), 0, 0),
        (lambda z, c: torch.where(z > 1, c, 0.0) * z.relu(), 0, 0),
        (lambda z, c: torch.where(z < 0, c, 0.0) * z.relu(), 0, 0),
        (lambda z, c: mask(z[:1], c) * z.relu(), 0, 0),
        (lambda z, c: mask(z, c[:1, :, :1]) * z.relu(), 0, 0),
        (lambda z, c: mask(c, pooled(z, c)) * c.relu(), 1, 1),
    ],
    ids=[
        "product", "factors exchanged", "mask of the relu", "twice", "sum", "scaled difference", "pooling",
        "used elsewhere", "sum used elsewhere", "mask of another", "no relu", "sum of both", "behind another op",
        "another filling", "another threshold", "other side", "broadcast mask", "broadcast coefficient",
        "pooling of another",
    ],
)  # fmt: skip
def test_a_mask_that_a_factor_repeats_is_dropped(function: Function, count: int, left: int) -> None:
    assert masks_in(check(function, masks.drop_repeated_masks, count)) == left


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda z, c: mask(z, c), 1),
        (lambda z, c: mask(z, c) + z.relu(), 1),
        (lambda z, c: mask(z.relu(), c), 1),
        (lambda z, c: mask(z, c) + mask(c, z), 2),
        (lambda z, c: torch.where(z > 0, c, 1.0), 0),
        (lambda z, c: torch.where(z > 1, c, 0.0), 0),
        (lambda z, c: torch.where(z >= 0, c, 0.0), 0),
        (lambda z, c: mask(z.float(), c), 0),
        (lambda z, c: mask(z, c.float()).double(), 0),
        (lambda z, c: torch.where(z > 0, c.float(), torch.zeros((), dtype=torch.float64)), 0),
    ],
)
def test_a_mask_is_one_op(function: Function, count: int) -> None:
    module = check(function, masks.fuse_masks, count)
    assert sum(node.target is aten.threshold_backward.default for node in module.graph.nodes) == count


def test_a_mask_reads_the_relu_that_is_kept_anyway() -> None:
    module = check(lambda z, c: z.relu() + mask(z, c), masks.fuse_masks, 1)
    (relu,) = (n for n in module.graph.nodes if n.target is aten.relu.default)
    assert [n.args[1] for n in module.graph.nodes if n.target is aten.threshold_backward.default] == [relu]
