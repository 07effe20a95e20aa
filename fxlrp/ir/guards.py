"""For which sizes a traced program is right: what torch and fxlrp assumed of them while they traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import SymInt, fx
from torch.export import ExportedProgram

from fxlrp._torch import FakeTensor, Integer, chooses_layout

SMALLEST_OPEN = 2
"""A size of 1 broadcasts and one of 0 is empty: a graph that was traced for more is not the model's there."""


@dataclass(frozen=True)
class Guards:
    """Conditions on the symbolic sizes of a program.

    Attributes:
        shapes: Torch's record of what was assumed of each symbol. Emitting a relevance program adds to it.
        ranges: Values that each symbolic size may take by the declaration of who exported.
    """

    shapes: Any
    ranges: Mapping[Any, Any]
    _known: dict[Any, bool] = field(default_factory=dict, repr=False)

    def find_limits(self, symbol: Any) -> tuple[int, int | None]:
        """Return the least and the largest value of a symbol, None if there is no largest."""
        declared = self.ranges.get(symbol)
        if declared is None:
            return SMALLEST_OPEN, None
        least, largest = declared.lower, declared.upper
        return max(SMALLEST_OPEN, int(least)), int(largest) if largest.is_Integer and largest < 2**31 else None

    def list_conditions(self) -> Iterator[Any]:
        """Yield what holds beside the limits, in symbols that inputs have."""
        for guard in self.shapes.guards:
            if chooses_layout(guard):  # of a convolution's result, by how large it is; its numbers are the same
                continue
            yield self.resolve(guard.expr)

    def resolve(self, expression: Any) -> Any:
        """Return an expression in the symbols that are left, when torch found some to be equal to others."""
        while expression.free_symbols & self.shapes.replacements.keys():
            expression = expression.xreplace(self.shapes.replacements)
        return expression

    def admit(self, sizes: Mapping[Any, int]) -> bool:
        """Return whether the program may run for these values of its symbols."""
        if not sizes:
            return True
        key = len(self.shapes.guards), *sizes.items()
        if key not in self._known:
            self._known[key] = all(self._check(sizes))
        return self._known[key]

    def _check(self, sizes: Mapping[Any, int]) -> Iterator[bool]:
        values = to_integers(sizes)
        for symbol, n in sizes.items():
            least, largest = self.find_limits(symbol)
            yield least <= n and (largest is None or n <= largest)
        for expression, limits in self.ranges.items():
            value = expression.xreplace(values)
            yield not value.is_Integer or bool(limits.lower <= value <= limits.upper)
        for condition in self.list_conditions():
            yield condition.xreplace(values) != False  # noqa: E712  sympy's false; what is left open depends on data


def solve_size(expression: Any, n: int, sizes: dict[Any, int]) -> bool:
    """Return whether a size may be ``n`` for the values in ``sizes`` of symbols; add the value of one more to them."""
    unknown = [symbol for symbol in expression.free_symbols if symbol not in sizes]
    if len(unknown) == 1:  # sizes of inputs are symbols, or linear in one
        at = [int(expression.xreplace({unknown[0]: Integer(x)} | to_integers(sizes))) for x in (0, 1)]
        sizes[unknown[0]] = (n - at[0]) // (at[1] - at[0])
    return bool(expression.xreplace(to_integers(sizes)) == n)


def to_integers(sizes: Mapping[Any, int]) -> dict[Any, Any]:
    """Return values of symbols as torch's expressions take them."""
    return {symbol: Integer(n) for symbol, n in sizes.items()}


def is_symbolic(size: Any) -> bool:
    """Return whether a size of a graph is open."""
    return isinstance(size, SymInt)


def restore_guards(exported: ExportedProgram) -> None:
    """Give a program that came from a file its conditions back, which a file keeps as text alone."""
    inputs = find_user_inputs(exported)
    fakes = [node.meta["val"] for node in inputs if isinstance(node.meta["val"], FakeTensor)]
    shapes = fakes[0].fake_mode.shape_env if fakes else None
    if shapes is not None and exported._guards_code and not shapes.guards:
        check = getattr(exported.module(), "_guards_fn", None)
        if check is not None:
            check(*(node.meta["val"] for node in inputs))  # a condition on symbols that is asked for is recorded


def find_user_inputs(exported: ExportedProgram) -> list[fx.Node]:
    """Return the placeholders of the user's inputs, in order."""
    names = set(exported.graph_signature.user_inputs)
    return [node for node in exported.graph.find_nodes(op="placeholder") if node.name in names]
