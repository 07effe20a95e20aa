"""The arithmetic that all rules share: the one stabiliser, gains, precision, coefficient and relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import tree_map_only

EPSILON = 1e-6
_precision: ContextVar[torch.dtype] = ContextVar("precision", default=torch.float32)


def widen_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that relevance is computed in: float32 for half precision, else the same.

    Inside `compute_at_least` it is no less than the dtype given there.
    """
    return torch.promote_types(dtype, _precision.get()) if dtype.is_floating_point or dtype.is_complex else dtype


@contextmanager
def compute_at_least(dtype: torch.dtype) -> Iterator[None]:
    """Compute relevance in this precision or better, whatever the model computes in."""
    token = _precision.set(dtype)
    try:
        yield
    finally:
        _precision.reset(token)


def widen(value: Any) -> Any:
    """Cast the tensors in a nested value to the dtype of relevance arithmetic; dtypes in it likewise."""

    def wide(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return widen_dtype(leaf)
        return leaf.to(widen_dtype(leaf.dtype))

    if isinstance(value, Tensor):
        return wide(value)  # most are, and walking a tree of one leaf takes longer
    return tree_map_only((Tensor, torch.dtype), wide, value)


def bound_epsilon(epsilon: float, dtype: torch.dtype) -> float:
    """Return the stabiliser, but no less than the root of the smallest normal number of the dtype.

    What is divided by it stays finite, so that where nothing contributes, 0 times the quotient is 0.
    """
    return max(epsilon, math.sqrt(torch.finfo(dtype).smallest_normal))


def stabilise(z: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Move ``z`` away from zero: ``z + e * sgn(z)`` with ``sgn(0) = +1`` and `bound_epsilon` for ``e``.

    A complex ``z`` moves along its own direction. The result has the shape and the dtype of ``z``.

    Source: Bach et al. 2015, the epsilon rule.
    """
    e = bound_epsilon(epsilon, z.dtype)
    if z.is_complex():
        return z + e * torch.where(z == 0, 1.0, torch.sgn(z))
    sign = torch.sign(torch.sign(z) + 0.5)  # many times faster than torch.where on a CPU
    return torch.add(z, sign, alpha=e)


def gain(f: Tensor, x: Tensor, slope: float = 1.0) -> Tensor:
    """Compute ``f(x) / x`` for a function with ``f(0) = 0``, continued at 0 by its slope there.

    Safe for functions that are accurate near 0 (tanh, erf, expm1 ...): their quotient is too.

    Args:
        f: Value of the function at ``x``, in its shape and dtype.
        x: The argument.
        slope: The derivative at 0.
    """
    zero = x.abs() < torch.finfo(x.dtype).smallest_normal
    return torch.where(zero, slope, f / torch.where(zero, 1.0, x))


def apply_adjoint(function: Callable[..., Tensor], operands: Sequence[Tensor], c: Tensor) -> tuple[Tensor, ...]:
    """Compute the vector-Jacobian product ``J^T c``: one result per operand, 0 where the function ignores it.

    For complex values it is the plain transpose, without autograd's conjugates: of ``z * w`` it is ``c * w``. So the
    relevance of a complex ``z`` is the real part of ``z * c``, closed forms hold as they stand, and the sums close.

    Args:
        function: A function of as many tensors as there are operands.
        operands: Where its derivative is taken.
        c: Shaped as its result; cast to the dtype of that.
    """
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in operands]
        out = function(*inputs)
    if not out.requires_grad:
        return tuple(torch.zeros_like(x) for x in operands)
    upstream = torch.conj_physical(c.to(out.dtype))
    found = torch.autograd.grad(out, inputs, upstream, allow_unused=True, materialize_grads=True)
    return tuple(torch.conj_physical(part) for part in found)


@dataclass(frozen=True)
class Relevance:
    """What a rule returns when it knows relevance and no coefficient (flat, w-square, z-box).

    ``R = x * coefficient + rest``. Adds to coefficients and to its own kind.
    """

    coefficient: Tensor | float
    rest: Tensor

    def __add__(self, other: Tensor | Relevance) -> Relevance:
        if isinstance(other, Relevance):
            return Relevance(self.coefficient + other.coefficient, self.rest + other.rest)
        return Relevance(self.coefficient + other, self.rest)

    __radd__ = __add__

    def __mul__(self, mask: Tensor) -> Relevance:
        return Relevance(self.coefficient * mask, self.rest * mask)


def to_coefficient(carried: Tensor | Relevance, x: Tensor) -> Tensor:
    """Return the coefficient of ``x``; relevance without one is divided by ``x`` with the stabiliser."""
    if isinstance(carried, Relevance):
        return carried.coefficient + carried.rest / stabilise(x)
    return carried


def to_relevance(carried: Tensor | Relevance, x: Tensor) -> Tensor:
    """Return the relevance ``x * c``, of complex values the real part; 0 where ``x`` is infinite (masked logits)."""
    if isinstance(carried, Relevance):
        return to_relevance(carried.coefficient + torch.zeros_like(x), x) + carried.rest
    return (torch.where(x.isinf(), 0.0, x) * carried).real
