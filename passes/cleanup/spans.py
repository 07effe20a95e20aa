"""Parts of one dimension of a tensor: where views put them, and what selects or surrounds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import fx

from fxlrp.ir.ops import name_arguments
from fxlrp.passes.manager import insert, shape_of

aten = torch.ops.aten

SQUEEZES = (aten.squeeze.dim, aten.squeeze.dims)
PADS = (aten.slice_backward.default, aten.select_backward.default)


@dataclass(frozen=True)
class Span:
    """Entries ``start`` to ``end`` of a dimension."""

    dim: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Count the entries."""
        return self.end - self.start

    def cut_shape(self, sizes: tuple[int, ...]) -> list[int]:
        """Return the shape of a tensor of which this is left."""
        return [self.size if dim == self.dim else n for dim, n in enumerate(sizes)]


def known_shape(node: Any) -> tuple[int, ...]:
    """Return the shape of a tensor whose sizes are numbers; empty for anything else."""
    sizes = shape_of(node) if isinstance(node, fx.Node) else ()
    return sizes if all(isinstance(n, int) for n in sizes) else ()


def is_int(n: object) -> bool:
    """Whether it is a number."""
    return isinstance(n, int)


def find_selected(node: Any) -> Span | None:
    """Find what a slice or a selection takes of its operand."""
    sizes, a = known_shape(node.args[0]), name_arguments(node)
    given = [n for name, n in a.items() if name != "self" and n is not None]
    if not sizes or not all(map(is_int, given)):
        return None
    dim = a["dim"] % len(sizes)
    if node.target is aten.select.int:
        start = a["index"] % sizes[dim]
        return Span(dim, start, start + 1)
    start, end, step = slice(a["start"], a["end"], a["step"]).indices(sizes[dim])
    return Span(dim, start, end) if step == 1 and end > start else None


def find_padded(node: Any) -> Span | None:
    """Find where a tensor is not zero, if it is a piece with zeros around it."""
    if not isinstance(node, fx.Node) or node.target not in PADS or not known_shape(node):
        return None
    args: Any = node.args
    _, sizes, dim, *rest = args
    if not all(map(is_int, (dim, *rest))):
        return None
    dim %= len(sizes)
    n = sizes[dim]
    if node.target is aten.select_backward.default:
        return Span(dim, rest[0] % n, rest[0] % n + 1)
    start, end, step = rest
    start, end, _ = slice(start, end).indices(n)
    return Span(dim, start, end) if step == 1 else None


def insert_cut(x: Any, span: Span, like: tuple[int, ...], before: fx.Node) -> Any:
    """Insert the part of an operand that belongs to a span of a result with the shape ``like``."""
    dim = span.dim - (len(like) - len(shape_of(x))) if isinstance(x, fx.Node) else -1
    if dim < 0 or shape_of(x)[dim] != like[span.dim]:  # a number, or broadcast
        return x
    return insert(before, aten.slice.Tensor, x, dim, span.start, span.end)


def move_span(span: Span, sizes: tuple[int, ...], into: tuple[int, ...]) -> Span | None:
    """Find the same entries after a reshape, if they are a span of one dimension there."""
    before, n, behind = prod(sizes[: span.dim]), sizes[span.dim], prod(sizes[span.dim + 1 :])
    for dim, size in enumerate(into):
        if prod(into[:dim]) != before or not size or not n:
            continue
        inner = prod(into[dim + 1 :])
        if size % n == 0 and size // n * inner == behind:  # as it is, or merged with dimensions behind it
            return Span(dim, span.start * (size // n), span.end * (size // n))
        step = n // size
        if n % size == 0 and inner == step * behind and span.start % step == span.end % step == 0:
            return Span(dim, span.start // step, span.end // step)
    return None


def map_dimensions(node: Any) -> list[int] | None:
    """Find the dimension of its operand that each one of a view shows, -1 for a new one; None for other ops."""
    before, after = known_shape(node.args[0]), known_shape(node)
    order, rest = list(range(len(before))), node.args[1:]
    if not before or not after or node.target not in ORDERS:
        return None
    return ORDERS[node.target](order, before, *rest)


def swap_dimensions(order: list[int], _: Any, one: int, two: int) -> list[int]:
    """Let two dimensions change places."""
    order[one], order[two] = order[two], order[one]
    return order


def insert_dimension(order: list[int], _: Any, dim: int) -> list[int]:
    """Insert a new dimension."""
    order.insert(dim % (len(order) + 1), -1)
    return order


def squeeze_dimensions(order: list[int], sizes: tuple[int, ...], dims: Any) -> list[int]:
    """Leave out dimensions of size 1."""
    return [dim for dim in order if dim not in list_squeezed(sizes, dims)]


def list_squeezed(sizes: tuple[int, ...], dims: Any) -> list[int]:
    """List the dimensions that a squeeze drops: those among the given ones that have size 1."""
    given = {dim % len(sizes) for dim in ([dims] if is_int(dims) else dims)}
    return [dim for dim, n in enumerate(sizes) if dim in given and n == 1]


ORDERS: dict[Any, Callable[..., list[int]]] = {
    aten.permute.default: lambda order, _, dims: [order[dim] for dim in dims],
    aten.t.default: lambda order, _: order[::-1],
    aten.transpose.int: swap_dimensions,
    aten.unsqueeze.default: insert_dimension,
    **dict.fromkeys(SQUEEZES, squeeze_dimensions),
}


def rearrange_span(node: Any, span: Span, backwards: bool = False) -> Span | None:
    """Find where a view puts a span of its operand, or from where it has one of its result."""
    if node.target is aten.reshape.default:
        sizes = known_shape(node.args[0]), known_shape(node)
        return move_span(span, *(reversed(sizes) if backwards else sizes)) if all(sizes) else None
    order = map_dimensions(node)
    if order is None:
        return None
    if backwards:
        return replace(span, dim=order[span.dim]) if order[span.dim] >= 0 else None
    return replace(span, dim=order.index(span.dim)) if span.dim in order else None


def insert_narrowed(node: Any, x: fx.Node, span: Span) -> fx.Node:
    """Insert a view of part of its operand, of which ``span`` is left in the result."""
    if node.target is aten.reshape.default:
        return insert(node, node.target, x, span.cut_shape(shape_of(node)))
    if node.target in SQUEEZES:  # a part may have size 1 where the whole has not
        return insert(node, aten.squeeze.dims, x, list_squeezed(shape_of(node.args[0]), node.args[1]))
    return insert(node, node.target, x, *node.args[1:])


def is_reduced_apart(node: Any, span: Span) -> bool:
    """Whether a reduction keeps the dimensions, and takes the entries of the span apart."""
    a = name_arguments(node)
    return bool(a["dim"] and a["keepdim"]) and all(dim % len(shape_of(node)) != span.dim for dim in a["dim"])
