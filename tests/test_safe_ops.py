"""What graphs of artefacts may call: the same as torch on good arguments, an error on those that torch would trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, OpCase
from torch import Tensor

from fxlrp._torch import OpOverload, tree_leaves, tree_map_only
from fxlrp.registry import RULES
from fxlrp.safe_ops import CHECKS, EMPTY, resolve
from fxlrp.vocabulary import OPS

aten = torch.ops.aten
RANDOM = {aten.rand_like.default, aten.randn_like.default}
"""They have rules, and artefacts have no use for them."""


def overload(name: str) -> OpOverload:
    packet, kind = name.split(".")
    return getattr(getattr(aten, packet), kind)


@pytest.mark.parametrize("name", sorted(OPS))
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
    assert set(EMPTY) <= OPS


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
    found = outcome(resolve(f"torch.ops.{case.overload}"), case)
    if str(case.overload).removeprefix("aten.") in EMPTY:
        assert all((x == 0).all() for x in found)
    else:
        assert all(map(same, found, outcome(case.overload, case)))
