"""One record per op with a rule, and one per weighted rule and kind of linear op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product as pairs
from statistics import NormalDist
from typing import Any

import reference as ref
import torch
from reference import Call, Reference
from torch import Tensor

from fxlrp._torch import CHOLESKY
from fxlrp.ir.program import OneOutput
from fxlrp.ir.rule import RULES, Rule
from fxlrp.ir.stop_gradient import STRAIGHT
from fxlrp.rules import weighted

aten = torch.ops.aten
_random = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_random, dtype=torch.float64)


def complex_normal(*shape: int) -> Tensor:
    return torch.complex(normal(*shape), normal(*shape))


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=_random, dtype=torch.float64)


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def bools(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_random) > 0.5


def with_zeros(x: Tensor) -> Tensor:
    """Some exact zeros among the entries."""
    return x.flatten().index_fill(0, torch.arange(0, x.numel(), 5), 0.0).reshape(x.shape)


def wide() -> Tensor:
    """Entries from tiny to saturated, of both signs, with zeros."""
    tails = torch.tensor([[-40.0, -9.0, -6.0, -3.0, -1e-9, -1e-320], [0.0, 1e-320, 1e-9, 3.0, 9.0, 40.0]])
    return torch.cat([tails.double(), normal(2, 6)], 1)


@dataclass(frozen=True)
class OpCase:
    """A call of an op and what its rule must do there.

    Attributes:
        args: Arguments; lists and numbers are fixed.
        live: Positions of the operands among the flattened arguments.
        reference: Coefficient (or relevance, for rules that return it) of each operand.
        keeps: Part of the output's relevance, less that of constants, that arrives; or a function that tells what
            arrives; or why it is not fixed.
        batch: Positions of the tensors whose first dimension is the batch, as is the output's; none if there is none.
        zero: Whether the op and its derivative are finite at operands that are zero.
        rule: The rule; that of the table by default.
    """

    op: Any
    args: tuple[Any, ...]
    reference: Reference
    label: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    live: tuple[int, ...] = (0,)
    keeps: float | str | Callable[[Call, Tensor], Tensor] = 1.0
    batch: tuple[int, ...] = (0,)
    zero: bool = True
    rule: Rule | None = None

    @property
    def call(self) -> Call:
        return Call(self.op, self.args, self.kwargs, self.live)

    @property
    def chosen(self) -> Rule:
        return self.rule or RULES[self.overload]

    @property
    def overload(self) -> Any:
        return self.op.op if isinstance(self.op, OneOutput) else self.op

    def __str__(self) -> str:
        name = str(self.op).removeprefix("aten.")
        label = self.label if self.rule is None else f"{self.rule}-{self.label}"
        label = f"output {self.op.index} {label}".strip() if isinstance(self.op, OneOutput) else label
        return f"{name}-{label}" if label else name


def case(op: Any, reference: Reference, *args: Any, **options: Any) -> OpCase:
    return OpCase(op, args, reference, **options)


def chances(*shape: int) -> Tensor:
    return uniform(0.1, 0.9, *shape)


def x8() -> Tensor:
    return with_zeros(normal(2, 3, 8))


def image(channels: int = 2, size: int = 4) -> Tensor:
    return with_zeros(normal(2, channels, size, size))


def volume() -> Tensor:
    return with_zeros(normal(2, 1, 2, 4, 2))


NO_BATCH: dict[str, Any] = {"batch": ()}
BOTH: dict[str, Any] = {"live": (0, 1), "batch": (0, 1)}

SUMS = [
    case(aten.add.Tensor, ref.linear, normal(2, 3), normal(2, 3), **BOTH),
    case(aten.add.Tensor, ref.linear, normal(2, 3), normal(3), live=(0, 1), label="broadcast"),
    case(aten.add.Tensor, ref.linear, normal(2, 3), normal(2, 3), **BOTH, kwargs={"alpha": -2.5}, label="alpha"),
    case(aten.add.Tensor, ref.linear, normal(2, 3), 1.5, label="constant"),
    case(aten.add.Scalar, ref.linear, normal(2, 3), 1.5),
    case(aten.sub.Tensor, ref.linear, normal(2, 3), normal(2, 3), **BOTH, kwargs={"alpha": 3}),
    case(aten.sub.Tensor, ref.linear, normal(2, 3), normal(2, 1), live=(1,), batch=(0, 1), label="second"),
    case(aten.sub.Scalar, ref.linear, normal(2, 3), 1.5),
    case(aten.rsub.Scalar, ref.linear, normal(2, 3), 1.5),
    case(aten.rsub.Tensor, ref.linear, normal(2, 3), normal(2, 3), **BOTH),
    case(aten.neg.default, ref.linear, normal(2, 3)),
    case(aten.mul.Scalar, ref.linear, normal(2, 3), -1.5),
    case(aten.div.Scalar, ref.linear, normal(2, 3), -1.5),
    case(aten.sum.default, ref.linear, normal(2, 3), **NO_BATCH),
    case(aten.sum.dim_IntList, ref.linear, x8(), [1, -1], True),
    case(aten.sum.dim_IntList, ref.linear, x8(), [1], kwargs={"dtype": torch.float64}, label="dtype"),
    case(aten.mean.default, ref.linear, normal(2, 3), **NO_BATCH),
    case(aten.mean.dim, ref.linear, x8(), [1, 2]),
    case(aten.cumsum.default, ref.linear, normal(2, 5), 1),
    case(aten.lerp.Scalar, ref.linear, normal(2, 3), normal(2, 3), 0.3, **BOTH),
    case(aten.trace.default, ref.linear, normal(3, 3), **NO_BATCH),
]

POOLS = [
    case(aten.avg_pool1d.default, ref.linear, x8(), [3], [2], [1]),
    case(aten.avg_pool2d.default, ref.linear, image(), [2, 3], [2, 1], [1, 1], False, False),
    case(aten.avg_pool3d.default, ref.linear, volume(), [2, 2, 2]),
    case(aten.adaptive_avg_pool1d.default, ref.linear, x8(), [3]),
    case(aten.adaptive_avg_pool2d.default, ref.linear, image(), [3, 1]),
    case(aten.adaptive_avg_pool3d.default, ref.linear, volume(), [1, 3, 2]),
    case(aten._adaptive_avg_pool2d.default, ref.linear, image(), [3, 3]),
    case(aten._adaptive_avg_pool3d.default, ref.linear, volume(), [1, 3, 2]),
    case(aten.upsample_nearest1d.vec, ref.linear, x8(), [5], None),
    case(aten.upsample_nearest2d.vec, ref.linear, image(), None, [1.5, 2.0]),
    case(aten.upsample_nearest3d.vec, ref.linear, volume(), [3, 3, 3], None),
    case(aten.upsample_nearest1d.default, ref.linear, x8(), [5]),
    case(aten.upsample_nearest2d.default, ref.linear, image(), [5, 3]),
    case(aten.upsample_nearest3d.default, ref.linear, volume(), [3, 3, 3]),
    case(aten.upsample_linear1d.vec, ref.linear, x8(), [5], True, None),
    case(aten.upsample_bilinear2d.vec, ref.linear, image(), None, False, [1.5, 2.0]),
    case(aten.upsample_bicubic2d.vec, ref.linear, image(), [5, 6], False, None),
    case(aten.upsample_trilinear3d.vec, ref.linear, volume(), [3, 3, 3], False, None),
    case(aten.upsample_linear1d.default, ref.linear, x8(), [5], False),
    case(aten.upsample_bilinear2d.default, ref.linear, image(), [5, 3], True),
    case(aten.upsample_bicubic2d.default, ref.linear, image(), [5, 3], False),
    case(aten.upsample_trilinear3d.default, ref.linear, volume(), [3, 3, 3], True),
    case(aten._upsample_bilinear2d_aa.default, ref.linear, image(), [3, 2], False),
    case(aten._upsample_bicubic2d_aa.default, ref.linear, image(), [3, 2], False),
    case(aten.grid_sampler_2d.default, ref.linear, image(), uniform(-1.1, 1.1, 2, 3, 3, 2), 0, 0, False, batch=(0, 1)),
]

MOVES = [
    case(aten.reshape.default, ref.linear, normal(2, 6), [2, 3, 2], **NO_BATCH),
    case(aten.flatten.using_ints, ref.linear, x8(), 1, 2),
    case(aten.unflatten.int, ref.linear, normal(2, 6), 1, [2, 3]),
    case(aten.permute.default, ref.linear, x8(), [0, 2, 1]),
    case(aten.transpose.int, ref.linear, x8(), 1, 2),
    case(aten.t.default, ref.linear, normal(2, 3), **NO_BATCH),
    case(aten.expand.default, ref.linear, normal(2, 1, 3), [-1, 4, -1]),
    case(aten.expand.default, ref.linear, normal(3), [4, 3], **NO_BATCH, label="new dimension"),
    case(aten.unsqueeze.default, ref.linear, normal(2, 3), 1),
    case(aten.squeeze.default, ref.linear, normal(2, 1, 3), **NO_BATCH),
    case(aten.squeeze.dim, ref.linear, normal(2, 1, 3), 1),
    case(aten.squeeze.dims, ref.linear, normal(2, 1, 3, 1), [1, 3]),
    case(aten.select.int, ref.linear, x8(), 1, -1),
    case(aten.slice.Tensor, ref.linear, x8(), 2, 1, 7, 2),
    case(aten.cat.default, ref.linear, [normal(2, 3), normal(2, 2), normal(2, 1)], 1, live=(0, 2), batch=(0, 1, 2)),
    case(aten.stack.default, ref.linear, [normal(2, 3), normal(2, 3)], -1, **BOTH),
    case(aten.repeat.default, ref.linear, normal(2, 3), [1, 2], **NO_BATCH),
    case(aten.repeat_interleave.self_int, ref.linear, normal(2, 3), 2, 1),
    case(aten.flip.default, ref.linear, x8(), [1, 2]),
    case(aten.roll.default, ref.linear, x8(), [3], [2]),
    case(aten.constant_pad_nd.default, ref.linear, normal(2, 3), [1, -1], 2.0),
    case(aten.reflection_pad1d.default, ref.linear, x8(), [2, 1]),
    case(aten.reflection_pad2d.default, ref.linear, image(), [2, 1, 1, 0]),
    case(aten.replication_pad1d.default, ref.linear, x8(), [2, 1]),
    case(aten.replication_pad2d.default, ref.linear, image(), [2, 1, 1, 0]),
    case(aten.pixel_shuffle.default, ref.linear, image(4, 2), 2),
    case(aten.pixel_unshuffle.default, ref.linear, image(1, 4), 2),
    case(aten.diagonal.default, ref.linear, normal(2, 3, 3), 0, 1, 2),
    case(aten.unfold.default, ref.linear, x8(), 2, 4, 2),
    case(aten.im2col.default, ref.linear, image(), [2, 2], [1, 1], [1, 0], [2, 1]),
    case(aten.col2im.default, ref.linear, normal(2, 4, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
    case(aten.tril.default, ref.linear, normal(2, 3, 3)),
    case(aten.triu.default, ref.linear, normal(2, 3, 3), 1),
    case(aten.alias.default, ref.linear, normal(2, 3)),
    case(aten.clone.default, ref.linear, normal(2, 3)),
    case(aten._to_copy.default, ref.linear, normal(2, 3), kwargs={"dtype": torch.float64}),
]

POSITIONS = torch.tensor([[0, 2], [1, 1]])
SELECTIONS = [
    case(aten.gather.default, ref.linear, normal(2, 4), 1, POSITIONS, batch=(0, 2)),
    case(aten.index.Tensor, ref.linear, normal(2, 4), [None, ints(3, 0, 3)]),
    case(aten.index_select.default, ref.linear, normal(2, 4), 1, ints(3, 0, 3)),
    case(aten.embedding.default, ref.linear, normal(5, 3), POSITIONS, batch=(1,)),
    case(aten.where.self, ref.linear, bools(2, 4), normal(2, 4), normal(2, 1), live=(1, 2), batch=(0, 1, 2)),
    case(aten.where.self, ref.linear, bools(2, 4), normal(2, 4), torch.tensor(-math.inf), live=(1,), batch=(0, 1),
         label="minus infinity"),
    case(aten.masked_fill.Scalar, ref.linear, normal(2, 4), bools(2, 4), -math.inf, batch=(0, 1)),
    case(aten.masked_fill.Tensor, ref.linear, normal(2, 4), bools(2, 4), normal(), live=(0, 2), batch=(0, 1)),
    case(aten.masked_scatter.default, ref.linear, normal(2, 4), bools(2, 4), normal(8), live=(0, 2), **NO_BATCH),
    case(aten.index_put.default, ref.linear, normal(2, 4), [None, ints(3, 0)], normal(2, 2), live=(0, 3),
         batch=(0, 3)),
    case(aten.index_put.default, ref.linear, normal(2, 4), [None, ints(3, 3)], normal(2, 2), True, live=(0, 3),
         batch=(0, 3), label="accumulate"),
    case(aten._unsafe_index.Tensor, ref.linear, normal(2, 4), [None, ints(3, 0, 3)]),
    case(aten.index_add.default, ref.linear, normal(2, 4), 1, ints(3, 0, 3), normal(2, 3), live=(0, 3), batch=(0, 3),
         kwargs={"alpha": 2}),
    case(aten.scatter.src, ref.linear, normal(2, 4), 1, torch.tensor([[0, 2], [1, 3]]), normal(2, 2), live=(0, 3),
         batch=(0, 2, 3)),
    case(aten.scatter.value, ref.linear, normal(2, 4), 1, POSITIONS, 1.5, batch=(0, 2)),
    case(aten.scatter_add.default, ref.linear, normal(2, 4), 1, POSITIONS, normal(2, 2), live=(0, 3),
         batch=(0, 2, 3)),
    case(aten.slice_scatter.default, ref.linear, normal(2, 4), normal(2, 2), 1, 1, 3, **BOTH),
    case(aten.select_scatter.default, ref.linear, normal(2, 4), normal(2), 1, 1, **BOTH),
]  # fmt: skip

LINEAR = [
    case(aten.linear.default, ref.affine, normal(2, 3, 4), normal(5, 4), normal(5)),
    case(aten.linear.default, ref.affine, normal(2, 4), normal(5, 4), label="no bias"),
    case(aten.linear.default, ref.affine, normal(2, 4), normal(5, 4), normal(5), live=(0, 1, 2), **NO_BATCH,
         label="all live"),
    case(aten.linear.default, ref.affine, normal(2, 4), normal(5, 4), normal(5), live=(1,), **NO_BATCH,
         label="weight live"),
    case(aten.linear.default, ref.affine, normal(2, 4), normal(5, 4), normal(5), live=(0, 2), **NO_BATCH,
         label="bias live"),
    case(aten.conv1d.default, ref.affine, x8(), normal(4, 3, 3), normal(4), [2], [1], [2]),
    case(aten.conv1d.default, ref.affine, x8(), normal(4, 3, 3), None, live=(0, 1), **NO_BATCH, label="weight live"),
    case(aten.conv2d.default, ref.affine, image(), normal(4, 1, 2, 3), normal(4), [2, 1], [1, 0], [1, 1], 2),
    case(aten.conv3d.default, ref.affine, volume(), normal(2, 1, 2, 2, 1), normal(2)),
    case(aten.conv1d.padding, ref.affine, x8(), normal(4, 3, 3), None, [1], "same"),
    case(aten.conv2d.padding, ref.affine, image(), normal(2, 2, 3, 3), normal(2), [1, 1], "valid"),
    case(aten.conv3d.padding, ref.affine, volume(), normal(1, 1, 1, 3, 1), None, [1, 1, 1], "same"),
    case(aten.conv_transpose1d.default, ref.affine, x8(), normal(3, 2, 3), normal(2), [2], [1], [1]),
    case(aten.conv_transpose2d.input, ref.affine, image(), normal(2, 2, 2, 2), normal(4), [2, 1], [0, 1], [0, 0], 2),
    case(aten.conv_transpose3d.input, ref.affine, volume(), normal(1, 2, 2, 1, 2)),
    case(aten.convolution.default, ref.affine, image(), normal(3, 2, 2, 2), normal(3), [1, 1], [0, 0], [1, 1], False,
         [0, 0], 1),
]  # fmt: skip

ROOT_LEAK = "the stabiliser takes its part"
OFFSET = "the value at 0 is a constant"
CURVED = "not homogeneous: first order only"
PRODUCTS = [
    case(aten.mul.Tensor, ref.product, with_zeros(normal(2, 3)), with_zeros(normal(2, 3)), **BOTH),
    case(aten.mul.Tensor, ref.product, normal(2, 3), normal(3), live=(0, 1), label="broadcast"),
    case(aten.mul.Tensor, ref.product, normal(2, 3), normal(2, 3), live=(1,), batch=(0, 1), label="one live"),
    case(aten.mul.Tensor, ref.product, normal(2, 3), -1.5, label="constant"),
    case(aten.matmul.default, ref.product, normal(2, 3, 4), normal(2, 4, 2), **BOTH),
    case(aten.matmul.default, ref.product, normal(2, 3, 4), normal(4), label="vector"),
    case(aten.bmm.default, ref.product, normal(2, 3, 4), normal(2, 4, 2), **BOTH),
    case(aten.mm.default, ref.product, normal(3, 4), normal(4, 2), live=(0, 1)),
    case(aten.mv.default, ref.product, normal(3, 4), normal(4), live=(0, 1)),
    case(aten.dot.default, ref.product, normal(4), normal(4), live=(0, 1), **NO_BATCH),
    case(aten.addmm.default, ref.sum_and_product, normal(2), normal(3, 4), normal(4, 2), live=(0, 1, 2), batch=(1,)),
    case(aten.addmm.default, ref.sum_and_product, normal(2), normal(3, 4), normal(4, 2), live=(0, 1), batch=(1,),
         kwargs={"beta": 0.5, "alpha": 2.0}, label="one factor live"),
    case(aten.addmm.default, ref.sum_and_product, normal(2), normal(3, 4), normal(4, 2), **NO_BATCH, label="term live"),
    case(aten.baddbmm.default, ref.sum_and_product, normal(2, 3, 2), normal(2, 3, 4), normal(2, 4, 2),
         live=(0, 1, 2), batch=(0, 1, 2), kwargs={"alpha": 0.5}),
    case(aten.addmv.default, ref.sum_and_product, normal(3), normal(3, 4), normal(4), live=(0, 1, 2), batch=(0, 1)),
    case(aten.addbmm.default, ref.sum_and_product, normal(3, 2), normal(2, 3, 4), normal(2, 4, 2), live=(0, 1, 2),
         **NO_BATCH),
    case(aten._trilinear.default, ref.product, normal(2, 3), normal(4, 3, 2), normal(2, 2), [1, 3], [0], [1, 2],
         [2, 3], live=(0, 1, 2), **NO_BATCH),
    case(aten.ldexp.Tensor, ref.linear, normal(2, 3), ints(-1, 0, 3)),
    case(aten.ldexp.Tensor, ref.pointwise(lambda x, k: x * 2**k * math.log(2)), normal(2, 3), normal(3), live=(1,),
         keeps=OFFSET, label="exponent"),
    case(aten.div.Tensor, ref.linear, normal(2, 3), uniform(0.5, 2, 2, 1), batch=(0, 1)),
    case(aten.div.Tensor, ref.pointwise(lambda a, b: -a / b**2), normal(2, 3), uniform(0.5, 2, 2, 3), live=(1,),
         batch=(0, 1), keeps=-1.0, zero=False, label="by live"),
    case(aten.prod.dim_int, ref.reduced_product, with_zeros(normal(2, 6)), 1),
    case(aten.prod.dim_int, ref.reduced_product, torch.tensor([[0.0, 2, 0], [1, 0, 3], [2, 3, 4]]).double(), -1, True,
         label="several zeros"),
    case(aten.prod.default, ref.reduced_product, normal(2, 3), **NO_BATCH),
    *(
        case(aten.pow.Tensor_Scalar, ref.pointwise(lambda x, k=k: x ** (k - 1)), wide() / 4, k, label=f"{k}")
        for k in (1, 2, 2.0, 3, 4)
    ),
    case(aten.pow.Tensor_Scalar, ref.pointwise(lambda x: x**1.5), wide().abs(), 2.5, label="2.5"),
    *(
        case(aten.pow.Tensor_Scalar, ref.pointwise(lambda x, k=k: 1 / (x ** (1 - k) + 1e-6)), wide().abs(), k,
             keeps=ROOT_LEAK, label=f"{k}")
        for k in (0.5, 0.25)
    ),
    case(aten.pow.Tensor_Scalar, ref.pointwise(lambda x: 0.0), with_zeros(normal(2, 3)), 0, keeps=0.0, label="0"),
    *(
        case(aten.pow.Tensor_Scalar, ref.pointwise(lambda x, k=k: k * x ** (k - 1)), uniform(0.5, 2, 2, 3), k,
             keeps=float(k), zero=False, label=f"{k}")
        for k in (-1, -2, -0.5)
    ),
]  # fmt: skip


def bessel(x: float) -> float:
    """The modified Bessel function of order one."""
    return sum((x / 2) ** (2 * k + 1) / (math.factorial(k) * math.factorial(k + 1)) for k in range(30))


def erfinv(x: float) -> float:
    return NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)


def phi(x: float) -> float:
    """The normal distribution function, accurate in its tail."""
    return math.erfc(-x / math.sqrt(2)) / 2


def sigmoid(x: float) -> float:
    return math.exp(x) / (1 + math.exp(x)) if x < 0 else 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def hard(x: float) -> float:
    return min(max(x / 6 + 0.5, 0.0), 1.0)


def curve(x: float, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> float:
    """The ELU family."""
    return scale * (x if x > 0 else alpha * math.expm1(x * inner))


TANH = math.sqrt(2 / math.pi)
SELU = 1.6732632423543772, 1.0507009873554805
PRELU = uniform(0.1, 0.5, 3)
POINTWISE = [
    case(aten.relu.default, ref.passing(lambda x: max(x, 0.0), 0.0), wide()),
    case(aten.gelu.default, ref.pointwise(phi), wide()),
    case(aten.gelu.default, ref.pointwise(lambda x: sigmoid(2 * TANH * (x + 0.044715 * x**3))), wide(),
         kwargs={"approximate": "tanh"}, label="tanh"),
    case(aten.gelu.default, ref.pointwise(phi), wide(), kwargs={"approximate": "none"}, label="named"),
    case(aten.silu.default, ref.pointwise(sigmoid), wide()),
    case(aten.mish.default, ref.pointwise(lambda x: math.tanh(softplus(x))), wide()),
    case(aten.hardswish.default, ref.pointwise(hard), wide()),
    case(aten.leaky_relu.default, ref.pointwise(lambda x: 1.0 if x > 0 else 0.01), wide()),
    case(aten.leaky_relu.default, ref.pointwise(lambda x: 1.0 if x > 0 else 0.3), wide(), 0.3, label="slope"),
    case(aten.leaky_relu.default, ref.pointwise(lambda x: 1.0 if x > 0 else 0.3), wide(),
         kwargs={"negative_slope": 0.3}, label="named slope"),
    case(aten.prelu.default, ref.pointwise(lambda x, w: 1.0 if x > 0 else w), with_zeros(normal(2, 3)), PRELU),
    case(aten._prelu_kernel.default, ref.pointwise(lambda x, w: 1.0 if x > 0 else w), with_zeros(normal(2, 3)), PRELU),
    case(aten.abs.default, ref.passing(abs, 0.0), wide()),
    case(aten.hardtanh.default, ref.passing(lambda x: min(max(x, -1.0), 1.0), 1.0), wide()),
    case(aten.hardtanh.default, ref.passing(lambda x: min(max(x, 0.0), 6.0), 0.0), wide(), 0.0, 6.0, label="relu6"),
    case(aten.hardtanh.default, ref.passing(lambda x: min(max(x, -1.0), 6.0), 1.0), wide(),
         kwargs={"max_val": 6.0}, label="named bound"),
    case(aten.hardtanh.default, ref.passing(lambda x: min(max(x, -2.0), 0.0), 0.0), wide(), -2.0, 0.0,
         label="negative"),
    case(aten.hardtanh.default, ref.pointwise(lambda x: float(0.5 < x < 2)), uniform(0, 3, 2, 6), 0.5, 2.0,
         keeps="the bounds are constants", label="off zero"),
    case(aten.sqrt.default, ref.pointwise(lambda x: 1 / (math.sqrt(x) + 1e-6)), wide().abs(), keeps=ROOT_LEAK),
    case(aten.tanh.default, ref.passing(math.tanh, 1.0), wide()),
    case(aten.erf.default, ref.passing(math.erf, 2 / math.sqrt(math.pi)), wide()),
    case(aten.atan.default, ref.passing(math.atan, 1.0), wide()),
    case(aten.asin.default, ref.passing(math.asin, 1.0), with_zeros(uniform(-1, 1, 2, 6))),
    case(aten.sin.default, ref.passing(math.sin, 1.0), wide()),
    case(aten.tan.default, ref.passing(math.tan, 1.0), with_zeros(uniform(-1.5, 1.5, 2, 6))),
    case(aten.sinh.default, ref.passing(math.sinh, 1.0), with_zeros(normal(2, 6))),
    case(aten.asinh.default, ref.passing(math.asinh, 1.0), with_zeros(normal(2, 6))),
    case(aten.atanh.default, ref.passing(math.atanh, 1.0), with_zeros(uniform(-0.9, 0.9, 2, 6))),
    case(aten.expm1.default, ref.passing(math.expm1, 1.0), with_zeros(normal(2, 6))),
    case(aten.log1p.default, ref.passing(math.log1p, 1.0), with_zeros(uniform(-0.9, 3, 2, 6))),
    case(aten.erfinv.default, ref.passing(erfinv, math.sqrt(math.pi) / 2), with_zeros(uniform(-0.9, 0.9, 2, 6))),
    case(aten.special_i1.default, ref.passing(bessel, 0.5), with_zeros(normal(2, 6))),
    case(aten.special_i1e.default, ref.passing(lambda x: bessel(x) * math.exp(-abs(x)), 0.5),
         with_zeros(normal(2, 6))),
    case(aten.copysign.Tensor, ref.pointwise(lambda x, s: math.copysign(1, s) * ((x > 0) - (x < 0))), wide(),
         normal(12)),
    case(aten.copysign.Scalar, ref.pointwise(lambda x: float((x < 0) - (x > 0))),
         torch.linspace(-3, 3, 13).double(), -2.5),
    case(aten.nextafter.default, ref.pointwise(lambda x, y: float(x != y)), normal(2, 6), normal(6)),
    case(OneOutput(aten.frexp.Tensor, 0), ref.pointwise(lambda x: 2.0 ** -math.frexp(x)[1]), with_zeros(normal(2, 6))),
    case(aten.elu.default, ref.passing(curve, 1.0), wide()),
    case(aten.elu.default, ref.passing(lambda x: curve(x, 0.5, 2.0, 3.0), 3.0), wide(), 0.5, 2.0, 3.0, label="alpha"),
    case(aten.elu.default, ref.passing(lambda x: curve(x, 0.5), 0.5), wide(), kwargs={"alpha": 0.5}, label="named"),
    case(aten.selu.default, ref.passing(lambda x: curve(x, *SELU), SELU[0] * SELU[1]), wide()),
    case(aten.celu.default, ref.passing(curve, 1.0), wide()),
    case(aten.celu.default, ref.passing(lambda x: curve(x, 2.0, 1.0, 0.5), 1.0), wide(), 2.0, label="alpha"),
    case(aten.hardshrink.default, ref.pointwise(lambda x: float(abs(x) > 0.5)), wide()),
    case(aten.hardshrink.default, ref.pointwise(lambda x: float(abs(x) > 1.5)), wide(), 1.5, label="lambda"),
    case(aten.softshrink.default, ref.passing(lambda x: math.copysign(max(abs(x) - 0.5, 0.0), x), 0.0), wide()),
    case(aten.softshrink.default, ref.passing(lambda x: math.copysign(max(abs(x) - 1.5, 0.0), x), 0.0), wide(), 1.5,
         label="lambda"),
]  # fmt: skip

TAYLOR = [
    case(aten.sigmoid.default, ref.pointwise(lambda x: sigmoid(x) * sigmoid(-x)), wide(), keeps=OFFSET),
    case(aten.hardsigmoid.default, ref.pointwise(lambda x: 1 / 6 if -3 < x < 3 else 0.0), wide(), keeps=OFFSET),
    case(aten.softplus.default, ref.pointwise(sigmoid), normal(2, 6), keeps=OFFSET),
    case(aten.softplus.default, ref.pointwise(lambda x: sigmoid(2 * x)), normal(2, 6), 2.0, 30.0, keeps=OFFSET,
         label="beta"),
    case(aten.log_sigmoid.default, ref.pointwise(lambda x: sigmoid(-x)), wide(), keeps=OFFSET),
    case(aten.exp.default, ref.pointwise(math.exp), normal(2, 6), keeps=OFFSET),
    case(aten.exp2.default, ref.pointwise(lambda x: math.log(2) * 2**x), normal(2, 6), keeps=OFFSET),
    case(aten.cos.default, ref.pointwise(lambda x: -math.sin(x)), wide(), keeps=OFFSET),
    case(aten.cosh.default, ref.pointwise(math.sinh), normal(2, 6), keeps=OFFSET),
    case(aten.acos.default, ref.pointwise(lambda x: -1 / math.sqrt(1 - x * x)), uniform(-0.9, 0.9, 2, 6),
         keeps=OFFSET),
    case(aten.acosh.default, ref.pointwise(lambda x: 1 / math.sqrt(x * x - 1)), uniform(1.5, 3, 2, 6), keeps=CURVED,
         zero=False),
    case(aten.log.default, ref.pointwise(lambda x: 1 / x), uniform(0.5, 3, 2, 6), keeps=CURVED, zero=False),
    case(aten.log2.default, ref.pointwise(lambda x: 1 / (x * math.log(2))), uniform(0.5, 3, 2, 6), keeps=CURVED,
         zero=False),
    case(aten.log10.default, ref.pointwise(lambda x: 1 / (x * math.log(10))), uniform(0.5, 3, 2, 6), keeps=CURVED,
         zero=False),
    case(aten.logsumexp.default, ref.logsumexp, normal(2, 6), [1], keeps=OFFSET),
    case(aten.erfc.default, ref.pointwise(lambda x: -2 / math.sqrt(math.pi) * math.exp(-x * x)), wide(), keeps=OFFSET),
    case(aten.rsqrt.default, ref.pointwise(lambda x: -0.5 * x**-1.5), uniform(0.5, 3, 2, 6), keeps=-0.5, zero=False),
    case(aten.reciprocal.default, ref.pointwise(lambda x: -1 / x**2), uniform(0.5, 3, 2, 6), keeps=-1.0, zero=False),
    case(aten.linalg_vector_norm.default, ref.vector_norm, with_zeros(normal(2, 6)), 2, [1], True),
    case(aten.linalg_vector_norm.default, ref.vector_norm, normal(2, 6), 3, [1], False, label="cubic"),
    case(aten.linalg_vector_norm.default, ref.vector_norm, normal(2, 6), 1, [1], False, label="absolute"),
    case(aten.std.correction, ref.deviation, normal(2, 6), [1], kwargs={"correction": 1, "keepdim": True}),
    case(aten.var.correction, ref.variance, normal(2, 6), [1], kwargs={"correction": 0, "keepdim": True}, keeps=2.0),
    case(aten.hypot.default, ref.pointwise(lambda a, b: a / math.hypot(a, b), lambda a, b: b / math.hypot(a, b)),
         normal(2, 6), normal(2, 6), **BOTH),
    case(aten.hypot.default, ref.pointwise(lambda a, b: b / math.hypot(a, b)), normal(2, 6), normal(6), live=(1,),
         batch=(0,), keeps=CURVED, label="one live"),
    case(aten.pow.Tensor_Tensor, ref.pointwise(lambda a, b: b * a ** (b - 1), lambda a, b: a**b * math.log(a)),
         uniform(0.5, 2, 2, 6), normal(2, 6), **BOTH, keeps=CURVED),
    case(aten.pow.Scalar, ref.pointwise(lambda b: 3**b * math.log(3)), 3.0, normal(2, 6), live=(1,), batch=(1,),
         keeps=OFFSET),
    case(aten.atan2.default, ref.pointwise(lambda a, b: b / (a * a + b * b), lambda a, b: -a / (a * a + b * b)),
         normal(2, 6), normal(2, 6), **BOTH, keeps=0.0),
    case(aten.xlogy.Tensor, ref.pointwise(lambda a, b: math.log(b), lambda a, b: a / b), with_zeros(normal(2, 6)),
         uniform(0.5, 2, 2, 6), **BOTH, keeps=CURVED, zero=False),
    *(
        case(op, ref.taylor, draw(2, 6), keeps=why, zero=zero)
        for op, draw, why, zero in (
            (aten.i0.default, normal, OFFSET, True),
            (aten.special_i0e.default, normal, OFFSET, True),
            (aten.special_erfcx.default, normal, OFFSET, True),
            (aten.special_log_ndtr.default, normal, OFFSET, True),
            (aten.special_ndtri.default, chances, OFFSET, False),
            (aten.lgamma.default, chances, OFFSET, False),
            (aten.digamma.default, chances, OFFSET, False),
        )
    ),
    case(aten.polygamma.default, ref.taylor, 2, uniform(1.5, 3, 2, 6), live=(1,), batch=(1,), keeps=CURVED,
         zero=False),
    case(aten.logcumsumexp.default, ref.taylor, normal(2, 6), 1, keeps=OFFSET),
    case(aten.angle.default, ref.nothing, normal(2, 6), keeps=0.0),
    case(aten.dist.default, ref.taylor, normal(2, 3), normal(2, 3), 2, live=(0, 1), **NO_BATCH),
    case(aten._pdist_forward.default, ref.taylor, normal(4, 3), 2.0, **NO_BATCH),
    case(aten.remainder.Tensor, ref.taylor, uniform(1.0, 1.3, 2, 6), uniform(0.7, 0.9, 2, 6), **BOTH, zero=False),
    case(aten.fmod.Tensor, ref.taylor, uniform(1.0, 1.3, 2, 6), uniform(0.7, 0.9, 2, 6), **BOTH, zero=False),
    case(aten.remainder.Scalar, ref.pointwise(lambda x: 1.0), normal(2, 6), 0.7, keeps="the quotient's floor is fixed"),
    case(aten.fmod.Scalar, ref.pointwise(lambda x: 1.0), normal(2, 6), 0.7, keeps="the whole quotient is fixed"),
    case(aten._cdist_forward.default, ref.distance, normal(2, 3, 2), normal(2, 2, 2), 2.0, None, **BOTH),
]  # fmt: skip


def first_wins(a: float, b: float) -> float:
    return 0.5 if a == b else float(a > b)


def first_loses(a: float, b: float) -> float:
    return first_wins(b, a)


TIES = torch.tensor([[3.0, 1, 3, 2, 0, 3], [0, 0, 0, 0, 0, 0]]).double()
LEFT = torch.tensor([[1.0, 2, 0, -1]]).double().repeat(2, 1)
RIGHT = torch.tensor([[1.0, 1, 0, 3]]).double().repeat(2, 1)
TIE = 0.5 if torch.__version__ >= (2, 14) else 1.0
"""What the first operand of fmax or fmin takes of a tie: torch before 2.14 gives it all."""
CLIPPED = "what is clipped is a constant"
WINNERS = [
    case(aten.max_pool1d.default, ref.max_pool, x8(), [3], [2], [1]),
    case(aten.max_pool2d.default, ref.max_pool, image(), [2, 3], [1, 2], [1, 1], [2, 1]),
    case(aten.max_pool2d.default, ref.max_pool, torch.zeros(2, 1, 4, 4).double(), [2, 2], label="zeros"),
    case(aten.max_pool3d.default, ref.max_pool, volume(), [2, 2, 1]),
    case(aten.max.default, ref.winners, TIES, **NO_BATCH),
    case(aten.min.default, ref.winners, TIES, **NO_BATCH),
    case(aten.median.default, ref.winners, TIES, **NO_BATCH),
    case(aten.nanmedian.default, ref.winners, normal(2, 3), **NO_BATCH),
    case(OneOutput(aten.fractional_max_pool2d.default, 0), ref.taylor, normal(2, 2, 5, 5), [2, 2], [3, 2],
         uniform(0, 1, 2, 2, 2), batch=(0, 5)),
    case(OneOutput(aten.fractional_max_pool3d.default, 0), ref.taylor, normal(2, 1, 5, 5, 5), [2, 2, 2], [2, 3, 2],
         uniform(0, 1, 2, 1, 3), batch=(0, 7)),
    case(aten.amax.default, ref.winners, TIES, [1], True),
    case(aten.amax.default, ref.winners, x8(), [1, 2], label="two dimensions"),
    case(aten.amin.default, ref.winners, TIES, [-1]),
    *(
        case(op, ref.pointwise(wins, loses), LEFT, RIGHT, **BOTH)
        for ops, wins, loses in (
            ((aten.maximum.default, aten.max.other), first_wins, first_loses),
            ((aten.minimum.default, aten.min.other), first_loses, first_wins),
            ((aten.fmax.default,), lambda a, b: TIE if a == b else a > b, lambda a, b: 1 - TIE if a == b else a < b),
            ((aten.fmin.default,), lambda a, b: TIE if a == b else a < b, lambda a, b: 1 - TIE if a == b else a > b),
        )
        for op in ops
    ),
    case(aten.maximum.default, ref.pointwise(first_wins), LEFT, torch.tensor(0.0).double(), keeps=1.0, label="relu"),
    case(aten.clamp.default, ref.pointwise(lambda x: float(-0.5 <= x <= 1)), wide(), -0.5, 1.0, keeps=CLIPPED),
    case(aten.clamp.default, ref.pointwise(lambda x: float(x <= 1)), wide(), None, 1.0, keeps=CLIPPED, label="above"),
    case(aten.clamp_min.default, ref.pointwise(lambda x: float(x >= -1)), wide(), -1.0, keeps=CLIPPED),
    case(aten.clamp_max.default, ref.pointwise(lambda x: float(x <= 1)), wide(), 1.0, keeps=CLIPPED),
    case(aten.clamp.Tensor,
         ref.pointwise(
             lambda x, low, high: float(low <= x <= high),
             lambda x, low, high: float(x < low),
             lambda x, low, high: float(x > high),
         ),
         normal(2, 6), uniform(-1, -0.2, 2, 6), uniform(0.2, 1, 6), live=(0, 1, 2), batch=(0, 1)),
]  # fmt: skip

FIRST_ORDER = "softmax leaks: first order only"
LOGITS = normal(2, 3, 4).masked_fill(torch.arange(4) > torch.arange(3)[:, None], -math.inf)
SOFTMAX = [
    case(aten.softmax.int, ref.softmax, normal(2, 3, 4), -1, keeps=FIRST_ORDER),
    case(aten.softmax.int, ref.softmax, LOGITS, -1, keeps=FIRST_ORDER, label="masked"),
    case(aten.softmax.int, ref.softmax, normal(2, 3, 4), 1, torch.float64, keeps=FIRST_ORDER, label="dtype"),
    case(aten._softmax.default, ref.softmax, normal(2, 4), 1, False, keeps=FIRST_ORDER),
    case(aten._safe_softmax.default, ref.softmax, normal(2, 3, 4), -1, keeps=FIRST_ORDER),
    case(
        aten._safe_softmax.default,
        ref.softmax,
        LOGITS.masked_fill(torch.arange(3)[:, None] == 1, -math.inf),
        -1,
        keeps=FIRST_ORDER,
        label="row without keys",
    ),
    case(aten.log_softmax.int, ref.log_softmax, normal(2, 3, 4), 2, keeps=FIRST_ORDER),
    case(aten._log_softmax.default, ref.log_softmax, normal(2, 3), 1, False, keeps=FIRST_ORDER),
]


def rows(size: int) -> Any:
    return lambda x: x.reshape(-1, size)


def trailing(vector: Tensor, x: Tensor) -> Tensor:
    return vector.expand(x.shape)


def channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(1, -1, *[1] * (x.ndim - 2)).expand(x.shape)


def norm_case(op: Any, reference: Reference, *args: Any, **options: Any) -> OpCase:
    return case(op, reference, with_zeros(normal(2, 4, 3, 2)), *args, **options)


LAYER, LAYER2, RMS = ref.norm(rows(2), trailing), ref.norm(rows(6), trailing), ref.norm(rows(2), trailing, False)
GROUP, INSTANCE = ref.norm(rows(12), channels), ref.norm(rows(6), channels)
NORMS = [
    norm_case(aten.layer_norm.default, LAYER, [2], normal(2), normal(2)),
    norm_case(aten.layer_norm.default, LAYER2, [3, 2], normal(3, 2), None, 1e-3, label="two dimensions"),
    norm_case(aten.layer_norm.default, LAYER2, [3, 2], label="plain"),
    norm_case(aten.layer_norm.default, LAYER2, [3, 2], None, normal(3, 2), label="bias only"),
    norm_case(aten.layer_norm.default, LAYER, [2], normal(2), normal(2), live=(0, 2, 3), label="all live"),
    norm_case(aten.layer_norm.default, LAYER, [2], normal(2), normal(2), live=(2,), **NO_BATCH, label="weight live"),
    norm_case(aten.layer_norm.default, LAYER, [2], normal(2), normal(2), live=(0, 3), label="bias live"),
    norm_case(aten.rms_norm.default, RMS, [2], normal(2), 1e-3),
    norm_case(aten.rms_norm.default, RMS, [2], normal(2), label="default epsilon"),
    case(aten.rms_norm.default, RMS, 1e-8 * normal(2, 3, 2), [2], label="as small as epsilon"),
    norm_case(aten.rms_norm.default, ref.norm(rows(6), trailing, False), [3, 2], None, 1e-3, label="plain"),
    norm_case(aten.rms_norm.default, RMS, [2], normal(2), 1e-3, live=(0, 2), label="all live"),
    norm_case(aten.group_norm.default, GROUP, 2, normal(4), normal(4)),
    norm_case(aten.group_norm.default, GROUP, 2, label="plain"),
    norm_case(aten.group_norm.default, GROUP, 2, normal(4), None, 1e-3, label="no bias"),
    norm_case(aten.group_norm.default, GROUP, 2, normal(4), normal(4), live=(0, 2, 3), label="all live"),
    norm_case(aten.instance_norm.default, INSTANCE, normal(4), normal(4), None, None, True, 0.1, 1e-3, False),
    norm_case(aten.instance_norm.default, INSTANCE, None, None, None, None, True, 0.1, 1e-3, False, label="plain"),
    norm_case(aten.instance_norm.default, ref.linear, normal(4), normal(4), normal(4), uniform(0.5, 2, 4), False, 0.1,
              1e-3, False, label="running statistics"),
]  # fmt: skip


def attention(live: tuple[int, ...], mask: Any = None, label: str = "", **options: Any) -> OpCase:
    q, k, v = normal(2, 4, 3, 2), normal(2, options.pop("kv_heads", 4), 5, 2), normal(2, 4, 5, 3)
    if "enable_gqa" in options:
        v = normal(2, k.shape[1], 5, 3)
    causal = options.pop("causal", False)
    batch = (0, 1, 2) if not isinstance(mask, Tensor) or mask.ndim < 4 or mask.shape[0] == 1 else (0, 1, 2, 3)
    return OpCase(
        aten.scaled_dot_product_attention.default,
        (q, k, v, mask, 0.0, causal),
        ref.attention,
        label="".join("qkvm"[slot] for slot in live) + (f" {label}" if label else ""),
        kwargs=options,
        live=live,
        keeps=1.0 if live == (2,) else FIRST_ORDER,
        batch=batch,
    )


CAUSAL = torch.ones(3, 5).tril().bool()
DEAD_ROW = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
ADDED = normal(2, 1, 3, 5).masked_fill(~CAUSAL, -math.inf)
LIVE = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
ATTENTION = [
    *(attention(live) for live in LIVE),
    *(attention(live, ADDED, "added mask") for live in LIVE),
    *(attention(live, normal(3, 5), "added bias") for live in ((3,), (2, 3), (0, 1, 3), (0, 1, 2, 3))),
    attention((0, 1, 2), CAUSAL, "boolean mask"),
    attention((0, 1, 2), DEAD_ROW, "row without keys"),
    attention((0, 1, 2), torch.zeros(3, 5).double().masked_fill(~DEAD_ROW, -math.inf), "row of minus infinity"),
    attention((0, 1, 2), label="causal", causal=True),
    attention((0, 1, 2), label="scale", scale=0.3),
    attention((0, 1, 2), CAUSAL, "grouped", enable_gqa=True, kv_heads=2, scale=0.7),
    attention((1,), label="grouped causal", enable_gqa=True, kv_heads=1, causal=True),
]

SILENT = [
    *(
        case(op, ref.nothing, with_zeros(normal(2, 3)), *args, keeps=0.0, kwargs=kwargs)
        for op, args, kwargs in (
            (aten.floor.default, (), {}),
            (aten.ceil.default, (), {}),
            (aten.round.default, (), {}),
            (aten.round.decimals, (), {"decimals": 1}),
            (aten.trunc.default, (), {}),
            (aten.sign.default, (), {}),
            (aten.sgn.default, (), {}),
            (aten.heaviside.default, (torch.tensor(0.5).double(),), {}),
            (aten.floor_divide.default, (0.7,), {}),
            (aten.div.Tensor_mode, (torch.tensor(0.7).double(),), {"rounding_mode": "floor"}),
            (aten.div.Scalar_mode, (0.7,), {"rounding_mode": "trunc"}),
            (aten.zeros_like.default, (), {}),
            (aten.ones_like.default, (), {}),
            (aten.full_like.default, (2.5,), {}),
            (aten.empty_like.default, (), {}),
            (aten.rand_like.default, (), {}),
            (aten.randn_like.default, (), {}),
            (aten.new_zeros.default, ([2, 3],), {}),
            (aten.new_ones.default, ([2, 3],), {}),
            (aten.new_full.default, ([2, 3], 2.5), {}),
            (aten.new_empty.default, ([2, 3],), {}),
            (aten.detach.default, (), {}),
        )
    )
]

COMPLEX = [
    case(aten.view_as_real.default, ref.linear, complex_normal(2, 3)),
    case(aten.view_as_complex.default, ref.linear, normal(2, 3, 2)),
    case(aten.complex.default, ref.linear, normal(2, 3), normal(2, 3), **BOTH),
    case(aten._conj.default, ref.linear, complex_normal(2, 3)),
    case(aten._conj_physical.default, ref.linear, complex_normal(2, 3)),
    case(aten._neg_view.default, ref.linear, normal(2, 3)),
    case(aten._fft_r2c.default, ref.linear, normal(2, 5), [1], 0, True),
    case(aten._fft_r2c.default, ref.linear, normal(2, 4), [1], 1, False, label="both sides"),
    case(aten._fft_c2c.default, ref.linear, complex_normal(2, 4), [1], 2, False),
    case(aten._fft_c2r.default, ref.linear, complex_normal(2, 3), [1], 0, 5),
    case(aten.add.Tensor, ref.linear, complex_normal(2, 3), complex_normal(2, 3), **BOTH, label="complex"),
    case(aten.mul.Tensor, ref.product, complex_normal(2, 3), complex_normal(2, 3), **BOTH, label="complex"),
    case(aten.mul.Tensor, ref.product, normal(2, 3), complex_normal(2, 3), batch=(0, 1), label="real by complex"),
    case(aten.matmul.default, ref.product, complex_normal(2, 3, 4), complex_normal(2, 4, 2), **BOTH, label="complex"),
    case(aten.sum.dim_IntList, ref.linear, complex_normal(2, 3), [1], label="complex"),
    case(aten.abs.default, ref.taylor, complex_normal(2, 3), label="complex"),
    case(aten.sqrt.default, ref.quotient(torch.sqrt, 1e-6), complex_normal(2, 3), keeps=ROOT_LEAK, label="complex"),
    case(aten.pow.Tensor_Scalar, ref.quotient(torch.square), complex_normal(2, 3), 2, label="complex"),
    case(aten.tanh.default, ref.quotient(torch.tanh), complex_normal(2, 3), label="complex"),
    case(aten.exp.default, ref.taylor, complex_normal(2, 3), keeps=OFFSET, label="complex"),
    case(aten.angle.default, ref.taylor, complex_normal(2, 3), keeps=0.0, zero=True, label="complex"),
    case(aten.polar.default, ref.linear, uniform(0.5, 2, 2, 3), normal(2, 3), batch=(0, 1)),
    case(aten.polar.default, ref.taylor, uniform(0.5, 2, 2, 3), normal(2, 3), live=(1,), batch=(0, 1), keeps=OFFSET,
         label="angle"),
]  # fmt: skip


def matrices(n: int = 3) -> Tensor:
    """Well-conditioned matrices."""
    return normal(2, n, n) + 3 * torch.eye(n, dtype=torch.float64)


def symmetric(n: int = 3) -> Tensor:
    a = matrices(n)
    return a + a.mT + 2 * torch.eye(n, dtype=torch.float64)


def factor_rows() -> tuple[Tensor, Tensor]:
    """Matrices factored into one, and their pivots."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(symmetric())
    return lu, pivots


