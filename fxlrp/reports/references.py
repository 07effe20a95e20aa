"""What programs are compared with: the model itself, autograd, a copy in float64, single samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten
from fxlrp.capture.explained_output import pick_output
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.errors import SignatureError
from fxlrp.ir import targets
from fxlrp.ir.graphs import call_op
from fxlrp.ir.program import is_floating
from fxlrp.reports.rounding_error import measure_norm_error
from fxlrp.rules import PRESETS

TensorsByName = Mapping[str, Tensor]


class Case(NamedTuple):
    """An attributor and what it is called with.

    Attributes:
        attributor: The `fxlrp.Attributor`, which is made of what is here.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        target: What is explained.
    """

    attributor: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: targets.Target

    def explain(self, target: targets.Target = None) -> TensorsByName:
        """Relevances by name, of what is read, too."""
        wanted = self.target if target is None else target
        found = self.attributor(*self.args, target=wanted, **self.kwargs)
        single = isinstance(found.relevance, Tensor)
        own = {"input": found.relevance} if single else found.relevance
        return {**own, **{f"read {name}": r for name, r in found.read.items()}}

    def output(self) -> Any:
        """What the program returns as the model's output."""
        return self.attributor(*self.args, target=self.target, **self.kwargs).output

    def explained(self, output: Any = None) -> Tensor:
        """The part that is explained of an output, by default of the program's, as targets see it."""
        y: Tensor = pick_output(self.output() if output is None else output, self.attributor.settings.output)
        objective = self.attributor.settings.objective
        y = y if objective is None else objective(y)
        return y if y.ndim else y.reshape(1)

    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]


