"""The sizes of an artefact that may change: their names, their values, and what else holds of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from fxlrp.artifacts.description.clauses import write_clause
from fxlrp.artifacts.description.specs import Range
from fxlrp.errors import ArtifactError
from fxlrp.ir.guards import Guards, find_user_inputs, is_symbolic
from fxlrp.plan.decide import Plan


def name_sizes(plan: Plan) -> dict[str, str]:
    """Name each size that may change: ``batch``, or by the input and dimension that it is first seen at."""
    batch = str(plan.captured.explained.meta["val"].shape[0])
    names: dict[str, str] = {}
    for node in plan.captured.inputs:
        for dim, size in enumerate(read_shape(node.meta["val"])):
            if is_symbolic(size) and size.node.expr.is_Symbol:
                names.setdefault(str(size), "batch" if str(size) == batch else f"{node.name}_{dim}")
    return names


def find_ranges(plan: Plan, names: Mapping[str, str], ones: Collection[str]) -> dict[str, Range]:
    """Return the values of each named size."""
    ranges: dict[str, Range] = {}
    for node in plan.captured.inputs:
        for size in read_shape(node.meta["val"]):
            if str(size) in names:
                least, most = plan.captured.guards.find_limits(size.node.expr)
                ranges[names[str(size)]] = Range(1 if str(size) in ones else least, most)
    return ranges


def find_conditions(plan: Plan, exported: ExportedProgram, names: Mapping[str, str]) -> tuple[str, ...]:
    """Find what else holds of named sizes by the capture of the model and the export of its program, as text."""
    found = write_clauses(plan.captured.guards, names)
    again: dict[str, str] = {}  # the export has symbols of its own
    tensors = [node for node in plan.captured.inputs if isinstance(node.meta["val"], Tensor)]
    fakes = [node.meta["val"] for node in find_user_inputs(exported)]
    for node, fake in zip(tensors, fakes, strict=False):
        again |= {
            str(new): names.get(str(old), "") for old, new in zip(read_shape(node.meta["val"]), fake.shape, strict=True)
        }
    of_export = Guards(fakes[0].fake_mode.shape_env, {})
    return tuple(dict.fromkeys([*found, *write_clauses(of_export, again)]))


def write_clauses(guards: Guards, names: Mapping[str, str]) -> list[str]:
    """Write conditions on named sizes as text.

    Raises:
        ArtifactError: If there is one of a size that has no name.
    """
    found = dict.fromkeys(expression for expression in guards.list_conditions() if expression.free_symbols)
    for expression in found:
        unknown = [str(symbol) for symbol in expression.free_symbols if not names.get(str(symbol))]
        if unknown:
            raise ArtifactError(f"the program asks that {expression}, and no input is of size {unknown[0]} to check it")
    return [write_clause(expression, names) for expression in found]


def read_shape(value: Any) -> tuple[Any, ...]:
    """Return the shape of a tensor, with symbols in it; nothing for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()