SINGULAR: dict[str, Any] = {"zero": False}
DEGREE_0: dict[str, Any] = {"keeps": 0.0, "zero": False}
HALF_DEGREE: dict[str, Any] = {"keeps": 0.5, "zero": False}
SEVERAL = "of several degrees at once"
LU = factor_rows()
MATRICES = [
    case(OneOutput(aten._linalg_det.default, 0), ref.degree(torch.tensor(3.0)), matrices()),
    case(OneOutput(aten._linalg_slogdet.default, 1), ref.taylor, matrices(), keeps=OFFSET, **SINGULAR),
    *(case(op, ref.taylor_symmetric, symmetric(), **HALF_DEGREE) for op in CHOLESKY),
    case(OneOutput(aten.linalg_cholesky_ex.default, 0), ref.taylor_symmetric, symmetric(), **HALF_DEGREE),
    case(aten.cholesky_inverse.default, ref.taylor, torch.linalg.cholesky(symmetric()), keeps=-2.0, **SINGULAR),
    case(OneOutput(aten.linalg_lu_factor_ex.default, 0), ref.taylor, matrices(), keeps=SEVERAL, **SINGULAR),
    case(OneOutput(aten.linalg_lu.default, 1), ref.taylor, matrices(), **DEGREE_0),
    case(OneOutput(aten.linalg_lu.default, 2), ref.taylor, matrices(), **SINGULAR),
    case(OneOutput(aten.lu_unpack.default, 1), ref.linear, *LU, batch=(0, 1)),
    case(OneOutput(aten.lu_unpack.default, 2), ref.linear, *LU, batch=(0, 1)),
    case(OneOutput(aten.linalg_qr.default, 0), ref.taylor, matrices(), **DEGREE_0),
    case(OneOutput(aten.linalg_qr.default, 1), ref.taylor, matrices(), **SINGULAR),
    case(aten.linalg_householder_product.default, ref.taylor, normal(2, 3, 2), uniform(0.2, 1, 2, 2), **BOTH,
         keeps=SEVERAL),
    case(aten.ormqr.default, ref.taylor, normal(2, 3, 2), uniform(0.2, 1, 2, 2), normal(2, 3, 2), live=(0, 1, 2),
         batch=(0, 1, 2), keeps=SEVERAL),
    case(OneOutput(aten._linalg_svd.default, 1), ref.taylor, matrices()),
    case(OneOutput(aten._linalg_svd.default, 0), ref.taylor, matrices(), **DEGREE_0),
    case(OneOutput(aten._linalg_eigh.default, 0), ref.eigenvalues, symmetric()),
    case(OneOutput(aten._linalg_eigh.default, 1), ref.eigenvectors, symmetric(), **DEGREE_0),
    case(OneOutput(aten.linalg_eig.default, 0), ref.taylor, matrices(), label="values"),
    case(aten.linalg_matrix_exp.default, ref.taylor, normal(2, 3, 3), keeps=OFFSET),
    case(OneOutput(aten.linalg_inv_ex.default, 0), ref.taylor, matrices(), keeps=-1.0, **SINGULAR),
    case(aten.linalg_pinv.atol_rtol_tensor, ref.taylor, normal(2, 3, 2), keeps=-1.0),
    case(OneOutput(aten._linalg_solve_ex.default, 0), ref.linear, matrices(), normal(2, 3, 2), live=(1,),
         batch=(0, 1)),
    case(OneOutput(aten._linalg_solve_ex.default, 0), ref.taylor, matrices(), normal(2, 3, 2), batch=(0, 1),
         keeps=-1.0, **SINGULAR, label="matrix"),
    case(aten.linalg_solve_triangular.default, ref.linear, matrices(), normal(2, 3, 2), live=(1,), batch=(0, 1),
         kwargs={"upper": True}),
    case(aten.linalg_solve_triangular.default, ref.taylor, matrices(), normal(2, 3, 2), batch=(0, 1),
         kwargs={"upper": False}, keeps=-1.0, **SINGULAR, label="matrix"),
    case(OneOutput(aten.triangular_solve.default, 0), ref.taylor, normal(2, 3, 2), matrices(), live=(1,),
         batch=(0, 1), keeps=-1.0, **SINGULAR, label="matrix"),
    case(aten.cholesky_solve.default, ref.taylor, normal(2, 3, 2), torch.linalg.cholesky(symmetric()), live=(1,),
         batch=(0, 1), keeps=-2.0, **SINGULAR, label="matrix"),
    case(aten.linalg_lu_solve.default, ref.taylor, *LU, normal(2, 3, 2), batch=(0, 1, 2), keeps=SEVERAL, **SINGULAR,
         label="matrix"),
    case(aten.linalg_lu_solve.default, ref.linear, *LU, normal(2, 3, 2), live=(2,), batch=(0, 1, 2)),
    case(OneOutput(aten.triangular_solve.default, 0), ref.linear, normal(2, 3, 2), matrices(), batch=(0, 1)),
    case(aten.cholesky_solve.default, ref.linear, normal(2, 3, 2), torch.linalg.cholesky(symmetric()), batch=(0, 1)),
]  # fmt: skip

