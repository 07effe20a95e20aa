"""Whether the program of a batch may serve one sample, which torch traces as another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_unflatten
from fxlrp.guards import is_symbolic, known
from fxlrp.loading import agree
from fxlrp.programs import Programs
from fxlrp.signatures import Entry
from fxlrp.targets import Form, example_targets

NOISE = 0.1
"""Standard deviation of what is added to inputs to compare programs on other numbers than the given ones."""


def sample(
    programs: Programs, entry: Entry, leaves: Sequence[Any], sizes: Mapping[Any, int], form: Form
) -> list[Tensor] | None:
    """What the program of a batch takes for its first sample, if there it gives what the program for one sample gives.

    The model is captured once more, for this sample alone, and both programs are compared on it and on noise about it.
    None if they differ, if there is no such program, or if the batch is not open.
    """
    batch = entry.plan.captured.explained.meta["val"].shape[0]
    if not is_symbolic(batch) or batch.node.expr not in sizes:
        return None
    first = [
        cut(node, leaf, {**sizes, batch.node.expr: 1})
        for node, leaf in zip(entry.plan.captured.inputs, leaves, strict=True)
    ]
    try:
        single, given, found = programs.entry(*tree_unflatten(first, entry.spec))
        tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
        tensors += example_targets(form, single.shape(found), tensors[0].device)
        own, shared = (programs.program(e, form)[0].module for e in (single, entry))
        same = all(alike(shared(*numbers), own(*numbers)) for numbers in (tensors, noisy(tensors)))
    except Exception:  # whatever goes wrong with one sample: the artefact will not take it
        return None
    return tensors if same else None


def cut(node: fx.Node, leaf: Any, sizes: Mapping[Any, int]) -> Any:
    """The beginning of an input, of the sizes that it has for these values of the symbols."""
    if not isinstance(leaf, Tensor):
        return leaf
    shape = node.meta["val"].shape
    ends = [int(n.node.expr.xreplace(known(sizes))) if is_symbolic(n) else n for n in shape]
    return leaf[tuple(slice(0, end) for end in ends)]


def noisy(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with noise on those of floating point."""
    chance = torch.Generator().manual_seed(0)
    return [t + (NOISE * torch.randn(t.shape, generator=chance)).to(t) if t.is_floating_point() else t for t in tensors]


def alike(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether all results agree."""
    return all(agree(one, other) for one, other in zip(ones, others, strict=True))
