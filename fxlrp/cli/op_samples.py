"""What an op does, measured on samples: its degree of homogeneity, its value at 0, whether it has a derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import OpOverload, OpOverloadPacket, tree_flatten
from fxlrp.errors import RuleError
from fxlrp.ir.numerics import apply_adjoint
from fxlrp.ir.ops import check_overload
from fxlrp.ir.rule import Site

SHAPES = (2, 3), (2, 3, 3), (3, 3), (2, 3, 4), (2, 3, 4, 4), (3,)
SCALARS = {"int": 1, "float": 0.5, "number": 0.5, "Scalar": 0.5, "bool": False, "List[int]": [1], "SymInt": 1}


def find_op(name: str) -> OpOverload:
    """Find the overload that ``aten.add.Tensor``, ``mylib::op`` or ``torch.ops.mylib.op.default`` names.

    Raises:
        RuleError: If there is no such op, or several overloads have the name.
    """
    namespace, _, rest = name.removeprefix("torch.ops.").replace("::", ".").partition(".")
    packet_name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), packet_name, None) if rest else None
    if not isinstance(packet, OpOverloadPacket):
        raise RuleError(
            f"there is no op {name!r}: ops are named as aten.add.Tensor or mylib::op, "
            "and the module that registers an op of yours is given by --module"
        )
    overloads = packet.overloads()  # type: ignore[no-untyped-call]
    if not overload and len(overloads) > 1:
        check_overload(packet)
    if overload and overload not in overloads:
        raise RuleError(f"{packet} has no overload {overload!r}; it has {', '.join(overloads)}")
    found: OpOverload = getattr(packet, overload or overloads[0])
    return found


@dataclass(frozen=True)
class Sample:
    """A call of an op whose operands are of float64.

    Attributes:
        op: The overload.
        args: Its arguments: all that have no default.
        texts: The arguments as the records of tests write them.
        slots: Positions of the floating tensors among the flattened arguments.
    """

    op: OpOverload
    args: tuple[Any, ...]
    texts: tuple[str, ...]
    slots: tuple[int, ...]

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The floating tensors."""
        leaves, _ = tree_flatten(self.args)
        return tuple(leaves[slot] for slot in self.slots)

    @property
    def site(self) -> Site:
        """The call as rules are handed it."""
        leaves, spec = tree_flatten((self.args, {}))
        return Site(self.op, tuple(leaves), spec, self.slots, self())

    def __call__(self, *operands: Tensor) -> Tensor:
        """Apply the op, to other operands if they are given."""
        leaves, spec = tree_flatten((self.args, {}))
        site = Site(self.op, tuple(leaves), spec, self.slots, torch.empty(0))
        out: Tensor = site(*(operands or self.operands))
        return out


def draw_sample(op: OpOverload) -> Sample | None:
    """Return a call whose result is one finite tensor; None if no arguments that are tried give one."""
    for shape, low in product(SHAPES, (None, 0.1, 1.1)):
        made = [draw_argument(argument, shape, low) for argument in op._schema.arguments if is_required(argument)]
        if any(pair is None for pair in made):
            return None
        values = tuple(pair[0] for pair in made if pair is not None)
        texts = tuple(pair[1] for pair in made if pair is not None)
        leaves, _ = tree_flatten(values)
        slots = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        sample = Sample(op, values, texts, slots)
        if slots and is_served(sample):
            return sample
    return None


def is_required(argument: Any) -> bool:
    """Whether an argument has no default; one that may be None gets none."""
    return not argument.has_default_value() and not str(argument.type).startswith("Optional")


def draw_argument(argument: Any, shape: tuple[int, ...], low: float | None) -> tuple[Any, str] | None:
    """Return a value and its text in a record; None for a type that has no obvious value."""
    kind, sizes = str(argument.type), ", ".join(map(str, shape))
    if kind == "Tensor" and argument.name in ("index", "indices"):
        return torch.tensor([1, 0]), "ints(1, 0)"
    if kind in ("Tensor", "List[Tensor]"):
        noise = torch.rand if low is not None else torch.randn
        generator = torch.Generator().manual_seed(len(argument.name))
        value = noise(shape, generator=generator, dtype=torch.float64)
        value = value if low is None else low + 0.8 * value
        text = f"normal({sizes})" if low is None else f"uniform({low}, {low + 0.8:.1f}, {sizes})"
        return (value, text) if kind == "Tensor" else ([value, value + 1], f"[{text}, {text}]")
    return (SCALARS[kind], repr(SCALARS[kind])) if kind in SCALARS else None


def is_served(sample: Sample) -> bool:
    """Whether a call returns one tensor of finite numbers."""
    try:
        out: Any = sample()
    except Exception:  # kernels of torch and of others raise what they like for what they do not take
        return False
    return isinstance(out, Tensor) and out.is_floating_point() and bool(out.isfinite().all())


@dataclass(frozen=True)
class Traits:
    """What was measured of an op.

    Attributes:
        kind: The suggested kind, a module of `fxlrp.rules`; empty if nothing could be measured.
        evidence: Why, in a few words.
        keeps: Part of the relevance that arrives, None if it is of no fixed size.
        slope: Derivative at 0, for kind ``pointwise``.
        batch: The first dimension is one of samples that do not influence each other.
        zero: The op and its derivative are finite at operands that are 0.
    """

    kind: str = ""
    evidence: str = "no arguments could be made up, so that nothing was measured"
    keeps: float | None = None
    slope: float = 0.0
    batch: bool = False
    zero: bool = True


