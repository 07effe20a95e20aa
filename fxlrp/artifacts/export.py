"""From a compiled program to an artefact that runs without fxlrp."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from fxlrp._torch import compile_ahead, package_pt2, tree_flatten_with_path, tree_unflatten
from fxlrp.artifacts.description.clauses import write_clause as write_clause
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER, OBJECTIVE, TARGET, VERSION, Manifest
from fxlrp.artifacts.description.named_sizes import find_conditions, find_ranges, name_sizes, read_shape
from fxlrp.artifacts.description.specs import Range, Spec
from fxlrp.artifacts.keys import sign_manifest
from fxlrp.artifacts.onnx_format.files import write_onnx
from fxlrp.artifacts.pt2 import archive
from fxlrp.artifacts.spelled_types import spell_types
from fxlrp.backends.dense import order_operands
from fxlrp.errors import ArtifactError, SignatureError
from fxlrp.files import defer_errors, replace_file
from fxlrp.ir.guards import is_symbolic
from fxlrp.ir.program import Program
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import LARGEST
from fxlrp.plan.decide import Plan
from fxlrp.reports.coverage import report_coverage


@dataclass(frozen=True)
class Exported:
    """A relevance program as torch.export knows it, what is to be said about it, and the key that signs it."""

    program: ExportedProgram
    manifest: Manifest
    key: Any = None


def export_program(plan: Plan, program: Program, rules: RuleSet, model: str, ones: Collection[str]) -> Exported:
    """Export a program whose target is an index or a seed, with a name for every input and result.

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
    examples = tuple(
        torch.zeros([find_example_size(n) for n in v.shape], dtype=v.dtype, device=v.device) for v in values
    )
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
    description = describe_program(plan, module, names, limits, rules, model)
    description = replace(description, conditions=find_conditions(plan, exported, names))
    return Exported(exported, description)


def name_results(plan: Plan, program: Program) -> fx.GraphModule:
    """The program with a name for the target and for every result; without a target if there is nothing to choose."""
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


def name_outputs(plan: Plan) -> list[str]:
    """A name for each tensor that the model returns, by its place in what it returns."""
    outputs = list(plan.captured.outputs)
    paths, _ = tree_flatten_with_path(tree_unflatten(outputs, plan.captured.out_spec))
    keys = [[str(getattr(key, "key", getattr(key, "idx", key))) for key in path] for path, _ in paths]
    return [".".join(["output", *path]) for path, node in zip(keys, outputs, strict=True) if isinstance(node, fx.Node)]


def find_explained_name(plan: Plan) -> str:
    """The name of the output that is explained; another one if it is computed of the outputs."""
    outputs = [node for node in plan.captured.outputs if isinstance(node, fx.Node)]
    named = zip(outputs, name_outputs(plan), strict=True)
    return next((name for node, name in named if node is plan.captured.explained), OBJECTIVE)


def choose_dim(size: Any, names: dict[str, str], dims: dict[str, Any]) -> Any:
    """How torch.export is told of a size that may change."""
    return dims[names[str(size)]] if str(size) in names else Dim.AUTO


def find_example_size(size: Any) -> int:
    """The size in the example that was captured."""
    return size if isinstance(size, int) else int(size.node.hint)


def describe_program(
    plan: Plan,
    module: fx.GraphModule,
    names: Mapping[str, str],
    limits: dict[str, Range],
    rules: RuleSet,
    model: str,
) -> Manifest:
    """What there is to say about a program, but for its format."""
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


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """SHA-256 of tensors, their types and their shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_pt2(exported: Exported, path: Path) -> None:
    """An archive of torch.export."""
    write_package(exported, path, exported_programs={"model": exported.program})


def write_aoti(exported: Exported, path: Path) -> None:
    """A package of AOTInductor: a library of machine code, and the weights."""
    module = exported.program.module(check_guards=False)
    values = [node.meta["val"] for node in exported.program.graph.find_nodes(op="placeholder")]
    given = values[len(values) - len(exported.manifest.inputs) :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about torch
            files = compile_ahead(module, tuple(given), options={"aot_inductor.package": True})
    except Exception as error:
        raise ArtifactError(
            f"AOTInductor cannot compile the relevance program\n  {type(error).__name__}: {error}\n"
            "It needs a C++ compiler. The format 'pt2' needs none."
        ) from error
    write_package(exported, path, aoti_files={"model": [file for file in files if not str(file).endswith(".cpp")]})


def write_package(exported: Exported, path: Path, **content: Any) -> None:
    """Write an archive of torch, and into it the manifest with the digests of everything else, signed if asked for."""
    with path.open("w+b") as file:
        with defer_errors(file) as held:
            package_pt2(held, **content)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as members:
            parts = archive.hash_members(members, without=MANIFEST_MEMBER)
            members.writestr(
                archive.find_full_name(members, MANIFEST_MEMBER),
                sign_manifest(replace(exported.manifest, parts=parts), exported.key).to_json(),
            )


def write_interchange(exported: Exported, path: Path) -> None:
    """One ONNX file, which runs on the processor wherever its program was made."""
    write_onnx(exported.program, exported.manifest, path, exported.key)


WRITERS: dict[str, Callable[[Exported, Path], None]] = {
    "pt2": write_pt2,
    "aoti": write_aoti,
    "onnx": write_interchange,
}


ENDINGS = {".pt2": "pt2", ".onnx": "onnx"}
"""Format by the ending of a file."""


def choose_format(path: Path, format: str | None) -> str:
    """The format of a file: the one that was asked for, or what the ending says.

    Raises:
        SignatureError: If there is no such format, or the ending belongs to another one.
    """
    wanted = format or ENDINGS.get(path.suffix)
    if wanted is None or wanted not in WRITERS:
        raise SignatureError(
            f"format={format!r} is none of {', '.join(map(repr, WRITERS))}"
            if format
            else f"{path.name}: an artefact ends in {' or '.join(ENDINGS)}"
        )
    ending = ".onnx" if wanted == "onnx" else ".pt2"
    if path.suffix != ending:
        raise SignatureError(f"{path.name}: an artefact of format {wanted!r} ends in {ending}")
    return wanted


@contextmanager
def write_artifact(exported: Exported, path: Path, format: str) -> Iterator[Path]:
    """Write an artefact to a file that takes the place of ``path`` when everything has gone well.

    Raises:
        ArtifactError: If the program cannot be written in this format, or the file cannot.
    """
    with replace_file(path) as new:
        WRITERS[format](replace(exported, manifest=replace(exported.manifest, format=format)), new)
        yield new
