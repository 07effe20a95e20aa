"""Records of the rules of single papers, as `cases` has them of the table."""

from __future__ import annotations

from typing import Any

import published_formulas as ref
import torch
from cases import BOTH, LEAK, OpCase, normal
from reference import Call
from torch import Tensor

from fxlrp.ir.rule import Rule
from fxlrp.rules.published import chefer, positions, ratios, recurrent, residuals

aten = torch.ops.aten
FINE = 1e-12


def everything(call: Call, c: Tensor) -> Tensor:
    """All of the output's relevance, that of constants too."""
    return (call.out * c).sum()


def record(rule: Rule, reference: Any, op: Any, *args: Any, **options: Any) -> OpCase:
    return OpCase(op, args, reference, rule=rule, **options)


def residual(g: float, e: float, label: str, op: Any, *args: Any, **options: Any) -> OpCase:
    kept = LEAK if e > FINE or (len(options["live"]) == 1 and g) else 1.0
    rule, reference = residuals.residual_gamma(g, e), ref.residual_gamma(g, e)
    return record(rule, reference, op, *args, label=label, keeps=kept, **options)


RESIDUALS = [
    residual(g, e, *call, **options)
    for g, e in ((1.0, FINE), (0.25, FINE), (0.0, FINE), (1.0, 1e-3))
    for call, options in (
        (("", aten.add.Tensor, normal(2, 3), normal(2, 3)), BOTH),
        (("broadcast", aten.add.Tensor, normal(2, 3), normal(3)), {"live": (0, 1)}),
        (("constant", aten.add.Tensor, normal(2, 3), normal(2, 3)), {"live": (0,), "batch": (0, 1)}),
        (("", aten.sub.Tensor, normal(2, 3), normal(2, 3)), BOTH | {"kwargs": {"alpha": 3}}),
    )
]

SUM = recurrent.shared_sum(1e-3), ref.shared_sum(1e-3), aten.add.Tensor
RECURRENT = [
    *(
        record(
            recurrent.shared_linear(e), ref.shared_linear(e), aten.linear.default, *args, label=label, keeps=everything
        )
        for e in (1e-3, 0.0)
        for label, args in (
            ("bias", (normal(2, 4), normal(3, 4), normal(3))),
            ("plain", (normal(2, 2, 4), normal(3, 4))),
        )
    ),
    record(*SUM, normal(2, 3), normal(2, 3), keeps=everything, **BOTH),
    record(*SUM, normal(2, 3), normal(2, 3), keeps=everything, batch=(0, 1), label="constant"),
    record(*SUM, normal(2, 3), normal(3), keeps=everything, live=(0, 1), kwargs={"alpha": 2}, label="broadcast"),
]

