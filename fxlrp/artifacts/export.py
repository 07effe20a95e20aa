"""From a compiled program to one that torch.export knows, with a name for everything that goes in or comes out."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from fxlrp.artifacts.description.from_plan import describe_program, name_outputs
from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.named_sizes import find_conditions, find_ranges, name_sizes
from fxlrp.artifacts.spelled_types import spell_types
from fxlrp.backends.dense import order_operands
from fxlrp.errors import ArtifactError
from fxlrp.ir.program import Program
from fxlrp.ir.rule_set import RuleSet
from fxlrp.plan.decide import Plan


@dataclass(frozen=True)
class Exported:
    """A relevance program as torch.export knows it, what is to be said about it, and the key that signs it."""

    program: ExportedProgram
    manifest: Manifest
    key: Any = None


def export_program(plan: Plan, program: Program, rules: RuleSet, model: str, ones: Collection[str]) -> Exported:
    """Export a program whose target is an index or a seed, and describe it.

    Args:
        plan: What was decided about the model.
        program: What was made of it.
        rules: The rule set.
        model: Class of the model.
        ones: Symbols of the sizes for which 1 will do.

    Raises:
        ArtifactError: If torch cannot export it.
    """
    module = name_results(plan, program)
    names = name_sizes(plan)
    limits = find_ranges(plan, names, ones)
    dims = {name: Dim(name, min=limits[name].min, max=limits[name].max) for name in limits}
    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    shapes = tuple(
        {i: choose_dim(n, names, dims) for i, n in enumerate(v.shape) if not isinstance(n, int)} for v in values
    )
    examples = tuple(torch.zeros(list(map(find_example_size, v.shape)), dtype=v.dtype, device=v.device) for v in values)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, examples, dynamic_shapes=shapes)
    except Exception as error:
        raise ArtifactError(f"torch cannot export the relevance program\n  {type(error).__name__}: {error}") from error
    for node in exported.graph.nodes:  # stack traces would tell of the machine that it was made on
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    exported._guards_code = []  # Python code, of sizes that are checked by their ranges
    exported.example_inputs = None
    manifest = describe_program(plan, module, names, limits, rules, model)
    return Exported(exported, replace(manifest, conditions=find_conditions(plan, exported, names)))


def name_results(plan: Plan, program: Program) -> fx.GraphModule:
    """Name the target and every result of a program; leave out the target if there is nothing to choose."""
    graph = fx.Graph()
    result = graph.graph_copy(program.module.graph, {})
    assert isinstance(result, (list, tuple))
    *_, target = graph.find_nodes(op="placeholder")
    target._rename(TARGET)
    target.target = target.name
    if not target.users:
        graph.erase_node(target)
    relevances = [f"relevance.{name}" for name in program.relevances]
    reads = [f"read.{name}" for name in program.reads]
    graph.output(dict(zip([*name_outputs(plan), *relevances, *reads], result, strict=True)))
    spell_types(graph)
    order_operands(graph)  # the program may have been traced with inputs in another order
    return fx.GraphModule(program.module, graph)


def choose_dim(size: Any, names: dict[str, str], dims: dict[str, Any]) -> Any:
    """Choose what to tell torch.export of a size that may change."""
    return dims[names[str(size)]] if str(size) in names else Dim.AUTO


def find_example_size(size: Any) -> int:
    """Return the size in the example that was captured."""
    return size if isinstance(size, int) else int(size.node.hint)