def measure(sample: Sample) -> Traits:
    """Suggest a kind of rule by what an op does to multiples and to sums of its operands."""
    xs, origin = sample.operands, sample(*(torch.zeros_like(x) for x in sample.operands))
    finite = bool(origin.isfinite().all())
    f = (lambda *given: sample(*given) - origin) if finite else sample
    derivative = has_derivative(sample)
    zero = finite and (not derivative or is_smooth_at_zero(sample))
    base = Traits(batch=is_batched(sample), zero=zero)
    total = measure_degree(f, xs, range(len(xs)))
    said = f"f(2x) = {2**total:g} f(x)" if total is not None else "f(2x) is no multiple of f(x)"
    if total == 1 and derivative and is_additive(f, xs):
        return replace(base, kind="linear", evidence=f"{said}, f(x + y) = f(x) + f(y)", keeps=1.0)
    if len(xs) > 1 and derivative and total == len(xs) and all(measure_degree(f, xs, [i]) == 1 for i in range(len(xs))):
        return replace(base, kind="products", evidence=f"{said}, of degree 1 in each of {len(xs)} operands", keeps=1.0)
    if derivative and not any(part.any() for part in compute_adjoints(sample)):
        return replace(base, kind="silent", evidence="the derivative is 0", keeps=0.0)
    if len(xs) == 1 and finite and not origin.any() and is_elementwise(sample):
        slope = measure_slope(f)
        if math.isfinite(slope):
            return replace(base, kind="pointwise", evidence="entry by entry, f(0) = 0", keeps=1.0, slope=slope)
    if not derivative:
        return replace(base, evidence=f"{said}, and the op has no derivative", keeps=total)
    return replace(base, kind="taylor", evidence=f"{said}; nothing better than first order was found", keeps=total)


def is_close(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal up to rounding in float64."""
    return torch.allclose(x, y, rtol=1e-9, atol=1e-12)


def measure_degree(f: Callable[..., Tensor], xs: tuple[Tensor, ...], scaled: Any) -> float | None:
    """Return the k of ``f(2x) = 2^k f(x)`` if there is one; some operands are scaled, the others stay."""
    one, two = f(*xs), f(*(2 * x if i in scaled else x for i, x in enumerate(xs)))
    if one.shape != two.shape or not (one.any() and two.isfinite().all()):
        return None
    power = float((two.abs().sum() / one.abs().sum()).log2())
    k = round(power, 6)
    return k if math.isfinite(power) and is_close(two, 2**k * one) else None


def is_additive(f: Callable[..., Tensor], xs: tuple[Tensor, ...]) -> bool:
    """Whether f of a sum is the sum of f."""
    others = tuple(x.flip(0).cos() - 0.5 for x in xs)
    return is_close(f(*(x + y for x, y in zip(xs, others, strict=True))), f(*xs) + f(*others))


def is_elementwise(sample: Sample) -> bool:
    """Whether each entry of the output depends on the entry in its place alone, and in the same way."""
    (x,), out = sample.operands, sample()
    moved = x.clone().flatten()
    moved[0] += 0.25
    rest = sample(moved.view_as(x)) - out if out.shape == x.shape else torch.ones(2)
    flipped = [*range(x.ndim)]
    return not rest.flatten()[1:].any() and torch.equal(sample(x.flip(flipped)), out.flip(flipped))


def is_batched(sample: Sample) -> bool:
    """Whether the first sample alone gives the first of the output."""
    first, out = tuple(x[:1] for x in sample.operands), sample()
    try:
        alone = sample(*first)
    except Exception:  # the other arguments ask for all samples
        return False
    return alone.ndim > 0 and alone.shape == out[:1].shape and is_close(alone, out[:1])


def compute_adjoints(sample: Sample) -> tuple[Tensor, ...]:
    """Return ``J^T 1``, a part per operand."""
    return apply_adjoint(sample, sample.operands, torch.ones_like(sample()))


def has_derivative(sample: Sample) -> bool:
    """Whether the op's derivative is there, and agrees with differences."""
    try:
        found = compute_adjoints(sample)
    except Exception:  # whatever the author of an op raises where no derivative was written
        return False
    ways = tuple(torch.cos(3 * x) for x in sample.operands)
    exact = sum(float((part * way).sum()) for part, way in zip(found, ways, strict=True))
    up, down = (sample(*(x + h * way for x, way in zip(sample.operands, ways, strict=True))) for h in (1e-6, -1e-6))
    return math.isclose(exact, float((up - down).sum()) / 2e-6, rel_tol=1e-5, abs_tol=1e-6)


def is_smooth_at_zero(sample: Sample) -> bool:
    """Whether value and derivative are finite at operands that are 0."""
    noughts = tuple(torch.zeros_like(x) for x in sample.operands)
    return all(bool(part.isfinite().all()) for part in apply_adjoint(sample, noughts, torch.ones_like(sample())))


def measure_slope(f: Callable[..., Tensor]) -> float:
    """Return the derivative of an element-wise function at 0, by differences of second order."""
    h = torch.full((2, 3), 1e-5, dtype=torch.float64)
    return round(float(((f(h) - f(-h)) / (2 * h)).flatten()[0]), 9)


def list_arguments(op: OpOverload) -> tuple[list[str], list[str]]:
    """Return the names of the tensors in a schema, and of the other arguments."""
    tensors = [a.name for a in op._schema.arguments if "Tensor" in str(a.type)]
    return tensors, [a.name for a in op._schema.arguments if a.name not in tensors]