INDEX = torch.tensor([[0, 2, 2], [1, 1, 1]])
"""Two factors at most, or three, in places of four."""
SCATTERED = [
    *(
        case(aten.scatter_reduce.two, reference, normal(2, 4), 1, INDEX, normal(2, 3), reduce, live=(0, 3),
             batch=(0, 2, 3), label=reduce)
        for reduce, reference in (("sum", ref.linear), ("mean", ref.linear), ("amax", ref.taylor),
                                  ("amin", ref.taylor),
                                  ("prod", ref.degree(torch.tensor([[2, 1, 3, 1], [1, 4, 1, 1]]))))
    ),
    case(aten.scatter_reduce.two, ref.degree(torch.tensor([[1, 1, 2, 1], [1, 3, 1, 1]])), normal(2, 4), 1, INDEX,
         normal(2, 3), "prod", live=(0, 3), batch=(0, 2, 3), kwargs={"include_self": False}, label="prod of others"),
    case(aten.scatter_reduce.two, ref.degree(torch.tensor([[1, 1, 2, 1], [1, 3, 1, 1]])), normal(2, 4), 1, INDEX,
         normal(2, 3), "prod", live=(3,), batch=(0, 2, 3), keeps=ref.kept_by_scatter, label="prod with constants"),
    *(
        case(aten.index_reduce.default, reference, normal(2, 4), 1, ints(3, 0, 3), normal(2, 3), reduce, live=(0, 3),
             batch=(0, 3), label=reduce)
        for reduce, reference in (("mean", ref.linear), ("amax", ref.taylor), ("amin", ref.taylor),
                                  ("prod", ref.degree(torch.tensor([2, 1, 1, 3]))))
    ),
    *(
        case(aten.segment_reduce.default, reference, normal(6), reduce, kwargs={"lengths": ints(1, 3, 2)},
             **NO_BATCH, label=reduce)
        for reduce, reference in (("sum", ref.linear), ("mean", ref.linear), ("max", ref.taylor), ("min", ref.taylor),
                                  ("prod", ref.degree(torch.tensor([1, 3, 2]))))
    ),
    case(aten.cumprod.default, ref.running_product, with_zeros(normal(2, 6)), 1),
    case(aten.diagonal_scatter.default, ref.linear, normal(2, 3, 3), normal(2, 3), 0, 1, 2, **BOTH),
    case(aten.put.default, ref.linear, normal(2, 3), ints(4, 0), normal(2), live=(0, 2), **NO_BATCH),
    case(aten.as_strided.default, ref.linear, normal(12), [2, 3], [1, 2], 1, **NO_BATCH),
    case(aten.as_strided_scatter.default, ref.linear, normal(12), normal(2, 3), [2, 3], [1, 2], 1, live=(0, 1),
         **NO_BATCH),
    case(aten.permute_copy.default, ref.linear, x8(), [0, 2, 1]),
    case(aten.narrow_copy.default, ref.linear, x8(), 2, 1, 4),
    case(aten.masked_select.default, ref.linear, normal(2, 3), torch.tensor([True, False, True]), **NO_BATCH),
    case(aten.max_pool2d_with_indices_backward.default, ref.linear, normal(2, 1, 2, 2), image(1), [2, 2], [2, 2],
         [0, 0], [1, 1], False, torch.tensor([[[[0, 3], [8, 15]]]] * 2), batch=(0, 1, 11)),
    case(aten.grid_sampler_3d.default, ref.linear, volume(), uniform(-1, 1, 2, 2, 2, 2, 3), 0, 0, False,
         batch=(0, 1)),
    case(aten.grid_sampler_2d.default, ref.taylor, image(), uniform(-0.7, 0.7, 2, 3, 3, 2), 0, 0, False, live=(1,),
         batch=(0, 1), keeps=CURVED, label="grid"),
    case(OneOutput(aten._embedding_bag.default, 0), ref.linear, normal(5, 3), ints(1, 4, 4, 0), ints(0, 1), False, 1,
         **NO_BATCH, label="mean"),
    case(OneOutput(aten._embedding_bag.default, 0), ref.product, normal(5, 3), ints(1, 4, 4, 0), ints(0, 1), False, 0,
         False, normal(4), live=(0, 6), **NO_BATCH, label="weighted"),
]  # fmt: skip