def find_real_tensors(output: Any) -> list[Tensor]:
    """The floating point tensors of an output."""
    return [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def measure_error(found: Any, expected: Any) -> float:
    """The largest relative error in norm of tensors by name or in a list; infinite for other shapes."""
    if isinstance(found, Tensor):
        exact = expected.to(torch.promote_types(expected.dtype, torch.float64))
        return measure_norm_error(found.to(exact.dtype), exact) if found.shape == exact.shape else float("inf")
    if len(found) != len(expected):
        return float("inf")
    pairs = ((found[k], expected[k]) for k in expected) if isinstance(expected, Mapping) else zip(found, expected)  # noqa: B905
    errors = [measure_error(a, b) for a, b in pairs]
    return next((e for e in errors if e != e), max(errors, default=0.0))


def run_on_copies(model: nn.Module | ExportedProgram, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The model's own output, of copies of the inputs."""
    args, kwargs = tree_map_only(Tensor, torch.clone, (tuple(args), dict(kwargs)))
    own = model.module() if isinstance(model, ExportedProgram) else model
    return own(*args, **kwargs)


def use_gradient_rules(case: Case, model: nn.Module | None = None) -> Case:
    """The case with adjoints for rules, of its own model or of another one."""
    settings = replace(case.attributor.settings, read=(), rules=PRESETS["gradient"], precision=None)
    return case._replace(attributor=type(case.attributor)(model or case.attributor.model, settings))


def convert_to_float64(case: Case) -> Case:
    """The case with adjoints for rules, of a copy of the model in float64.

    Raises:
        SignatureError: If there can be none.
    """
    if isinstance(case.attributor.model, ExportedProgram):
        raise SignatureError("an exported program computes in the types that it was exported with")

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    args, kwargs = tree_map_only(Tensor, double, (case.args, case.kwargs))
    target = double(case.target) if isinstance(case.target, Tensor) else case.target
    return use_gradient_rules(case, copy.deepcopy(case.attributor.model).double())._replace(
        args=args, kwargs=kwargs, target=target
    )


def compute_autograd(case: Case) -> TensorsByName:
    """Input times gradient by torch's autograd: of the model for inputs, of its captured graph for tokens."""
    entry, form, tensors, numbers = case.attributor._prepared(case.args, case.kwargs, case.target)
    found = differentiate_model(case, entry, form, numbers)
    plan = entry.plan
    lookups = [source for source in plan.sources if source.node not in plan.captured.inputs]
    for name, r in differentiate_graph(plan.captured, lookups, tensors, form, numbers).items() if lookups else ():
        found[name] = found[name] + r if name in found else r
    names = case.attributor.program.relevances
    return {"input": found[names[0]]} if len(names) == 1 else found


def differentiate_model(case: Case, entry: Any, form: targets.Form, numbers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Input times gradient of the model itself, by name of each input of floating point."""
    leaves, spec = tree_flatten((case.args, case.kwargs))
    given = [
        x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex()) if isinstance(x, Tensor) else x
        for x in leaves
    ]
    wanted = {node.name: x for node, x in zip(entry.plan.captured.inputs, given, strict=True) if is_floating(node)}
    if not wanted:
        return {}
    with torch.enable_grad():
        y = case.explained(run_on_copies(case.attributor.model, *tree_unflatten(given, spec)))
    return multiply_by_gradient(y, wanted, form, numbers)


def differentiate_graph(
    captured: Any, lookups: Sequence[Any], tensors: Sequence[Tensor], form: targets.Form, numbers: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Input times gradient at the lookups of the captured graph, summed over the features of each token."""
    rest = iter(tensors)
    env = {n: next(rest) if isinstance(n.meta["val"], Tensor) else n.meta["val"] for n in captured.inputs}
    env |= {n: t.detach() if isinstance(t, Tensor) else t for n, t in captured.constants.items()}
    starts = {source.node for source in lookups}
    with torch.enable_grad():
        for node in captured.graph.nodes:
            if node.op == "call_function":
                value = call_op(node, env.__getitem__)
                env[node] = value.detach().requires_grad_() if node in starts else value
    y = env[captured.explained]
    seed = targets.make_seed(form, y.detach(), numbers)
    nodes = list(starts)
    slopes: Any = torch.autograd.grad(y, [env[n] for n in nodes], seed, allow_unused=True) if y.requires_grad else ()
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        carried = {node: slope for node, slope in zip(nodes, slopes, strict=False) if slope is not None}
        for source in lookups:
            r = read_attributed_input(source, env, carried)
            found[source.name] = found[source.name] + r if source.name in found else r
    return found


def multiply_by_gradient(
    y: Tensor, inputs: TensorsByName, form: targets.Form, numbers: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Input times gradient of what is explained of ``y``."""
    seed = targets.make_seed(form, y.detach(), numbers)
    if not y.requires_grad:
        return {name: torch.zeros_like(x) for name, x in inputs.items()}
    slopes: Any = torch.autograd.grad(y, list(inputs.values()), seed, allow_unused=True)
    with torch.no_grad():
        return {
            n: torch.zeros_like(x) if g is None else (x * g.conj()).real if x.is_complex() else x * g
            for (n, x), g in zip(inputs.items(), slopes, strict=True)
        }


def take_sample(case: Case, i: int, n: int) -> Case:
    """One sample of a batch of ``n``."""
    args, kwargs = tree_map(lambda x: x[i : i + 1] if is_batch(x, n) else x, (case.args, case.kwargs))
    return case._replace(args=args, kwargs=kwargs, target=select_target(case.target, i))


def double_sample(case: Case) -> Case:
    """A single sample as a batch of two."""
    args, kwargs = tree_map(lambda x: torch.cat([x, x]) if is_batch(x, 1) else x, (case.args, case.kwargs))
    return case._replace(args=args, kwargs=kwargs, target=select_target(case.target, [0, 0]))


def is_batch(x: Any, n: int) -> bool:
    """Whether an argument holds one entry per sample."""
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == n


def select_target(target: Any, i: Any) -> Any:
    """The target of one sample, or of several."""
    if isinstance(target, targets.Contrast):
        return targets.contrast(select_target(target.wanted, i), select_target(target.other, i))
    if hasattr(target, "__array__"):
        target = torch.as_tensor(target)
        return target if not target.ndim else target[i] if isinstance(i, list) else target[i : i + 1]
    if isinstance(target, list):
        return [target[j] for j in (i if isinstance(i, list) else [i])]
    return target
