"""What graphs of artefacts may call: the same as torch on good arguments, an error on those that torch would trust."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, OpCase
from torch import Tensor

from fxlrp import ArtifactError
from fxlrp._torch import CHOLESKY, OpOverload, tree_leaves, tree_map_only
from fxlrp.artifacts.safe_ops.gate import CHECKS, UNFILLED, resolve_op
from fxlrp.artifacts.safe_ops.size_functions import SIZE_FUNCTIONS
from fxlrp.artifacts.safe_ops.vocabulary import OPS
from fxlrp.ir.rule import RULES

aten = torch.ops.aten
RANDOM = {aten.rand_like.default, aten.randn_like.default}
"""They have rules, and artefacts have no use for them."""


def overload(name: str) -> OpOverload:
    packet, kind = name.split(".")
    return getattr(getattr(aten, packet), kind)


@pytest.mark.parametrize("name", sorted(OPS if CHOLESKY else OPS - {"cholesky.default"}))
def test_ops_are_functional(name: str) -> None:
    op = overload(name)
    assert not op._schema.is_mutable
    assert not any(a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments)
    assert not any(a.is_out or "Generator" in str(a.type) for a in op._schema.arguments)
    assert torch.Tag.nondeterministic_seeded not in op.tags or name in CHECKS


def test_every_rule_can_be_saved() -> None:
    named = {op for op in RULES if isinstance(op, OpOverload) and op.namespace == "aten"}
    assert {str(op).removeprefix("aten.") for op in named - RANDOM} <= OPS
    assert set(CHECKS) - OPS <= {name for name in CHECKS if "upsample" in name}
    assert set(UNFILLED) <= OPS


def outcome(call: Callable[..., Any], case: OpCase) -> list[Tensor]:
    args, kwargs = tree_map_only(Tensor, Tensor.clone, (case.args, case.kwargs))
    found = [x for x in tree_leaves(call(*args, **kwargs)) if isinstance(x, Tensor)]
    assert all(map(same, tree_leaves((args, kwargs)), tree_leaves((case.args, case.kwargs))))
    return found


def same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return bool(a == b)
    return a.dtype == b.dtype and a.stride() == b.stride() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", [c for c in CASES if str(c.overload).removeprefix("aten.") in OPS], ids=str)
def test_good_arguments(case: OpCase) -> None:
    """Bit for bit what torch gives, and nothing is written to."""
    found = outcome(resolve_op(f"torch.ops.{case.overload}"), case)
    if str(case.overload).removeprefix("aten.") in UNFILLED:
        assert all((x == 0).all() for x in found)
    else:
        assert all(map(same, found, outcome(case.overload, case)))


def x(*shape: int) -> Tensor:
    return torch.ones(shape)


def i(*shape: int, at: int = 10**12) -> Tensor:
    return torch.full(shape, at)


IMAGE, IMAGE_3D, HEADS = (2, 3, 4, 4), (2, 3, 4, 4, 4), (2, 2, 5, 8)
POOL: tuple[Any, ...] = ([2, 2], [2, 2], [0, 0], [1, 1], False)
ATTACKS: dict[str, list[tuple[Any, ...]]] = {
    "max_pool2d_with_indices_backward.default": [
        (x(1, 1, 2, 2), x(1, 1, 4, 4), *POOL, i(1, 1, 2, 2)),
        (x(1, 1, 2, 2), x(1, 1, 4, 4), *POOL, i(1, 1, 2, 2, at=-1)),
        (x(9, 1, 2, 2), x(1, 1, 4, 4), *POOL, i(9, 1, 2, 2, at=0)),
    ],
    "adaptive_max_pool2d_backward.default": [(x(1, 1, 2, 2), x(1, 1, 4, 4), i(1, 1, 2, 2))],
    "adaptive_max_pool3d_backward.default": [(x(1, 1, 2, 2, 2), x(1, 1, 4, 4, 4), i(1, 1, 2, 2, 2))],
    "fractional_max_pool2d.default": [(x(*IMAGE), [2, 2], [2, 2], i(2, 3, 2).float())],
    "_adaptive_avg_pool2d_backward.default": [(x(1, 3, 2, 2), x(*IMAGE)), (x(2, 3, 2, 2), x(2, 3, 0, 4))],
    "avg_pool3d_backward.default": [(x(0, 3, 2, 2, 2), x(*IMAGE_3D), [2] * 3, [2] * 3, [0] * 3, False, True, None)],
    "reflection_pad1d_backward.default": [(x(1, 3, 11), x(2, 3, 8), [2, 1])],
    "replication_pad2d.default": [(x(*IMAGE), [2**63 - 1] * 4)],
    "max_pool1d.default": [(x(2, 3, 8), [2**62], [2], [2])],
    "upsample_nearest2d.default": [(x(*IMAGE), [8, 8], 1e-300, 1e-300), (x(*IMAGE), [8, 8], math.nan, 2.0)],
    "upsample_bilinear2d.vec": [(x(*IMAGE), None, False, [1e-300, 1.0])],
    "grid_sampler_2d.default": [(x(*IMAGE), x(2, 5, 5, 2), 7, 0, False), (x(*IMAGE), x(2, 5, 5, 2), 0, -1, False)],
    "grid_sampler_3d_backward.default": [(x(2, 3, 1, 1, 1), x(*IMAGE_3D), x(2, 5, 5, 5, 3), 0, 0, False, [True, True])],
    "convolution_backward.default": [
        (x(2, 3, 9, 9), x(*IMAGE), x(3, 3, 2, 2), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3)
    ],
    "native_layer_norm_backward.default": [
        (x(2, 5, 8), x(2, 5, 8), [8], x(2, 1, 1), x(2, 5, 1), None, None, [True] * 3),
        (x(2, 1, 8), x(2, 5, 8), [8], x(2, 5, 1), x(2, 5, 1), None, None, [True] * 3),
    ],
    "native_group_norm.default": [
        (x(*IMAGE), x(3), x(3), 2, 3, 10**6, 1, 0.1),
        (x(*IMAGE), x(3), x(3), 2, 3, 16, 0, 0.1),
    ],
    "native_batch_norm_backward.default": [(x(*IMAGE), x(*IMAGE), x(1), None, None, x(3), x(3), True, 0.1, [True] * 3)],
    "_native_batch_norm_legit.no_stats": [
        (x(*IMAGE), None, None, False, 0.1, 0.1),
        (x(*IMAGE), x(1), None, True, 0.1, 0.1),
    ],
    "_softmax_backward_data.default": [(x(2, 3), x(2, 300), 1, torch.float32), (x(2, 3), x(2, 3), 7, torch.float32)],
    "_scaled_dot_product_flash_attention_for_cpu.default": [
        (x(*HEADS), x(1, 2, 5, 8), x(1, 2, 5, 8)),
        (x(2, 2, 0, 8), x(*HEADS), x(*HEADS)),
        (x(*HEADS), x(*HEADS), x(*HEADS), 0.5),
    ],
    "_scaled_dot_product_flash_attention_for_cpu_backward.default": [
        (x(*HEADS), x(*HEADS), x(*HEADS), x(*HEADS), x(*HEADS), x(2, 2, 1), 0.0, False)
    ],
    "scaled_dot_product_attention.default": [(x(*HEADS), x(*HEADS), x(*HEADS), None, 0.5)],
    "embedding_dense_backward.default": [(x(3, 4), i(3), 5, -1, True)],
    "_embedding_bag.default": [(x(5, 4), i(3, at=1), i(0)), (x(5, 4), i(3), i(1, at=0)), (x(5, 4), i(3, at=1), i(2))],
    "_embedding_bag_dense_backward.default": [
        (x(1, 4), i(1), i(1, at=0), i(1, at=1), i(0), 5, False, 0, None),
        (x(1, 4), i(1, at=0), i(1), i(1, at=1), i(0), 5, False, 0, None),
        (x(1, 4), i(1, at=0), i(1, at=0), i(1, at=1), i(1, 4), 5, False, 2, None),
    ],
    "_embedding_bag_per_sample_weights_backward.default": [(x(1, 4), x(5, 4), i(1), i(1, at=0), i(1, at=0), 0)],
    "segment_reduce.default": [(x(5), "sum", i(1)), (x(5), "sum", None, None, i(2, at=-5))],
    "nll_loss_backward.default": [(x(2), x(2, 3), i(2), None, 0, -100, x())],
    "linalg_lu_solve.default": [(torch.eye(3), i(3).int(), x(3, 2)), (torch.eye(3), i(3, at=0).int(), x(3, 2))],
    "lu_unpack.default": [(x(7, 5), i(3, 5, at=1).int())],
    "_cdist_backward.default": [(x(2, 2), x(2, 3, 2), x(2, 3, 2), 2.0, x(2, 3, 3))],
    "_pdist_backward.default": [(x(1), x(5, 3), 2.0, x(10))],
    "unfold_backward.default": [(x(), [5, 5], 0, 4, 1)],
    "_fft_r2c.default": [(x(2, 4), [2**40], 0, True), (x(2, 4), [-9], 0, True)],
    "_fft_c2r.default": [(x(2, 3).cfloat(), [1], 0, 500)],
    "as_strided.default": [(x(8)[2:4], [4], [1]), (x(8)[2:4], [1], [1], 0), (x(8), [3], [2**62])],
    "as_strided_scatter.default": [(x(8), x(4), [4], [4])],
    "view.dtype": [(i(2), torch.bool)],
    "zeros.default": [([2], torch.quint8), ([2], None, torch.sparse_coo), ([2], None, None, "meta")],
    "batch_norm.default": [(x(*IMAGE), None, None, x(3), x(3), True, 0.1, 0.1, False)],
    "instance_norm.default": [(x(*IMAGE), None, None, x(3), x(3), True, 0.1, 0.1, False)],
    "dropout.default": [(x(3), 0.5, True)],
}


def keywords(name: str, args: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((a.name for a in overload(name)._schema.arguments), args, strict=False))


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, calls in ATTACKS.items() for args in calls])
def test_attacks(name: str, args: tuple[Any, ...]) -> None:
    """Each reads or writes memory of others, kills the process, or writes to its arguments, if torch runs it."""
    call = resolve_op(f"torch.ops.aten.{name}")
    with pytest.raises(ArtifactError, match=name.removesuffix(".default")):
        call(*args)
    with pytest.raises(ArtifactError, match=name.removesuffix(".default")):
        call(**keywords(name, args))


def test_division_of_the_smallest_integer() -> None:
    divide = resolve_op("torch.ops.aten.div.Tensor_mode")
    for dtype in (torch.int64, torch.int32):
        smallest = torch.tensor([torch.iinfo(dtype).min, 3], dtype=dtype)
        with pytest.raises(ArtifactError, match="smallest"):
            divide(smallest, torch.tensor([1, -1], dtype=dtype), rounding_mode="trunc")
        with pytest.raises(ArtifactError, match="smallest"):
            resolve_op("torch.ops.aten.div.Scalar_mode")(smallest, -1, rounding_mode="trunc")
        assert divide(smallest, torch.ones(2, dtype=dtype), rounding_mode="trunc").equal(smallest)


def test_new_memory_is_empty() -> None:
    torch.full((10**4,), 7.0)
    for name, args in (("empty.memory_format", ([10**4],)), ("empty_like.default", (x(10**4),))):
        assert not resolve_op(f"torch.ops.aten.{name}")(*args).any()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default", "torch.ops.aten.relu_.default", "torch.ops.aten.add.out", "os.system",
        "torch.ops.aten.relu.__class__", "torch.ops.aten.relu.overloads", "torch.ops.aten.__init__.__func__",
        "torch.ops.mkldnn._linear_pointwise.default", "torch.ops.aten._sparse_coo_tensor_unsafe.default",
        "relu.default",
        "torch.ops.aten.set_.source_Storage", "torch.ops.aten.relu", "_operator.setitem", "math.factorial", "",
        "\ud800",
        "torch.ops.aten.rand.default", "torch.load",
    ],
)  # fmt: skip
def test_what_is_not_called(target: str) -> None:
    with pytest.raises(ArtifactError, match="may not call"):
        resolve_op(target)


@pytest.mark.parametrize(
    ("target", "args", "result"),
    [
        ("_operator.add", (3, 4), 7),
        ("_operator.pow", (2, 10), 1024),
        ("_operator.getitem", ([1, 2], -1), 2),
        ("torch.sym_max", (3, 4), 4),
        ("torch.sym_int", (3.7,), 3),
        ("math.trunc", (3.7,), 3),
        ("_operator.pow", (10, 10**9), None),
        ("_operator.lshift", (1, 10**9), None),
        ("_operator.mul", (2**62, 4), None),
        ("_operator.mul", ("ab", 10**9), None),
        ("_operator.floordiv", (1, 0), None),
        ("_operator.getitem", ([1, 2], 2), None),
        ("_operator.getitem", ({"a": 1}, "a"), None),
        ("math.trunc", (math.inf,), None),
        ("torch.sym_int", (math.nan,), None),
    ],
)
def test_numbers(target: str, args: tuple[Any, ...], result: int | None) -> None:
    assert target in SIZE_FUNCTIONS
    if result is not None:
        assert resolve_op(target)(*args) == result
    else:
        with pytest.raises(ArtifactError, match=r"\w"):
            resolve_op(target)(*args)
