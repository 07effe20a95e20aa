"""Whether a program may serve sizes of 1, such as one sample: torch traces another model there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import tree_unflatten
from fxlrp.ir.guards import SMALLEST_OPEN, is_symbolic, to_integers
from fxlrp.ir.targets import Form, make_example_targets
from fxlrp.session.agreement import is_close
from fxlrp.session.programs import Programs
from fxlrp.session.signature import CapturedSignature

NOISE = 0.1
"""Standard deviation of what is added to inputs to compare programs on other numbers than the given ones."""


def find_single_sizes(
    programs: Programs, entry: CapturedSignature, leaves: Sequence[Any], sizes: Mapping[Any, int], form: Form
) -> tuple[set[str], list[list[Tensor]]]:
    """Find the open sizes for which 1 will do, by symbol, and the tensors on which that was found out.

    Of the batch and of the first size after it: alone, and both at a time.
    """
    batch = entry.plan.captured.explained.meta["val"].shape[0]
    first = batch.node.expr if is_symbolic(batch) else None
    ordered = sorted(sizes, key=lambda symbol: symbol != first)
    admitted: list[Any] = []
    found: list[list[Tensor]] = []
    for symbol in ordered[:2]:
        if entry.plan.captured.guards.find_limits(symbol)[0] == SMALLEST_OPEN:
            fixed = [{symbol: 1}, *({symbol: 1, other: 1} for other in admitted)]
            tried = [compare_at_sizes(programs, entry, leaves, {**sizes, **values}, form) for values in fixed]
            if None not in tried:
                admitted.append(symbol)
                found += [tensors for tensors in tried if tensors is not None]
    return set(map(str, admitted)), found


def compare_at_sizes(
    programs: Programs, entry: CapturedSignature, leaves: Sequence[Any], sizes: Mapping[Any, int], form: Form
) -> list[Tensor] | None:
    """Return the beginning of the inputs, of these sizes, if the program does there what a program for them does.

    The model is captured once more, and both programs are compared on these inputs and on noise about them. None if
    they differ, or if there is no such program.
    """
    pairs = zip(entry.plan.captured.inputs, leaves, strict=True)
    try:
        first = [cut_input(node, leaf, sizes) for node, leaf in pairs]
        own, given, found = programs.find_signature(*tree_unflatten(first, entry.spec))
        tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
        tensors += make_example_targets(form, own.shape(found), tensors[0].device)
        one, other = (programs.find_program(e, form)[0].module for e in (entry, own))
        alike = all(are_all_close(one(*numbers), other(*numbers)) for numbers in (tensors, add_noise(tensors)))
    except Exception:  # whatever goes wrong with a size of 1: the artefact will not take it
        return None
    return tensors if alike else None


def cut_input(node: fx.Node, leaf: Any, sizes: Mapping[Any, int]) -> Any:
    """Return the beginning of an input, of the sizes that it has for these values of the symbols."""
    if not isinstance(leaf, Tensor):
        return leaf
    shape = node.meta["val"].shape
    ends = [int(n.node.expr.xreplace(to_integers(sizes))) if is_symbolic(n) else n for n in shape]
    return leaf[tuple(slice(0, end) for end in ends)]


def add_noise(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Add noise to the tensors of floating point."""
    chance = torch.Generator().manual_seed(0)
    return [t + (NOISE * torch.randn(t.shape, generator=chance)).to(t) if t.is_floating_point() else t for t in tensors]


def are_all_close(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Return whether all results are close."""
    return all(is_close(one, other) for one, other in zip(ones, others, strict=True))
