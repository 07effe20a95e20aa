"""Calls of torch's own catalogue of ops as models, and the gradient oracle over many of them at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import SEED as OF_SAMPLES
from torch.utils import _pytree as pytree

from fxlrp.capture.functional_graph import capture
from fxlrp.emit.lower import emit_program
from fxlrp.errors import CaptureError, FxlrpError, SignatureError
from fxlrp.ir import targets
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.rules import PRESETS

TOLERANCE = 1e-9
"""Largest error of the gradient oracle, relative to the largest entry of an input."""
SEED = 42
"""Seed of entries that draw random numbers, as torch sets it for them."""
ENTRIES = {
    " ".join(filter(None, (entry.name, entry.variant_test_name))): entry
    for entry in op_db
    if entry.supports_autograd and torch.float64 in entry.dtypes
}
"""Entries with a derivative, by name and variant."""


@dataclass(frozen=True)
class Call:
    """One sample of an entry: what torch can differentiate by are inputs, the rest is fixed."""

    op: Callable[..., Any]
    leaves: tuple[Any, ...]
    spec: Any
    process: Callable[[Any], Any]

    @cached_property
    def slots(self) -> list[int]:
        return [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]

    def inputs(self) -> list[Tensor]:
        return [self.leaves[slot].detach().clone() for slot in self.slots]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """A weighted sum of all floating outputs."""
        given = dict(zip(self.slots, inputs, strict=True))
        # running statistics are written to
        fixed = {i: leaf.clone() for i, leaf in enumerate(self.leaves) if i not in given and differentiable(leaf)}
        leaves = [(given | fixed).get(i, leaf) for i, leaf in enumerate(self.leaves)]
        first, args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        found = pytree.tree_leaves(self.process(self.op(first, *args, **kwargs)))
        parts = [weighted(t) for t in found if differentiable(t)]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    @cached_property
    def gradients(self) -> list[Tensor] | str:
        """Input x gradient by autograd, nothing if the output does not depend on inputs, or why there is none."""
        inputs = [x.requires_grad_() for x in self.inputs()]
        torch.manual_seed(SEED)
        try:
            y = self(*inputs)
            if not inputs or not y.requires_grad:
                return []
            found = torch.autograd.grad(y, inputs, allow_unused=True, materialize_grads=True)
        except Exception as error:
            return f"{type(error).__name__} {error}".partition("\n")[0].strip()
        return [product(dense(x.detach()), dense(g)) for x, g in zip(inputs, found, strict=True)]


def differentiable(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def dense(t: Tensor) -> Tensor:
    return t if t.layout is torch.strided else t.to_dense()


def product(x: Tensor, gradient: Tensor) -> Tensor:
    """Entry by entry and real; what is infinite has no relevance."""
    return torch.where(x.isinf(), 0.0, (x * gradient.conj()).real if x.is_complex() else x * gradient)


def weighted(t: Tensor) -> Tensor:
    """Sum with a weight of its own for each entry; the imaginary part counts too."""
    weights = torch.arange(1, t.numel() + 1).reshape(t.shape)
    if t.is_complex():
        return ((t.real.double() + 0.5 * t.imag.double()) * weights).sum()
    return (t.double() * weights).sum()


class Calls(nn.Module):
    """Several calls, each with inputs of its own; the output is their sum."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls = tuple(calls)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        given = iter(inputs)
        return torch.stack([call(*(next(given) for _ in call.slots)) for call in self.calls]).sum().reshape(1)


def made_samples(entry: Any) -> Iterator[Any]:
    """Samples as ``entry.sample_inputs`` makes them.

    That looks for the test that calls it, in the source of every frame, and seeds devices that are not there, which
    takes longer than most ops.
    """
    seed_processor()
    for sample in entry.sample_inputs_func(entry, "cpu", torch.float64, True):
        yield sample
        seed_processor()


def seed_processor() -> None:
    """Seed what samples are drawn from."""
    torch.default_generator.manual_seed(OF_SAMPLES)
    random.seed(OF_SAMPLES)
    np.random.seed(OF_SAMPLES)


