"""Relevance of walks: sequences of units, one of each layer, that relevance passes one after the other."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fxlrp.attributor import Attributor
from fxlrp.errors import SignatureError
from fxlrp.ir.targets import Target

End = tuple[float, tuple[int, ...]]
"""The product along a walk, and its units."""


@dataclass(frozen=True)
class Walk:
    """A sequence of units or nodes, and the relevance that takes it.

    Attributes:
        places: One index per value, the input first. A unit's index has all dimensions of its value.
        relevance: What arrives at the input along them.
    """

    places: tuple[tuple[int, ...], ...]
    relevance: float


@dataclass(frozen=True)
class Walks:
    """What passes between the units of some layers for one input and target; see `trace_walks`.

    A walk's relevance is the product of the coefficient at its last unit, the factor of each step, and the value of its
    first unit (Schnake et al. 2021, eq. 5, where nodes of a graph are blocks of units). It is summed over features if
    walks are those of nodes.

    Attributes:
        coefficient: That of each unit of the last layer, flat.
        steps: Of each layer, the input's side first: a matrix ``(units of the layer, units of the value before)``.
        value: The input, flat.
        shapes: Shapes of the input and of the value of each layer.
    """

    coefficient: Tensor
    steps: tuple[Tensor, ...]
    value: Tensor
    shapes: tuple[tuple[int, ...], ...]

    def sum(self, places: Sequence[int], dim: int = 0) -> float:
        """Return the relevance of a walk of nodes: one index of dimension ``dim`` for each value, the input first.

        Raises:
            SignatureError: If there are not as many as values.
        """
        if len(places) != len(self.shapes):
            raise SignatureError(f"a walk has {len(self.shapes)} places here, one per value, not {len(places)}")
        masks = [self.mask(i, place, dim) for i, place in enumerate(places)]
        c = self.coefficient * masks[-1]
        for step, mask in zip(reversed(self.steps), reversed(masks[:-1]), strict=True):
            c = (c @ step) * mask
        return float(c @ self.value)

    def mask(self, i: int, place: int, dim: int) -> Tensor:
        """Return 1 for the units of value ``i`` that are at a place of a dimension, flat."""
        along = torch.arange(self.shapes[i][dim]).reshape([-1 if d == dim else 1 for d in range(len(self.shapes[i]))])
        return (along == place).expand(self.shapes[i]).reshape(-1).to(self.value)

    def every(self, dim: int = 0) -> Iterator[Walk]:
        """Yield all walks of nodes; there are as many as the product of the sizes of ``dim``."""
        for places in product(*(range(shape[dim]) for shape in self.shapes)):
            yield Walk(tuple((place,) for place in places), self.sum(places, dim))

    def best(self, k: int) -> list[Walk]:
        """Find the ``k`` walks of units with the largest absolute relevance, without looking at all of them.

        Absolute relevance is a product of absolute factors, so that a walk of the best ends in one of the ``k`` best to
        each unit; the time grows with the entries of the steps times ``k``, and not with the number of walks.

        Source: Xiong et al. 2023, which search walks of neurons by the largest product.
        """
        ends: list[list[End]] = [[(float(c), (unit,))] if c else [] for unit, c in enumerate(self.coefficient.tolist())]
        for step in reversed(self.steps):
            ends = [self.extend(ends, step[:, unit].tolist(), unit, k) for unit in range(step.shape[1])]
        found = [
            (size * float(x), units)
            for x, walks in zip(self.value.tolist(), ends, strict=True)
            for size, units in walks
            if size * x
        ]
        chosen = heapq.nlargest(k, found, key=lambda item: abs(item[0]))
        return [Walk(tuple(map(self.locate, range(len(units)), units)), size) for size, units in chosen]

    @staticmethod
    def extend(ends: Sequence[list[End]], factors: Sequence[float], unit: int, k: int) -> list[End]:
        """Return the best walks to a unit, from those to the units that reach it."""
        found = (
            (size * factor, (unit, *units))
            for factor, walks in zip(factors, ends, strict=True)
            if factor
            for size, units in walks
        )
        return heapq.nlargest(k, found, key=lambda item: abs(item[0]))

    def locate(self, i: int, unit: int) -> tuple[int, ...]:
        """Return the index of a unit in the shape of value ``i``."""
        return tuple(int(place) for place in torch.unravel_index(torch.tensor(unit), self.shapes[i]))


def trace_walks(attributor: Attributor, layers: Sequence[str], *, chunk: int = 64) -> Callable[..., Walks]:
    """Measure what passes from every unit of each layer to every unit of the value before it.

    For small inputs, such as a graph of some atoms: the steps have as many entries as pairs of units.

    Args:
        attributor: Whose model and rules are used.
        layers: Names of module outputs, from the input to the output, that all relevance passes.
        chunk: The most units that are looked at together.

    Returns:
        A function that takes what the attributor takes, ``target=`` included, for an input whose output is of one
        sample; walks start at the first argument.

    Raises:
        SignatureError: If ``layers`` is empty; when called, if a name is of no layer, or the first argument is no
            tensor of floating point numbers.
    """
    if not layers:
        raise SignatureError("no layer is named: walks go through the outputs of modules")
    readers: dict[str, Attributor] = {}

    def trace(*args: Any, target: Target = None, **kwargs: Any) -> Walks:
        """Return the walks of one input."""
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            raise SignatureError(
                "walks start at the first argument, which has to be a tensor of floating point numbers"
            )
        first = name_first_input(attributor, args, kwargs)
        reads = [f"{name}:coefficient" for name in (first, *layers)]
        if first not in readers:
            readers[first] = Attributor(attributor.model, replace(attributor.options, read=tuple(reads)))
        reading = readers[first]
        whole = reading(*args, target=target, **kwargs)
        shapes = [tuple(whole.read[name].shape) for name in reads]
        steps = []
        for i, name in enumerate(layers):
            units = math.prod(shapes[i + 1])
            started = {name: torch.ones(shapes[i + 1])}
            masks = torch.eye(units).reshape(units, *shapes[i + 1])
            found = reading(*args, inject=started, conditions=[{name: m} for m in masks], chunk=chunk, **kwargs)
            steps.append(found.read[reads[i]].reshape(units, -1))
        last = whole.read[reads[-1]].reshape(-1)
        return Walks(last, tuple(steps), args[0].detach().reshape(-1).to(last), tuple(shapes))

    return trace


def name_first_input(attributor: Attributor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the name of the first input in the graph of the model."""
    signature, _, _ = attributor._programs.find_signature(args, kwargs)
    name: str = signature.plan.captured.inputs[0].name
    return name
