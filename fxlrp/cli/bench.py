"""How long a model, its gradient and its relevance take: ``fxlrp bench``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp import passes
from fxlrp._torch import tree_flatten, tree_map_only
from fxlrp.api import load_extensions, rule_set
from fxlrp.backends.choice import find_backend
from fxlrp.capture.explained_output import Output, pick_output
from fxlrp.capture.functional_graph import capture
from fxlrp.cli.models import LoadedModel
from fxlrp.emit.lower import emit_program
from fxlrp.ir import targets
from fxlrp.passes.lowering.bfloat16 import PRECISION
from fxlrp.plan.decide import make_plan
from fxlrp.reports.rounding_error import measure_errors
from fxlrp.session.agreement import check_output, find_rounding_unit
from fxlrp.session.signature import bind_arguments, plain_mode

GRADIENT = "gradient x input by autograd"


@dataclass(frozen=True)
class Times:
    """Seconds that things took.

    Attributes:
        once: What happens at the first call of a signature, by its name.
        each: What happens at every call, by its name; as often as it was repeated.
        errors: Relative error of each relevance, set against float64.
    """

    once: Mapping[str, float]
    each: Mapping[str, Sequence[float]]
    errors: Mapping[str, float]

    def table(self) -> Table:
        """Medians, the middle half of the repetitions, and the ratio to the gradient or else to the forward pass."""
        base = self.each.get(GRADIENT) or self.each["forward"]
        table = Table("", "milliseconds", "middle half", "ratio", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, took in self.once.items():
            table.add_row(f"once: {name}", f"{1e3 * took:.1f}", "", "")
        for name, repeated in self.each.items():
            low, median, high = 1e3 * np.quantile(repeated, (0.25, 0.5, 0.75))
            ratio = float(np.median(repeated) / np.median(base))
            table.add_row(name, f"{median:.1f}", f"{low:.1f} to {high:.1f}", f"{ratio:.2f}")
        return table

    def loss(self) -> str:
        """What is lost by rounding."""
        lost = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"Relative error of the relevance, set against float64: {lost}"


def measure_times(
    loaded: LoadedModel,
    rules: str,
    backend_name: str,
    precision: str | None,
    output: Output,
    strict: bool,
    repeats: int,
) -> Times:
    """Make a program, then run forward pass, gradient and program in turn.

    Args:
        loaded: The model, what to call it with, and what to explain.
        rules: Name of a preset.
        backend_name: Name of a backend.
        precision: As in `fxlrp.compile`.
        output: The part of the model's output that is explained.
        strict: Whether every op must have a rule.
        repeats: How often each runs.
    """
    load_extensions()
    make, table = find_backend(backend_name), rule_set(rules)
    args, kwargs = bind_arguments(loaded.model, loaded.args, dict(loaded.kwargs))
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    once: dict[str, float] = {}
    with plain_mode():
        with clock(once, "capture"):
            captured = capture(loaded.model, args, kwargs, output=output)
        example = captured.explained.meta["val"]
        form, numbers = targets.split_target(loaded.target, tuple(example.shape))
        numbers = tuple(number.to(example.device) for number in numbers)
        with clock(once, "compile"):
            made = make_plan(captured, table, (), strict)
            program = emit_program(made, form)
            passes.run_passes(program.module, PRECISION[precision])
            run = make(program, None)
        with clock(once, f"first call, {backend_name}"):
            results = run(*tensors, *numbers)
        with clock(once, "verification of its output"):
            found = captured.output(results[: program.outputs])
            where = "fxlrp.compile(...) says where at its first call"
            check_output(loaded.model, (args, kwargs), found, find_rounding_unit(captured.graph), lambda: where)
        calls: dict[str, Callable[[], Any]] = {"forward": lambda: model(*args, **kwargs)}
        model = loaded.model.module() if isinstance(loaded.model, ExportedProgram) else loaded.model
        if compute_gradient(model, args, kwargs, output, form, numbers):
            calls[GRADIENT] = lambda: compute_gradient(model, args, kwargs, output, form, numbers)
        calls[f"output and relevance, {rules}"] = lambda: run(*tensors, *numbers)
        each: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            taken: dict[str, float] = {}
            for name, call in calls.items():
                with clock(taken, name):
                    call()
                each[name].append(taken[name])
        return Times(once, each, measure_errors(made, form, program, run, [*tensors, *numbers]))


@contextmanager
def clock(taken: dict[str, float], name: str) -> Iterator[None]:
    """Write down how long the body takes, on a GPU with what it has started there."""
    start = read_clock()
    yield
    taken[name] = read_clock() - start


def read_clock() -> float:
    """The time at which everything has been computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compute_gradient(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Output,
    form: targets.Form,
    numbers: Sequence[Tensor],
) -> list[Tensor]:
    """Gradient x input at the floating point inputs and behind embeddings; empty if there are none."""
    leaves: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        leaves.append(x.detach().requires_grad_())
        return leaves[-1]

    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    with torch.enable_grad(), ExitStack() as stack:
        for module in embeddings:
            stack.callback(module.register_forward_hook(lambda _, __, out: leaf(out)).remove)
        args, kwargs = tree_map_only(Tensor, leaf, (args, dict(kwargs)))
        y = pick_output(model(*args, **kwargs), output)
        y = y if y.ndim else y.reshape(1)
        if not y.requires_grad or not leaves:
            return []
        found = torch.autograd.grad(y, leaves, targets.make_seed(form, y.detach(), numbers), allow_unused=True)
    parts: list[Tensor | None] = list(found)  # None for embeddings that the output does not depend on
    return [x.detach() * part for x, part in zip(leaves, parts, strict=True) if part is not None]