def samples(name: str) -> list[Call]:
    """All samples of an entry, the same at every call."""
    torch.manual_seed(0)
    entry = ENTRIES[name]
    calls = []
    for sample in made_samples(entry):
        leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        calls.append(Call(entry.op, tuple(leaves), spec, sample.output_process_fn_grad))
    return calls


def verdicts(calls: Sequence[Call]) -> list[str]:
    """What became of each call.

    ``passes``; ``silent`` (a clear error says that nothing reaches the output); ``constant`` (no gradient either);
    ``no reference: ...`` (torch cannot differentiate it); ``refused: ...`` (it could not be captured, or an input is
    not supported); or what is wrong.
    """
    found: dict[int, str] = {}
    for i, call in enumerate(calls):
        if isinstance(call.gradients, str):
            found[i] = f"no reference: {call.gradients}"
        elif not call.gradients:
            found[i] = "constant"
    rest = [i for i in range(len(calls)) if i not in found]
    found.update(zip(rest, together([calls[i] for i in rest]), strict=True))
    return [found[i] for i in range(len(calls))]


def together(calls: list[Call]) -> list[str]:
    """Verdicts on calls as one model; on halves of them if it fails, and on single ones that are wrong."""
    if not calls:
        return []
    try:
        found = judged(calls)
    except Exception as error:
        if len(calls) == 1:
            return [failure(error)]
        half = len(calls) // 2
        return together(calls[:half]) + together(calls[half:])
    if len(calls) == 1:
        return found
    return [v if v == "passes" else together([call])[0] for v, call in zip(found, calls, strict=True)]


def failure(error: Exception) -> str:
    """The telling line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if isinstance(error, (CaptureError, SignatureError)):
        own = error.__cause__ is None  # else the second line is what torch said
        return f"refused: {lines[0] if own else lines[1]}"
    return f"{type(error).__name__}: {lines[1] if isinstance(error, FxlrpError) and len(lines) > 1 else lines[0]}"


def judged(calls: list[Call]) -> list[str]:
    """The gradient oracle, then a strict compilation with the default rules."""
    inputs = [x for call in calls for x in call.inputs()]
    captured = capture(Calls(calls), tuple(inputs), {})
    oracle = relevances(make_plan(captured, PRESETS["gradient"], (), True), inputs)
    try:
        attnlrp = relevances(make_plan(captured, PRESETS["attnlrp"], (), True), inputs)
    except SignatureError:  # no path leads to the output
        attnlrp = []
    found, at = [], 0
    for call in calls:
        own = slice(at, at := at + len(call.slots))
        found.append(judgement(call.gradients, oracle[own], attnlrp[own]))
    return found


def judgement(wanted: Sequence[Tensor], oracle: Sequence[Tensor], attnlrp: Sequence[Tensor]) -> str:
    """The verdict on one call; ``silent`` if the default rules leave no path."""
    worst = max(difference(r, w) for r, w in zip(oracle, wanted, strict=True))
    if not worst <= TOLERANCE:
        return f"wrong: relative error {worst:.1e}"
    if not attnlrp:
        return "silent"
    if not all((r.isfinite() | ~w.isfinite()).all() for r, w in zip(attnlrp, wanted, strict=True)):
        return "wrong: not finite with the default rules"
    lost = any(w.any() for w in wanted) and not any(r.any() for r in attnlrp)
    return "wrong: no relevance with the default rules" if lost else "passes"


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry, where torch's own gradient is finite."""
    finite = wanted.isfinite()
    if not finite.any():
        return 0.0
    scale = wanted[finite].abs().amax().clamp(min=1e-9)
    return float((found - wanted)[finite].abs().amax() / scale)


def relevances(made: Plan, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Relevance of each input."""
    form, numbers = targets.split_target(None, (1,))
    program = emit_program(made, form)
    torch.manual_seed(SEED)
    return list(program.module(*inputs, *numbers))[program.outputs :]
