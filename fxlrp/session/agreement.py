"""Whether a program computes what its model does, and if not, where the two part."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from fxlrp import passes
from fxlrp._torch import tree_flatten, tree_leaves, tree_map_only
from fxlrp.backends.choice import Runner
from fxlrp.capture.double import double_model
from fxlrp.capture.export import drop_unknown_parts
from fxlrp.emit.trace import trace_program
from fxlrp.errors import VerificationError
from fxlrp.ir.decisions import Env
from fxlrp.ir.program import Program
from fxlrp.ir.provenance import find_modules
from fxlrp.ir.targets import SEED_FORM
from fxlrp.plan.decide import Plan

Model = nn.Module | ExportedProgram
Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of two forms of one program, relative to the largest entry."""
HALF_TOLERANCE = 0.05
"""The same for half precision."""
SENSITIVITY = 64
"""How much further than the model itself, given inputs that differ by rounding, a program may be from the model."""


def check_output(model: Model, inputs: Inputs, output: Any, unit: float, explain: Callable[[], str]) -> None:
    """Compare the output of a program with the model's own on the same inputs.

    Sums are taken in another order, so that half of the digits have to agree. An ill-conditioned model may lose more:
    then it is run again on inputs that differ by rounding, which shows how much.

    Args:
        model: The model.
        inputs: Its arguments.
        output: What the program returned in place of the model.
        unit: The `find_rounding_unit` of its graph.
        explain: Says where the two part, if they do.

    Raises:
        VerificationError: If they differ beyond rounding, or the model's outputs differ from call to call.
    """
    own = run_model(model, inputs, output)
    worst, allowed = measure_difference(own, output), unit**0.5
    if worst <= allowed:
        return
    name = type(model).__name__
    if (unsteady := measure_difference(own, run_model(model, inputs, output))) > allowed:
        raise VerificationError(
            f"{name} returns another output for the same inputs at a second call, {unsteady:.2g} of its largest entry "
            "away, so that no program can compute it. Find what is random in it, or what it remembers between calls."
        )
    shaken = run_model(model, tree_map_only(Tensor, partial(shake, unit=unit), inputs), output)
    if worst > SENSITIVITY * measure_difference(own, shaken):
        sizes = ", ".join(str(tuple(x.shape)) for x in tree_leaves(inputs) if isinstance(x, Tensor))
        raise VerificationError(
            f"the program does not compute what {name} does: its output is {worst:.2g} of the largest entry away, "
            f"and rounding explains {allowed:.1g}\n  for inputs of sizes {sizes}\n  {explain()}\n"
            "Its relevance would be wrong too. Please report the model: this is a defect of fxlrp, or of a kernel that "
            "it calls; another backend= may not have it. verify='never' goes on all the same."
        )


def run_model(model: Model, inputs: Inputs, like: Any) -> Any:
    """Return the model's own output, of the same structure as ``like``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the model has to say, it says to who calls it
            own = tree_map_only(Tensor, torch.detach, call_model(model, inputs))
    except Exception as error:
        raise VerificationError(
            f"{type(model).__name__} itself does not run on these inputs, so that its program cannot be compared with "
            f"it\n  {type(error).__name__}: {error}\nMake the model run first; verify='never' explains it all the same."
        ) from error
    return own if tree_flatten(own)[1] == tree_flatten(like)[1] else drop_unknown_parts(own)


def call_model(model: Model, inputs: Inputs) -> Any:
    """Run the model itself."""
    args, kwargs = inputs
    return (model.module() if isinstance(model, ExportedProgram) else model)(*args, **kwargs)


def shake(x: Tensor, unit: float) -> Tensor:
    """Change the entries of a tensor by rounding, up and down in turn."""
    if not x.is_floating_point():
        return x
    signs = 1 - 2 * (torch.arange(x.numel(), device=x.device) % 2).view(x.shape)
    return x * (1 + 2 * max(unit, torch.finfo(x.dtype).eps) * signs).to(x.dtype)


def find_inexact_tensors(output: Any) -> list[Tensor]:
    """Find the tensors of an output that rounding changes; integers may jump with it, and are not compared."""
    return [x for x in tree_leaves(output) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]


def find_rounding_unit(graph: fx.Graph) -> float:
    """Find the distance of 1 from the next number of the coarsest dtype that a model computes in, inside it too."""
    values = [part for node in graph.nodes for part in tree_leaves(node.meta.get("val")) if isinstance(part, Tensor)]
    return max((torch.finfo(x.dtype).eps for x in find_inexact_tensors(values)), default=0.0)


def measure_difference(one: Any, other: Any) -> float:
    """Measure the largest difference of two outputs, relative to the largest entry of the tensor that it is in."""
    pairs = list(zip(find_inexact_tensors(one), find_inexact_tensors(other), strict=True))
    return max((measure_distance(a, b) for a, b in pairs), default=0.0)


def measure_distance(a: Tensor, b: Tensor) -> float:
    """Compute ``max |a - b| / max |a|`` over entries finite in both; infinite if they are so in one only."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    alike = all(torch.equal(of(a), of(b)) for of in (torch.isnan, torch.isposinf, torch.isneginf))
    if not alike:
        return float("inf")
    a, b = (x.double().where(x.isfinite(), 0.0) for x in (a, b))
    largest = float((a - b).abs().max()) if a.numel() else 0.0
    return largest / float(a.abs().max()) if largest and a.any() else largest


def is_close(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    if one.shape != other.shape:
        return False
    largest = float(other.detach().nan_to_num(0.0, 0.0, 0.0).abs().max()) if other.numel() else 0.0
    allowed = TOLERANCE.get(other.dtype, HALF_TOLERANCE) * largest
    return torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)


def find_difference(
    model: Model, inputs: Inputs, plan: Plan, backend: Callable[[Program], Runner], values: Sequence[Tensor]
) -> str:
    """Name the first module whose output differs.

    Args:
        model: The model.
        inputs: Its arguments.
        plan: What its program was made of.
        backend: What makes the program run.
        values: The tensors among the flattened inputs.
    """
    if not isinstance(model, nn.Module):
        return "an exported program has no modules by which to say where"
    nodes = {node.meta["reads"][-1]: node for node in plan.captured.graph.nodes if node.meta.get("reads")}

    def outputs(env: Env, found: Env) -> list[Any]:
        return [env[node] for node in nodes.values()]

    module = trace_program(plan.captured, {}, SEED_FORM, outputs)
    passes.run_passes(module, passes.CLEANUP)
    module.graph.erase_node(module.graph.find_nodes(op="placeholder")[-1])  # the seed, which nothing reads
    module.recompile()
    made = backend(Program(module, len(nodes), (), ()))(*values)
    own = record_outputs(model, inputs)
    for (path, node), value in zip(nodes.items(), made, strict=True):
        same = [x for x in find_inexact_tensors(own.get(path)) if x.shape == value.shape]
        away = min((measure_distance(x, value) for x in same), default=0.0)
        if away > find_rounding_unit(plan.captured.graph) ** 0.5:
            kind = find_modules(node).get(path, "").rpartition(".")[2]
            return f"the first module whose output differs is '{path}' ({kind}), by {away:.2g} of its largest entry"
    return "the output of every module agrees: what differs is computed outside of them"


def record_outputs(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Record what every module of a model returns, by path; behind that of a second call is ``@1``."""
    double, calls, found = double_model(model), Counter[str](), dict[str, Any]()

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[f"{path}@{calls[path]}" if calls[path] else path] = output
            calls[path] += 1

        return hook

    for path, module in double.named_modules():
        module.register_forward_hook(note(path))
    double(*inputs[0], **inputs[1])
    return found