BATCH_STATISTICS = ref.norm(
    lambda x: x.transpose(0, 1).reshape(4, -1),
    channels,
    back=lambda rows, x: rows.reshape(4, x.shape[0], *x.shape[2:]).transpose(0, 1),
)
TRAINED: dict[str, Any] = {"batch": ()}
BATCH_NORMS = [
    *(
        norm_case(OneOutput(op, 0), BATCH_STATISTICS, normal(4), normal(4), *rest, **TRAINED)
        for op, rest in (
            (aten._native_batch_norm_legit_functional.default, (normal(4), uniform(0.5, 2, 4), True, 0.1, 1e-3)),
            (aten._native_batch_norm_legit.no_stats, (True, 0.1, 1e-3)),
            (aten._batch_norm_with_update_functional.default, (normal(4), uniform(0.5, 2, 4), 0.1, 1e-3)),
        )
    ),
    norm_case(OneOutput(aten._native_batch_norm_legit.no_stats, 1), ref.nothing, None, None, True, 0.1, 1e-3,
              keeps=0.0, **TRAINED),
    norm_case(OneOutput(aten._native_batch_norm_legit_functional.default, 0), ref.linear, normal(4), normal(4),
              normal(4), uniform(0.5, 2, 4), False, 0.1, 1e-3, label="running statistics"),
]  # fmt: skip


