"""What there is to say about a program that was made here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_flatten_with_path, tree_unflatten
from fxlrp.artifacts.description.clauses import write_clause
from fxlrp.artifacts.description.manifest import OBJECTIVE, TARGET, VERSION, Manifest
from fxlrp.artifacts.description.named_sizes import read_shape
from fxlrp.artifacts.description.specs import Range, Spec
from fxlrp.ir.guards import is_symbolic
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import LARGEST
from fxlrp.plan.decide import Plan
from fxlrp.reports.coverage import report_coverage


def describe_program(
    plan: Plan,
    module: fx.GraphModule,
    names: Mapping[str, str],
    limits: dict[str, Range],
    rules: RuleSet,
    model: str,
) -> Manifest:
    """Describe a program; its format is filled in when it is written."""
    captured = plan.captured

    def spec(name: str, value: Tensor) -> Spec:
        shape = tuple(write_clause(n.node.expr, names) if is_symbolic(n) else int(n) for n in read_shape(value))
        return Spec(name, str(value.dtype).removeprefix("torch."), shape)

    inputs = [spec(node.name, node.meta["val"]) for node in module.graph.find_nodes(op="placeholder")]
    results = module.graph.output_node().args[0]
    assert isinstance(results, dict)
    tensors = [t for t in captured.constants.values() if isinstance(t, Tensor)]
    report = report_coverage(plan, rules.name)
    targets = [s for s in inputs if s.name == TARGET]
    return Manifest(
        version=VERSION,
        fxlrp=version("fxlrp"),
        torch=torch.__version__,
        format="",
        device=str(captured.explained.meta["val"].device),
        model=model,
        fingerprint=fingerprint(tensors),
        parameters=sum(t.numel() for t in tensors),
        rules=rules.name,
        table=str(rules),
        coverage={"nodes": report.nodes, "live": report.live, "covered": report.covered},
        target="none" if not targets else "index" if targets[0].dtype == "int64" else "seed",
        largest=LARGEST,
        inputs=tuple(inputs),
        fixed={n.name: repr(n.meta["val"]) for n in captured.inputs if not isinstance(n.meta["val"], Tensor)},
        outputs=tuple(spec(name, node.meta["val"]) for name, node in results.items()),
        explained=spec(find_explained_name(plan), captured.explained.meta["val"]),
        sizes=limits,
    )


def name_outputs(plan: Plan) -> list[str]:
    """Name each tensor that the model returns, by its place in what it returns."""
    outputs = list(plan.captured.outputs)
    paths, _ = tree_flatten_with_path(tree_unflatten(outputs, plan.captured.out_spec))
    keys = [[str(getattr(key, "key", getattr(key, "idx", key))) for key in path] for path, _ in paths]
    return [".".join(["output", *path]) for path, node in zip(keys, outputs, strict=True) if isinstance(node, fx.Node)]


def find_explained_name(plan: Plan) -> str:
    """Return the name of the output that is explained; another one if it is computed of the outputs."""
    outputs = [node for node in plan.captured.outputs if isinstance(node, fx.Node)]
    named = zip(outputs, name_outputs(plan), strict=True)
    return next((name for node, name in named if node is plan.captured.explained), OBJECTIVE)


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """Return the SHA-256 of tensors, their types and their shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
