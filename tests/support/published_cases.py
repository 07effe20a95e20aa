"""Records of the rules of single papers, as `cases` has them of the table."""

from __future__ import annotations

from typing import Any

import published as ref
import torch
from cases import BOTH, LEAK, OpCase, normal
from reference import Call
from torch import Tensor

from fxlrp.ir.rule import Rule
from fxlrp.rules.published import recurrent, residuals

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

PUBLISHED_CASES = [*RESIDUALS, *RECURRENT]