WRITTEN = [
    case(STRAIGHT, ref.straight, with_zeros(normal(2, 3)), normal(2, 3), batch=(0, 1), keeps="values differ"),
]

CASES = [
    *SUMS, *POOLS, *MOVES, *SELECTIONS, *LINEAR, *PRODUCTS, *POINTWISE, *TAYLOR, *WINNERS, *SOFTMAX, *NORMS,
    *ATTENTION, *SILENT, *WRITTEN, *COMPLEX, *MATRICES, *SCATTERED, *BATCH_NORMS,
]  # fmt: skip
"""A row or more for every op in the default table."""

FINE = 1e-12
LEAK = "the bias and the stabiliser take their parts"
CLOSURES = {
    "epsilon": lambda e: (weighted.epsilon(e), ref.epsilon),
    "gamma": lambda e: (weighted.gamma(0.25, e), ref.gamma(0.25)),
    "strong gamma": lambda e: (weighted.gamma(100.0, e), ref.gamma(100.0)),
    "alpha_beta": lambda e: (weighted.alpha_beta(2.0, 1.0, e), ref.alpha_beta(2.0, 1.0)),
    "z_plus": lambda e: (weighted.z_plus(e), ref.alpha_beta(1.0, 0.0)),
    "flat": lambda e: (weighted.flat(e), ref.flat),
    "w_square": lambda e: (weighted.w_square(e), ref.w_square),
    "z_box": lambda e: (weighted.z_box(-3.0, 4.0, e), ref.z_box(-3.0, 4.0)),
    "with_weights": lambda e: (weighted.with_weights(torch.abs, e), ref.with_weights(torch.abs)),
    "with_weights without bias": lambda e: (
        weighted.with_weights(torch.abs, e, bias=False),
        ref.with_weights(torch.abs, bias=0.0),
    ),
    "epsilon without bias": lambda e: (weighted.epsilon(e, bias=False), partial(ref.epsilon, bias=0.0)),
    "gamma without bias": lambda e: (weighted.gamma(0.25, e, bias=False), ref.gamma(0.25, bias=0.0)),
    "alpha_beta without bias": lambda e: (
        weighted.alpha_beta(2.0, 1.0, e, bias=False),
        ref.alpha_beta(2.0, 1.0, bias=0.0),
    ),
    "z_plus without bias": lambda e: (weighted.z_plus(e, bias=False), ref.alpha_beta(1.0, 0.0, bias=0.0)),
    "w_square without bias": lambda e: (weighted.w_square(e, bias=False), partial(ref.w_square, bias=0.0)),
}
"""Every rule of `fxlrp.rules.weighted` with its formula, for a stabiliser."""