RATIOS = [
    *(
        record(ratios.by_size, ref.by_size, op, *args, label=label, keeps=kept,
               zero=op is not aten.div.Tensor or "live" not in options, **options)
        for op in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
        for label, args, kept, options in (
            ("", (normal(2, 3), 1 + normal(2, 3) ** 2), everything, BOTH),
            ("broadcast", (normal(2, 3), 1 + normal(3) ** 2), everything, {"live": (0, 1)}),
            ("constant", (normal(2, 3), 1 + normal(2, 3) ** 2), LEAK, {"batch": (0, 1)}),
        )
    ),
    record(ratios.same, ref.same, aten.gelu.default, normal(2, 3), keeps=everything),
    record(ratios.same, ref.same, aten.add.Tensor, normal(2, 3), normal(2, 3), keeps=everything, batch=(0, 1)),
    record(ratios.same, ref.same, aten.layer_norm.default, normal(2, 3), [3], normal(3), normal(3), keeps=everything),
    record(ratios.reduced, ref.reduced, aten.sum.dim_IntList, normal(2, 3, 4), [1, -1], True, keeps=everything),
    record(ratios.reduced, ref.reduced, aten.mean.dim, normal(2, 3, 4), [1], keeps=everything),
    record(ratios.reduced, ref.reduced, aten.mean.default, normal(2, 3), keeps=everything, batch=()),
    record(ratios.even, ref.windows, aten.adaptive_avg_pool2d.default, normal(2, 2, 5, 4), [2, 3], keeps=everything),
    record(ratios.split_bias, ref.split_bias, aten.linear.default, normal(2, 4), normal(3, 4), normal(3),
           label="bias", keeps=LEAK),
    record(ratios.split_bias, ref.split_bias, aten.linear.default, normal(2, 2, 4), normal(3, 4), label="plain"),
    record(ratios.bilinear, ref.bilinear, aten.matmul.default, normal(2, 3, 4), normal(2, 4, 3), **BOTH),
    record(ratios.bilinear, ref.bilinear, aten.bmm.default, normal(2, 3, 4), normal(2, 4, 3), batch=(0, 1),
           label="constant"),
    record(ratios.taylor, ref.softmax, aten.softmax.int, normal(2, 3, 4), -1, keeps=LEAK),
    record(ratios.fused, ref.attention, aten.scaled_dot_product_attention.default, normal(2, 3, 4), normal(2, 5, 4),
           normal(2, 5, 4), live=(0, 1, 2), batch=(0, 1, 2), keeps=LEAK),
]  # fmt: skip

CHEFER = [
    record(chefer.positive, ref.positive, aten.linear.default, normal(2, 4), normal(3, 4), normal(3), label="bias",
           keeps=LEAK),
    record(chefer.positive, ref.positive, aten.conv2d.default, normal(2, 2, 4, 3), normal(3, 2, 3, 2), None, [1, 2],
           [1, 1], keeps=LEAK),
    record(chefer.image_range, ref.image_range, aten.conv2d.default, normal(2, 3, 4, 3), normal(2, 3, 3, 2), normal(2),
           [1, 1], [1, 0], keeps=everything),
    record(chefer.simple, ref.simple, aten.matmul.default, normal(2, 3, 4), normal(2, 4, 3), keeps=LEAK, **BOTH),
    record(chefer.simple, ref.simple, aten.mean.dim, normal(2, 3, 4), [1], keeps=LEAK),
    record(chefer.simple, ref.simple, aten.mul.Tensor, normal(2, 3), 2.5),
    record(chefer.passed, ref.same, aten.softmax.int, normal(2, 3), -1, keeps=everything),
    record(chefer.passed, ref.same, aten.layer_norm.default, normal(2, 3), [3], normal(3), keeps=everything),
    record(chefer.normalised, ref.normalised, aten.add.Tensor, normal(2, 3), normal(2, 3), keeps=everything, **BOTH),
    record(chefer.normalised, ref.normalised, aten.sub.Tensor, normal(2, 3), normal(3), keeps=everything, live=(0, 1),
           label="broadcast", kwargs={"alpha": 2}),
    *(
        record(chefer.attention, ref.chefer_attention, aten.scaled_dot_product_attention.default, normal(2, 4, 3, 4),
               normal(2, heads, 3, 4), normal(2, heads, 3, 4), None, 0.0, causal, label=label,
               kwargs={"enable_gqa": heads < 4}, live=(0, 1, 2), batch=(0, 1, 2), keeps=LEAK)
        for label, heads, causal in (("", 4, False), ("causal", 4, True), ("grouped", 2, True))
    ),
]  # fmt: skip

POSITIONS = [
    record(positions.rotation, ref.half, aten.mul.Tensor, normal(2, 3, 4), normal(3, 4), keeps=0.5),
    record(positions.table, ref.all_terms, aten.add.Tensor, normal(2, 3, 4), normal(3, 4)),
    record(positions.score_bias, ref.all_terms, aten.sub.Tensor, normal(2, 3, 3), normal(3, 3), kwargs={"alpha": 2}),
]

PUBLISHED_CASES = [*RESIDUALS, *RECURRENT, *RATIOS, *CHEFER, *POSITIONS]
