"""Sizes of 0 and 1: torch takes another way through a model there, so that they have programs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fxlrp._torch import combine_args, map_shapes, tree_flatten, tree_unflatten
from fxlrp.ir.guards import SMALLEST_OPEN, find_user_inputs, is_symbolic


def fix_small_exported(exported: ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what to tell torch.export of an exported program's sizes: those that are 0 or 1 now are fixed.

    Returns:
        None if there are none, or if the inputs are of another kind, as who called will say.
    """
    leaves, spec = tree_flatten((args, dict(kwargs)))
    if spec != exported.call_spec.in_spec:
        return None
    shapes, small = [], False
    for leaf, node in zip(leaves, find_user_inputs(exported), strict=True):
        known = node.meta["val"].shape if isinstance(leaf, Tensor) and isinstance(node.meta["val"], Tensor) else ()
        if known and leaf.ndim != len(known):
            return None
        found = {i: leaf.shape[i] for i, size in enumerate(known) if is_symbolic(size)}
        small = small or any(n < SMALLEST_OPEN for n in found.values())
        shapes.append({i: Dim.AUTO for i, n in found.items() if n >= SMALLEST_OPEN} if known else None)
    if not small:
        return None
    return combine_args(exported.module(), *tree_unflatten(shapes, spec))


def fix_small_declared(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any) -> Any:
    """Return what to tell torch.export of sizes that may change: those that are 0 or 1 now are fixed.

    Torch takes another way through the model there, such as broadcasting, so that they need a program of their own.
    """
    if hasattr(dynamic_shapes, "dynamic_shapes"):  # torch's own ways to tell of them
        dynamic_shapes = dynamic_shapes.dynamic_shapes(model, args, dict(kwargs))
    if not isinstance(dynamic_shapes, (Mapping, tuple, list)):
        return dynamic_shapes
    given: Any = combine_args(model, args, dict(kwargs))
    given = given if isinstance(dynamic_shapes, Mapping) else type(dynamic_shapes)(given.values())
    small: set[str] = set()
    try:
        map_shapes(partial(collect_small, small), given, dynamic_shapes)
        return map_shapes(partial(close_small, small), given, dynamic_shapes)
    except (ValueError, AssertionError):  # they do not fit the arguments, which torch will explain
        return dynamic_shapes


def collect_small(small: set[str], path: Any, value: Any, dims: Any) -> None:
    """Add the named sizes of an input that are 0 or 1 now, and may be."""
    for dim, size in pair_sizes(value, dims).values():
        if (
            isinstance(dim, Dim)
            and compute_root_size(dim, size) < SMALLEST_OPEN
            and find_root_size(dim).min <= SMALLEST_OPEN
        ):
            small.add(find_root_size(dim).__name__)


def close_small(small: set[str], path: Any, value: Any, dims: Any) -> Any:
    """Fix these named sizes of an input in what is said of it, and those without a name that are 0 or 1."""
    sizes = pair_sizes(value, dims)
    closing = {
        i: Dim.STATIC
        for i, (dim, size) in sizes.items()
        if (find_root_size(dim).__name__ in small if isinstance(dim, Dim) else is_hint(dim) and size < SMALLEST_OPEN)
    }
    if isinstance(dims, Mapping):
        return {**dims, **closing}
    return type(dims)(closing.get(i, dim) for i, dim in enumerate(dims)) if sizes else dims


def pair_sizes(value: Any, dims: Any) -> dict[int, tuple[Any, int]]:
    """Return what is said of each dimension of a tensor, and its size now."""
    if not isinstance(value, Tensor) or not isinstance(dims, (Mapping, tuple, list)):
        return {}
    said = dims.items() if isinstance(dims, Mapping) else enumerate(dims)
    return {i: (dim, value.shape[i]) for i, dim in said if -value.ndim <= i < value.ndim}


def is_hint(dim: Any) -> bool:
    """Return whether a size is declared as ``Dim.AUTO`` or ``Dim.DYNAMIC``, with limits or without."""
    return getattr(dim, "type", None) in (Dim.AUTO.type, Dim.DYNAMIC.type)


def find_root_size(dim: Any) -> Any:
    """Return the named size that another one is computed of."""
    return getattr(dim, "root", dim)


def compute_root_size(dim: Any, size: int) -> int:
    """Compute the named size that a linear one is computed of."""
    if not hasattr(dim, "root"):
        return size
    first, second = int(dim.fn(0)), int(dim.fn(1))
    return (size - first) // (second - first)