KEPT = {"alpha_beta": ref.kept_by_sign(2.0, 1.0, FINE), "z_plus": ref.kept_by_sign(1.0, 0.0, FINE)}
SIGNS = {"signed": lambda x: x, "nonnegative": torch.abs}
KINDS: dict[str, tuple[Any, Any]] = {
    "bias": (aten.linear.default, lambda: (normal(2, 6), normal(5, 6), normal(5))),
    "plain": (aten.linear.default, lambda: (normal(2, 3, 6), normal(5, 6))),
    "stride bias": (aten.conv1d.default, lambda: (normal(2, 2, 7), normal(3, 2, 3), normal(3), [2], [1], [2])),
    "dilated": (aten.conv1d.default, lambda: (normal(2, 2, 7), normal(3, 2, 3), None, [1], [0], [2])),
    "grouped bias": (
        aten.conv2d.default,
        lambda: (normal(2, 4, 4, 3), normal(4, 2, 3, 2), normal(4), [2, 1], [1, 0], [1, 2], 2),
    ),
    "padded": (aten.conv2d.default, lambda: (normal(2, 2, 4, 3), normal(3, 2, 3, 2), None, [1, 2], [1, 1])),
    "same": (aten.conv2d.padding, lambda: (normal(2, 1, 4, 3), normal(2, 1, 3, 2), None, [1, 1], "same")),
    "stride bias ": (
        aten.conv_transpose2d.input,
        lambda: (normal(2, 4, 2, 3), normal(4, 2, 2, 2), normal(4), [2, 1], [1, 0], [1, 0], 2),
    ),
    "padded ": (aten.conv_transpose2d.input, lambda: (normal(2, 2, 3, 2), normal(2, 3, 2, 2), None, [2, 2], [1, 1])),
}


def weighted_case(closure: str, kind: str, sign: str) -> OpCase:
    op, draw = KINDS[kind]
    x, *rest = draw()
    biased = "bias" in kind
    e = 1e-6 if biased else FINE
    rule, formula = CLOSURES[closure](e)
    return OpCase(
        op,
        (SIGNS[sign](with_zeros(x)), *rest),
        ref.weighted(formula, e),
        label=f"{kind.strip()} {sign}",
        keeps=LEAK if biased else KEPT.get(closure.removesuffix(" without bias"), 1.0),
        rule=rule,
    )


EPSILON_SUMS = [
    OpCase(row.op, row.args, ref.epsilon_sum(1e-6), row.label, row.kwargs, row.live, ROOT_LEAK, row.batch,
           rule=weighted.epsilon())
    for row in (*SUMS, *POOLS)
    if row.op in (aten.add.Tensor, aten.sub.Tensor, aten.mean.dim, aten.sum.dim_IntList, aten.avg_pool2d.default)
]  # fmt: skip

WEIGHTED = [weighted_case(*names) for names in pairs(CLOSURES, KINDS, SIGNS)]
"""Every weighted rule on every kind of linear op, for signed and non-negative inputs."""
