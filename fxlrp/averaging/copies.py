"""Calls of an attributor with several copies of its inputs as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import tree_leaves, tree_map_only
from fxlrp.attributor import Attributor
from fxlrp.errors import SignatureError
from fxlrp.ir.targets import Contrast, Target, make_seed
from fxlrp.session.doubts import list_entries
from fxlrp.session.many_targets import choose_chunk_size
from fxlrp.session.result import Result

Change = Callable[[Tensor, int, slice], Tensor]
"""From an input, a number of copies, and which of all they are, to changed copies with one more dimension in front."""


@dataclass(frozen=True)
class Given:
    """What a call was given, and how many samples that is."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    batch: int

    def copy(self, count: int, change: Change, which: slice) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return inputs for ``count`` copies of the batch, one behind the other, of which floating ones are changed."""

        def spread(x: Tensor) -> Tensor:
            if not x.ndim or x.shape[0] != self.batch:
                return x
            copies = change(x, count, which) if x.is_floating_point() else x.expand(count, *x.shape)
            return copies.flatten(0, 1)

        copied: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(Tensor, spread, (self.args, dict(self.kwargs)))
        return copied


def average_calls(
    attributor: Attributor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: Target,
    weights: Sequence[float],
    chunk: int,
    change: Change,
) -> tuple[Result, Any, dict[str, Tensor]]:
    """Return the result of a call, and weighted sums of relevance and of what is read over changed copies of it.

    Args:
        attributor: What is called.
        args: Positional arguments of the model.
        kwargs: Its keyword arguments.
        target: As in a call; the largest output is that of the given input.
        weights: One for each copy.
        chunk: The most copies in a batch.
        change: What happens to the floating inputs of copies.

    Raises:
        SignatureError: If no input is floating, or ``chunk`` is no number of copies.
    """
    check_count("chunk", chunk, "copies")
    tensors = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    if not any(x.is_floating_point() for x in tensors):
        raise SignatureError(
            "no input has floating point numbers, and whole numbers such as tokens have nothing between them: "
            "average over embeddings, if the model takes them"
        )
    clean = attributor(*args, target=target, **kwargs)
    given = Given(args, kwargs, count_samples(clean))
    count = len(weights)
    size = choose_chunk_size(count, chunk)
    goal = repeat_target(clean, size)
    total: Any = None
    for start in range(0, count, size):
        which = slice(start, start + size)
        inputs, named = given.copy(size, change, which)
        found = attributor(*inputs, target=goal, **named)
        own = [*weights[which], *(size - len(weights[which])) * [0.0]]
        summed = tree_map_only(Tensor, partial(sum_copies, weights=own), (found.relevance, found.read))
        total = summed if total is None else add_results(total, summed)
    return clean, *total


def check_count(name: str, count: Any, what: str) -> None:
    """Refuse what is no number of things.

    Raises:
        SignatureError: If it is none.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SignatureError(f"{name}={count!r} is no number of {what}: give 1 or more")


def count_samples(result: Result) -> int:
    """Return how many samples a result is of."""
    explained = result.explained
    assert explained is not None
    return len(explained)


def sum_copies(r: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum the relevance of copies of a batch, which lie one behind the other."""
    copies = r.reshape(len(weights), -1, *r.shape[1:])
    return torch.einsum("k,k...->...", copies.new_tensor(weights), copies)


def add_results(one: tuple[Any, dict[str, Tensor]], two: tuple[Any, dict[str, Tensor]]) -> tuple[Any, Any]:
    """Add relevances, and what was read, of two results."""
    relevance, other = one[0], two[0]
    added = {k: relevance[k] + other[k] for k in relevance} if isinstance(relevance, dict) else relevance + other
    return added, {name: r + two[1][name] for name, r in one[1].items()}


def repeat_target(result: Result, count: int) -> Target:
    """Return the target of a result for copies of its batch, the largest entries being those of its output.

    One entry, or two in contrast, remain indices, which take less time than a coefficient for every entry.
    """
    question = result.question
    assert question is not None
    y = question.choose(result.output).detach()
    y = y if y.ndim else y.reshape(1)
    if y.ndim == 1:
        return make_seed(question.form, y, question.numbers).double().repeat(count)
    if question.form.weights not in ((1.0,), (1.0, -1.0)):
        seed = make_seed(question.form, y.double(), [n.to(y.device) for n in question.numbers])
        return seed.repeat(count, *(1 for _ in seed.shape[1:]))
    indices = [entries * count for entries in list_entries(question, y)]
    return indices[0] if len(indices) == 1 else Contrast(*indices)
