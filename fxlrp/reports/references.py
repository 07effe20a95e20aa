"""What programs are compared with: the model itself, autograd, a copy in float64, single samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import tree_flatten, tree_map, tree_map_only, tree_unflatten
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.errors import SignatureError
from fxlrp.ir import targets
from fxlrp.ir.graphs import call_op
from fxlrp.ir.program import is_floating
from fxlrp.plan.decide import Plan
from fxlrp.reports.edge_relevance import give_inputs
from fxlrp.reports.rounding_error import measure_norm_error
from fxlrp.rules import PRESETS
from fxlrp.session.agreement import call_model
from fxlrp.session.call import Call, fit_call
from fxlrp.session.explain import explain
from fxlrp.session.programs import Programs

TensorsByName = Mapping[str, Tensor]


class Case(NamedTuple):
    """A model and what it is called with.

    Attributes:
        programs: The programs of the model.
        call: The call.
    """

    programs: Programs
    call: Call

    def explain(self, target: targets.Target = None) -> TensorsByName:
        """Return relevances by name, those of what is read, too; of another target if there is one."""
        found = explain(self.programs, self.call if target is None else replace(self.call, target=target))
        single = isinstance(found.relevance, Tensor)
        own = {"input": found.relevance} if single else found.relevance
        return {**own, **{f"read {name}": r for name, r in found.read.items()}}

    def output(self) -> Any:
        """Return what the program gives as the model's output."""
        return explain(self.programs, self.call).output

    def explained(self, output: Any = None) -> Tensor:
        """Return the part that is explained of an output, by default of the program's, as targets see it."""
        y = self.programs.choose_explained(self.output() if output is None else output)
        return y if y.ndim else y.reshape(1)

    def run_model(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the model's own output for some arguments, of which it gets copies."""
        return call_model(self.programs.model, tree_map_only(Tensor, torch.clone, (tuple(args), dict(kwargs))))


def measure_error(found: Any, expected: Any) -> float:
    """Measure the largest relative error in norm of tensors by name or in a list; infinite for other shapes."""
    if isinstance(found, Tensor):
        exact = expected.to(torch.promote_types(expected.dtype, torch.float64))
        return measure_norm_error(found.to(exact.dtype), exact) if found.shape == exact.shape else float("inf")
    if len(found) != len(expected):
        return float("inf")
    pairs = ((found[k], expected[k]) for k in expected) if isinstance(expected, Mapping) else zip(found, expected)  # noqa: B905
    errors = [measure_error(a, b) for a, b in pairs]
    return next((e for e in errors if e != e), max(errors, default=0.0))


def use_gradient_rules(case: Case, model: nn.Module | None = None) -> Case:
    """Take adjoints for rules, with the case's own model or another one."""
    options = replace(case.programs.options, read=(), rules=PRESETS["gradient"], precision=None)
    return case._replace(programs=Programs(case.programs.model if model is None else model, options))


def convert_to_float64(case: Case) -> Case:
    """Take adjoints for rules, with a copy of the model in float64.

    Raises:
        SignatureError: If there can be none.
    """
    model, target = case.programs.model, case.call.target
    if isinstance(model, ExportedProgram):
        raise SignatureError("an exported program computes in the types that it was exported with")

    def double(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    args, kwargs = tree_map_only(Tensor, double, (case.call.args, case.call.kwargs))
    target = double(target) if isinstance(target, Tensor) else target
    call = replace(case.call, args=args, kwargs=kwargs, target=target)
    return use_gradient_rules(case._replace(call=call), copy.deepcopy(model).double())


def compute_autograd(case: Case) -> TensorsByName:
    """Compute input times gradient by torch's autograd: of the model for inputs, of its captured graph for tokens."""
    fitted = fit_call(case.programs, case.call, case.programs.find_program)
    plan, form, numbers = fitted.signature.plan, fitted.form, fitted.numbers
    found = differentiate_model(case, plan, form, numbers)
    lookups = [source for source in plan.sources if source.node not in plan.captured.inputs]
    for name, r in (
        differentiate_graph(plan.captured, lookups, fitted.tensors, form, numbers).items() if lookups else ()
    ):
        found[name] = found[name] + r if name in found else r
    names = fitted.made[0].relevances
    return {"input": found[names[0]]} if len(names) == 1 else found


def differentiate_model(case: Case, plan: Plan, form: targets.Form, numbers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Compute input times gradient of the model itself, by name of each input of floating point."""
    leaves, spec = tree_flatten((case.call.args, case.call.kwargs))
    given = [
        x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex()) if isinstance(x, Tensor) else x
        for x in leaves
    ]
    wanted = {node.name: x for node, x in zip(plan.captured.inputs, given, strict=True) if is_floating(node)}
    if not wanted:
        return {}
    with torch.enable_grad():
        y = case.explained(case.run_model(*tree_unflatten(given, spec)))
    return multiply_by_gradient(y, wanted, form, numbers)


def differentiate_graph(
    captured: Any, lookups: Sequence[Any], tensors: Sequence[Tensor], form: targets.Form, numbers: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Compute input times gradient at the lookups of the captured graph, summed over the features of each token."""
    env = give_inputs(captured, tensors)
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
    """Compute input times gradient of what is explained of ``y``."""
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
    """Take one sample of a batch of ``n``."""
    args, kwargs = tree_map(lambda x: x[i : i + 1] if is_batch(x, n) else x, (case.call.args, case.call.kwargs))
    return case._replace(call=replace(case.call, args=args, kwargs=kwargs, target=select_target(case.call.target, i)))


def double_sample(case: Case) -> Case:
    """Make a batch of two of a single sample."""
    args, kwargs = tree_map(lambda x: torch.cat([x, x]) if is_batch(x, 1) else x, (case.call.args, case.call.kwargs))
    target = select_target(case.call.target, [0, 0])
    return case._replace(call=replace(case.call, args=args, kwargs=kwargs, target=target))


def is_batch(x: Any, n: int) -> bool:
    """Whether an argument holds one entry per sample."""
    return isinstance(x, Tensor) and x.ndim > 0 and len(x) == n


def select_target(target: Any, i: Any) -> Any:
    """Select the target of one sample, or of several."""
    if isinstance(target, targets.Contrast):
        return targets.contrast(select_target(target.wanted, i), select_target(target.other, i))
    if hasattr(target, "__array__"):
        target = torch.as_tensor(target)
        return target if not target.ndim else target[i] if isinstance(i, list) else target[i : i + 1]
    if isinstance(target, list):
        return [target[j] for j in (i if isinstance(i, list) else [i])]
    return target
