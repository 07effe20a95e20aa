"""The mean coefficient on the way from a baseline to an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxlrp._torch import tree_leaves
from fxlrp.attributor import Attributor
from fxlrp.averaging.copies import average_calls, check_count
from fxlrp.errors import SignatureError
from fxlrp.ir.targets import Target
from fxlrp.session.result import Result
from fxlrp.session.signature import bind_arguments


def integrate(
    attributor: Attributor, baseline: float | Tensor | Mapping[str, Tensor] = 0.0, steps: int = 32, *, chunk: int = 8
) -> Callable[..., Result]:
    """Integrate the coefficients of any rule set along the line from a baseline to the input.

    ``R = (x - b) * int_0^1 c(b + a (x - b)) da``, by Gauss and Legendre's formula with ``steps`` points. With
    ``rules="gradient"`` these are integrated gradients, whose sum is the difference of the two outputs.

    Source: Sundararajan et al. 2017, eq. 1.

    Args:
        attributor: Whose model, rules and options are used.
        baseline: A number, a tensor that expands to the only floating input, or tensors by the names of such inputs as
            in ``result.relevance``.
        steps: Number of points.
        chunk: The most points in a batch.

    Returns:
        A function that takes what the attributor takes, ``target=`` included, and returns a result.

    Raises:
        SignatureError: If ``steps`` is no number of points; when called, if a baseline fits no input.
    """
    check_count("steps", steps, "points")
    points, weights = np.polynomial.legendre.leggauss(steps)
    parts = (points + 1) / 2
    readers: dict[tuple[str, ...], Attributor] = {}

    def explain(*args: Any, target: Target = None, **kwargs: Any) -> Result:
        """Return the integral for these inputs."""
        bound = bind_arguments(attributor.model, args, kwargs)
        inputs = find_floating_inputs(attributor, *bound)
        starts = {id(x): find_baseline(baseline, name, x, list(inputs)) for name, (_, x) in inputs.items()}
        shown = {name: f"{node.name}:coefficient" for name, (node, _) in inputs.items()}
        read = (*attributor.options.read, *shown.values())
        if read not in readers:
            readers[read] = Attributor(attributor.model, replace(attributor.options, read=read))

        def go_on(x: Tensor, count: int, which: slice) -> Tensor:
            at = x.new_tensor([*parts[which], *(count - len(parts[which])) * [1.0]])
            start = starts[id(x)]
            return start + at.reshape(-1, *(1 for _ in x.shape)) * (x - start)

        clean, _, found = average_calls(readers[read], *bound, target, [w / 2 for w in weights], chunk, go_on)
        relevance = {name: (x - starts[id(x)]) * found.pop(shown[name]) for name, (_, x) in inputs.items()}
        single = next(iter(relevance.values())) if len(relevance) == 1 else relevance
        return replace(clean, relevance=single, read=found, question=None)

    return explain


def find_floating_inputs(
    attributor: Attributor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, tuple[fx.Node, Tensor]]:
    """Find node and value of each floating input that has relevance, by name."""
    signature, _, _ = attributor._programs.find_signature(args, kwargs)
    plan = signature.plan
    values = dict(zip(plan.captured.inputs, tree_leaves((args, kwargs)), strict=True))
    return {s.name: (s.node, values[s.node]) for s in plan.sources if s.node in values}


def find_baseline(baseline: Any, name: str, x: Tensor, names: Sequence[str]) -> Tensor:
    """Expand what was given as baseline to an input.

    Raises:
        SignatureError: If it does not expand, or is one tensor for several inputs.
    """
    if isinstance(baseline, Mapping):
        if unknown := [key for key in baseline if key not in names]:
            raise SignatureError(f"baseline: {', '.join(unknown)} is no floating input; there are {', '.join(names)}")
        baseline = baseline.get(name, 0.0)
    elif not isinstance(baseline, (int, float)) and len(names) > 1:
        raise SignatureError(f"baseline is one tensor for {len(names)} inputs: give a dictionary of {', '.join(names)}")
    try:
        return torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand(x.shape)
    except RuntimeError:
        raise SignatureError(
            f"baseline has shape {tuple(baseline.shape)}, which does not expand to that of {name!r}, {tuple(x.shape)}"
        ) from None
