"""Sizes that may change between calls, found out: which ones a model fixes, and in which line."""

from __future__ import annotations

import inspect
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fxlrp._torch import is_concrete_int, print_specializations, tree_leaves, tree_map, tree_map_only
from fxlrp.ir.guards import find_user_inputs
from fxlrp.ir.program import FixedSize
from fxlrp.ir.user_lines import find_running_line

AUTO = "auto"
SYMBOLS_LOGGER = "torch.fx.experimental.symbolic_shapes"


def choose_open_sizes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shared: bool) -> Any:
    """Leave the batch open and, in inputs of up to three dimensions, the sequence; torch finds out what can be.

    Args:
        model: The model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        shared: First sizes that are equal now always are: of tokens and their mask, say, which torch would let differ.
    """
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    firsts = Counter(t.shape[0] for t in tree_leaves(given) if isinstance(t, Tensor) and t.ndim)
    batches = {n: Dim(f"batch_of_{n}") for n, count in firsts.items() if shared and count > 1}

    def opened(value: Any) -> Any:
        dims = find_open_dimensions(value)
        return {**dims, 0: batches.get(value.shape[0], Dim.AUTO)} if dims and 0 in dims else dims

    return tree_map(opened, given)


def find_open_dimensions(value: Any) -> dict[int, Any] | None:
    """Return what may change of an input, if it is a tensor."""
    if not isinstance(value, Tensor):
        return None
    return {dim: Dim.AUTO for dim in range(1 if value.ndim > 3 else min(value.ndim, 2)) if value.shape[dim] > 1}


def find_fixed_sizes(exported: ExportedProgram) -> list[FixedSize]:
    """Find the sizes that were to be left open and are not, by the inputs of the graph alone."""
    return [
        FixedSize(node.name, dim, int(node.meta["val"].shape[dim]), "unknown source")
        for node in find_user_inputs(exported)
        for dim in find_open_dimensions(node.meta["val"]) or ()
        if is_concrete_int(node.meta["val"].shape[dim])
    ]


def double_batch(values: Any) -> Any:
    """Double examples of one sample, as torch takes a size of 1 for one that is always 1; None for other examples."""
    tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
    if not tensors or not all(t.ndim and t.shape[0] == 1 for t in tensors):
        return None
    return tree_map_only(Tensor, lambda t: torch.cat([t, t]), values)


@contextmanager
def watch_specialisations() -> Iterator[list[FixedSize]]:
    """Collect the sizes that torch fixes meanwhile, with the user's line that made it do so."""
    found: list[FixedSize] = []

    def listen(record: logging.LogRecord) -> bool:
        """Take down what torch logs while the code that made it specialise a size is still on the stack."""
        place = re.fullmatch(r"Specializing L\['(\w+)'\](.*)\.size\(\)\[(\d+)\] to (\d+)", record.getMessage())
        if place is not None:
            name, inner, dim, size = place.groups()
            found.append(FixedSize(name + inner, int(dim), int(size), str(find_running_line() or "unknown source")))
        return place is None

    logger = logging.getLogger(SYMBOLS_LOGGER)
    logger.addFilter(listen)
    try:
        with print_specializations():
            yield found
    finally:
        logger.removeFilter(listen)
