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
from fxlrp.errors import RuleError

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

    Raises:
        RuleError: If it is a `Stabiliser`.
    """
    if isinstance(epsilon, Stabiliser):
        raise RuleError(f"this rule needs a number as its stabiliser, such as {epsilon.epsilon}, and not {epsilon}")
    return max(epsilon, math.sqrt(torch.finfo(dtype).smallest_normal))


@dataclass(frozen=True)
class Stabiliser:
    """What a rule adds to what it divides by, where that is not a number; rules take it in place of ``e``.

    ``z + e * sgn(z)`` with ``sgn(0) = +1``, or ``sgn(z) * max(|z|, e)`` if it clips; with ``norm_scale`` in place of
    ``e`` it is ``e * sqrt(mean(z^2))``. No ``e`` is less than `bound_epsilon`. Infinite entries stay and are not
    counted.

    Attributes:
        epsilon: The number ``e``.
        clip: Whether entries of at least ``e`` stay as they are.
        norm_scale: Whether ``e`` is a part of the size of the entries.
        dim: Dimensions that the mean is over; all but the first, that of samples, unless given.

    Source: the stabiliser of zennit (Anders et al. 2021).

    Raises:
        RuleError: If ``epsilon`` is negative or not finite.
    """

    epsilon: float = EPSILON
    clip: bool = False
    norm_scale: bool = False
    dim: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise RuleError(f"a stabiliser needs a finite epsilon of at least 0, not {self.epsilon}")

    def __call__(self, z: Tensor) -> Tensor:
        """Move ``z`` away from zero; the result has its shape and dtype."""
        e, side = self.measure(z), torch.where(z == 0, 1.0, torch.sgn(z))
        return side * torch.maximum(z.abs(), e) if self.clip else z + side * e

    def keep(self, z: Tensor) -> Tensor:
        """Compute ``z / stab(z)``, which is a share between 0 and 1, and 1 for infinite ``z``."""
        e, size = self.measure(z), z.abs()
        return (size / e).clamp(max=1) if self.clip else 1 / (1 + e / size)

    def measure(self, z: Tensor) -> Tensor:
        """Compute ``e``, which broadcasts to ``z``."""
        least = torch.tensor(bound_epsilon(self.epsilon, z.dtype), dtype=z.real.dtype, device=z.device)
        if not self.norm_scale:
            return least
        size = torch.where(z.isinf(), 0.0, z).abs()
        dims = list(range(1, z.ndim)) if self.dim is None else list(self.dim)
        scale = size.square().mean(dims, keepdim=True).sqrt() if dims else size
        return (self.epsilon * scale).clamp(min=bound_epsilon(0.0, z.dtype))

    def __repr__(self) -> str:
        shown = [repr(self.epsilon)]
        shown += [f"{name}=True" for name in ("clip", "norm_scale") if getattr(self, name)]
        shown += [] if self.dim is None else [f"dim={self.dim}"]
        return f"Stabiliser({', '.join(shown)})"


def stabilise(z: Tensor, epsilon: float | Stabiliser = EPSILON) -> Tensor:
    """Move ``z`` away from zero: ``z + e * sgn(z)`` with ``sgn(0) = +1`` and `bound_epsilon` for ``e``.

    A complex ``z`` moves along its own direction. The result has the shape and the dtype of ``z``.

    Args:
        z: What is to be divided by.
        epsilon: The number ``e``, or a `Stabiliser`.

    Source: Bach et al. 2015, the epsilon rule.
    """
    if isinstance(epsilon, Stabiliser):
        return epsilon(z)
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
