"""The rules once more, slow and literal: dense matrices, loops over entries and closed forms, no automatic derivative.

Coefficients are relevances divided by their tensor: ``c = R / x``.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxlrp.capture.explained_output import pick_output

Parts = tuple[Tensor, ...]
Reference = Callable[["Call", Tensor], Parts]


@dataclass(frozen=True)
class Call:
    """One call of an op; ``live`` are the positions of its operands among the flattened arguments."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    live: tuple[int, ...] = (0,)

    @cached_property
    def _flat(self) -> tuple[list[Any], pytree.TreeSpec]:
        return pytree.tree_flatten((self.args, self.kwargs))

    @property
    def leaves(self) -> list[Any]:
        return self._flat[0]

    @property
    def operands(self) -> list[Tensor]:
        return [self.leaves[slot] for slot in self.live]

    @property
    def named(self) -> dict[str, Any]:
        names = [a.name for a in self.op._schema.arguments]
        defaults = {a.name: a.default_value for a in self.op._schema.arguments}
        return defaults | dict(zip(names, self.args, strict=False)) | self.kwargs

    def at(self, changes: dict[int, Any]) -> Tensor:
        """Output with other leaves."""
        leaves, spec = self._flat
        args, kwargs = pytree.tree_unflatten([changes.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
        return self.op(*args, **kwargs)

    @property
    def out(self) -> Tensor:
        return self.at({})


def entries(x: Tensor) -> Tensor:
    """All entries in one row; of complex ones real and imaginary parts."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1)


def shaped(row: Tensor, x: Tensor) -> Tensor:
    """A row of `entries` as a tensor like ``x``."""
    return torch.view_as_complex(row.reshape(*x.shape, 2)) if x.is_complex() else row.reshape(x.shape)


def turned(c: Tensor) -> Tensor:
    """The coefficient of ``a + ib`` by parts: ``Re (a + ib) c = a Re c - b Im c``."""
    return c.conj() if c.is_complex() else c


def matrix(call: Call, slot: int) -> Tensor:
    """Dense matrix of an op that is affine in one leaf: what it makes of each basis vector."""
    x = call.leaves[slot]
    origin = call.at({slot: torch.zeros_like(x)})
    columns = []
    for i in range(entries(x).numel()):
        basis = torch.zeros_like(entries(x))
        basis[i] = 1
        moved = call.at({slot: shaped(basis, x)})
        columns.append(entries(torch.where(moved == origin, 0.0, moved - origin)))
    return torch.stack(columns, 1)


def transposed(call: Call, slot: int, c: Tensor) -> Tensor:
    """``W^T c``, shaped as the leaf."""
    return turned(shaped(matrix(call, slot).T @ entries(turned(c)), call.leaves[slot]))


STEP = 2e-3
STENCIL = ((1, 4 / 5), (2, -1 / 5), (3, 4 / 105), (4, -1 / 280))
"""Central differences of eighth order."""


def derivative(call: Call, slot: int, way: Tensor) -> Tensor:
    """Change of the output when one leaf moves along a direction."""
    x = call.leaves[slot]
    steps = ((w, call.at({slot: x + k * STEP * way}), call.at({slot: x - k * STEP * way})) for k, w in STENCIL)
    return sum((w * (up - down) for w, up, down in steps), torch.zeros(())) / STEP


def slope(call: Call, slot: int, c: Tensor, symmetric: bool = False) -> Tensor:
    """``J^T c`` by differences, entry by entry; of symmetric matrices both of a pair at once."""
    x = call.leaves[slot]
    row = torch.zeros_like(entries(x))
    for i in range(row.numel()):
        basis = torch.zeros_like(row)
        basis[i] = 1
        way = shaped(basis, x)
        way = (way + way.mT) / 2 if symmetric else way
        row[i] = (c * derivative(call, slot, way)).sum().real
    return turned(shaped(row, x))


def taylor(call: Call, c: Tensor) -> Parts:
    """First Taylor order: ``c_x = sum_j c_j dy_j/dx``."""
    return tuple(slope(call, slot, c) for slot in call.live)


def taylor_symmetric(call: Call, c: Tensor) -> Parts:
    """First Taylor order for ops that read one half of a symmetric matrix."""
    return tuple(slope(call, slot, c, symmetric=True) for slot in call.live)


def degree(counts: Tensor) -> Reference:
    """Each output is a product of so many live entries, and each takes the same part."""

    def apply(call: Call, c: Tensor) -> Parts:
        return taylor(call, c / counts)

    return apply


def quotient(f: Callable[[Tensor], Tensor], e: float = 0.0) -> Reference:
    """``c_x = c f(x) / x`` of complex ``x``, a root written as ``x / (sqrt x + e)`` in the direction of its value."""

    def apply(call: Call, c: Tensor) -> Parts:
        (x,) = call.operands
        return (c * (f(x) / x if not e else 1 / (f(x) + e * f(x) / f(x).abs())),)

    return apply


def kept_by_scatter(call: Call, c: Tensor) -> Tensor:
    """What arrives at the factors that are scattered: all of the products that have one."""
    x, dim, index, src = call.args[:4]
    hit = torch.zeros_like(x).scatter(dim, index, torch.ones_like(src))
    return (call.out * c * hit).sum()


def running_product(call: Call, c: Tensor) -> Parts:
    """Output j is a product of j + 1 entries: ``c_i = sum_{j >= i} c_j / (j + 1) prod_{k <= j, k != i} x_k``."""
    (x,) = call.operands
    found = torch.zeros_like(x)
    for r, i in itertools.product(range(x.shape[0]), range(x.shape[1])):
        for j in range(i, x.shape[1]):
            found[r, i] += c[r, j] / (j + 1) * math.prod(x[r, k].item() for k in range(j + 1) if k != i)
    return (found,)


def eigenvectors(call: Call, c: Tensor) -> Parts:
    """``V (V^T c / E) V^T`` with ``E_ij = l_j - l_i``, the two halves of the matrix alike."""
    (a,) = call.operands
    values, v = torch.linalg.eigh(a)
    gaps = values[..., None, :] - values[..., :, None]
    found = v @ torch.where(gaps == 0, 0.0, v.mT @ c / torch.where(gaps == 0, 1.0, gaps)) @ v.mT
    return ((found + found.mT) / 2,)


def eigenvalues(call: Call, c: Tensor) -> Parts:
    """``V diag(c) V^T``."""
    (a,) = call.operands
    _, v = torch.linalg.eigh(a)
    return (v @ torch.diag_embed(c) @ v.mT,)


def linear(call: Call, c: Tensor) -> Parts:
    """Bach et al. 2015, eq. 58 at epsilon = 0: ``R_i = x_i sum_j w_ij R_j / z_j``."""
    return tuple(transposed(call, slot, c) for slot in call.live)


def product(call: Call, c: Tensor) -> Parts:
    """Achtibat et al. 2024, eq. 7 and proposition 3.3: each of N factors takes 1/N."""
    return tuple(part / len(call.live) for part in linear(call, c))


def sum_and_product(call: Call, c: Tensor) -> Parts:
    """``b + A B``: the term takes its own share, the live factors divide theirs."""
    factors = len([slot for slot in call.live if slot in (1, 2)])
    return tuple(transposed(call, slot, c) / (factors if slot in (1, 2) else 1) for slot in call.live)


def affine(call: Call, c: Tensor) -> Parts:
    """``W x + b`` with any of the three live: input and weight are two factors."""
    factors = len([slot for slot in call.live if slot in (0, 1)])
    return tuple(transposed(call, slot, c) / (factors if slot in (0, 1) else 1) for slot in call.live)


def straight(call: Call, c: Tensor) -> Parts:
    """``c_x = c``: what was written in the place of ``x`` plays no part."""
    return (c.clone(),)


def nothing(call: Call, c: Tensor) -> Parts:
    """No relevance."""
    return tuple(torch.zeros_like(x) for x in call.operands)


def pointwise(*factors: Callable[..., float]) -> Reference:
    """``c_k = c * g_k(x_1, x_2, ...)`` entry by entry, summed where an operand was broadcast."""

    def apply(call: Call, c: Tensor) -> Parts:
        tensors = [leaf for leaf in call.leaves if isinstance(leaf, Tensor)]
        entries = list(zip(*(t.expand(c.shape).flatten().tolist() for t in tensors), strict=True))
        parts = []
        for factor, x in zip(factors, call.operands, strict=True):
            g = torch.tensor([factor(*values) for values in entries], dtype=c.dtype).reshape(c.shape)
            parts.append((c * g).sum_to_size(x.shape))
        return tuple(parts)

    return apply


def passing(f: Callable[[float], float], slope: float) -> Reference:
    """Achtibat et al. 2024, eq. 9: ``R_x = R_y``, so ``c_x = c f(x) / x``; at 0 the limit, the slope."""
    return pointwise(lambda x: f(x) / x if x else slope)


def reduced_product(call: Call, c: Tensor) -> Parts:
    """Each of the n factors takes 1/n: ``c_i = c prod_{j != i} x_j / n``."""
    x, dim = call.operands[0], call.named.get("dim")
    rows = x.reshape(1, -1) if dim is None else x.movedim(dim, -1).reshape(-1, x.shape[dim])
    n = rows.shape[1]
    found = torch.empty_like(rows)
    for r, i in itertools.product(range(rows.shape[0]), range(n)):
        others = [rows[r, j] for j in range(n) if j != i]
        found[r, i] = c.flatten()[r] * math.prod(others) / n
    if dim is None:
        return (found.reshape(x.shape),)
    return (found.reshape(x.movedim(dim, -1).shape).movedim(-1, dim),)


def softmax(call: Call, c: Tensor) -> Parts:
    """Achtibat et al. 2024, proposition 3.1: ``R_i = x_i (R_i - s_i sum_j R_j)`` with ``R`` at the output ``s c``."""
    x, dim = call.operands[0], call.args[1]
    s = x.exp() / x.exp().sum(dim, keepdim=True).clamp(min=1e-300)  # a row without keys is all zeros
    r = s * c
    return (r - s * r.sum(dim, keepdim=True),)


def log_softmax(call: Call, c: Tensor) -> Parts:
    """First Taylor order of ``x - log sum exp x``."""
    x, dim = call.operands[0], call.args[1]
    s = x.exp() / x.exp().sum(dim, keepdim=True)
    return (c - s * c.sum(dim, keepdim=True),)


def logsumexp(call: Call, c: Tensor) -> Parts:
    """First Taylor order: the softmax."""
    x, dims = call.operands[0], call.args[1]
    return (c.unsqueeze(dims[0]) * x.exp() / x.exp().sum(dims, keepdim=True),)


def vector_norm(call: Call, c: Tensor) -> Parts:
    """First Taylor order of ``(sum |x|^p)^(1/p)``: ``sgn(x) |x|^(p-1) / y^(p-1)``."""
    x, p, dims = call.operands[0], call.args[1], call.args[2]
    c, y = (c.unsqueeze(dims[0]), call.out.unsqueeze(dims[0])) if not call.args[3] else (c, call.out)
    return (c * x.sign() * (x.abs() / y) ** (p - 1),)


def variance(call: Call, c: Tensor) -> Parts:
    """First Taylor order: ``2 (x - mean) / (n - correction)``."""
    (x,), dims = call.operands, call.args[1]
    n = math.prod(x.shape[d] for d in dims) - call.kwargs["correction"]
    return (c * 2 * (x - x.mean(dims, keepdim=True)) / n,)


def deviation(call: Call, c: Tensor) -> Parts:
    """First Taylor order: that of the variance over ``2 std``."""
    return variance(call, c / (2 * call.out))


def distance(call: Call, c: Tensor) -> Parts:
    """First Taylor order of ``|a_i - b_j|``, pair by pair."""
    a, b = call.args[:2]
    parts = [torch.zeros_like(a), torch.zeros_like(b)]
    for n, i, j in itertools.product(range(a.shape[0]), range(a.shape[1]), range(b.shape[1])):
        way = (a[n, i] - b[n, j]) / (a[n, i] - b[n, j]).square().sum().sqrt()
        parts[0][n, i] += c[n, i, j] * way
        parts[1][n, j] -= c[n, i, j] * way
    return tuple(parts[slot] for slot in call.live)


def winners(call: Call, c: Tensor) -> Parts:
    """The entries that equal the result of a reduction share its relevance."""
    x = call.operands[0]
    dims = call.args[1] if len(call.args) > 1 else list(range(x.ndim))
    shape = [1 if d in [e % x.ndim for e in dims] else n for d, n in enumerate(x.shape)]
    won = (x == call.out.reshape(shape)).to(x.dtype)
    return (won * c.reshape(shape) / won.sum(dims, keepdim=True),)


def max_pool(call: Call, c: Tensor) -> Parts:
    """The first largest entry of each window takes all."""
    x = call.operands[0]
    a = call.named
    n = len(a["kernel_size"])
    stride = a["stride"] or a["kernel_size"]
    found = torch.zeros_like(x)
    planes = x.reshape(-1, *x.shape[-n:])
    for p, plane in enumerate(planes):
        for at in itertools.product(*map(range, c.shape[-n:])):
            best, where = -math.inf, None
            for offset in itertools.product(*map(range, a["kernel_size"])):
                i = tuple(
                    at[d] * stride[d]
                    - a["padding"][d % len(a["padding"])]
                    + offset[d] * a["dilation"][d % len(a["dilation"])]
                    for d in range(n)
                )
                inside = all(0 <= i[d] < plane.shape[d] for d in range(n))
                if inside and plane[i].item() > best:
                    best, where = plane[i].item(), i
            found.reshape(planes.shape)[(p, *where)] += c.reshape(-1, *c.shape[-n:])[(p, *at)]
    return (found,)


def normalised(rows: Tensor, c: Tensor, w: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """Achtibat et al. 2024, proposition 3.4: deviation fixed, ``y_j = w_j sum_i (delta_ij - 1/n) x_i / std``.

    Returns:
        Coefficient of the input, and of the weight before rows are added.
    """
    n = rows.shape[1]
    centre = torch.eye(n, dtype=rows.dtype) - (1 / n if centred else 0)
    found, of_weight = torch.empty_like(rows), torch.empty_like(rows)
    for r, row in enumerate(rows):
        centred_row = centre @ row
        std = math.sqrt(centred_row.square().sum().item() / n + eps)
        found[r] = (w[r].diag() @ centre / std).T @ c[r]
        of_weight[r] = c[r] * centred_row / std
    return found, of_weight


def norm(
    groups: Callable[[Tensor], Tensor],
    weighing: Callable[[Tensor, Tensor], Tensor],
    centred: bool = True,
    back: Callable[[Tensor, Tensor], Tensor] = lambda rows, x: rows.reshape(x.shape),
) -> Reference:
    """Reference for a normaliser.

    Args:
        groups: Rows of the input that are normalised together.
        weighing: Weight or bias spread to the shape of the input.
        centred: Whether the mean is taken out.
        back: Rows of the input in its shape again.
    """

    def apply(call: Call, c: Tensor) -> Parts:
        a = call.named
        x, w, eps = a["input"], a["weight"], a["eps"]
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        spread = torch.ones_like(x) if w is None else weighing(w, x)
        of_x, of_w = normalised(groups(x), groups(c), groups(spread), eps, centred)
        factors = len([leaf for leaf in call.operands if leaf is x or leaf is w])
        parts = []
        for leaf in call.operands:
            if leaf is x:
                parts.append(back(of_x, x) / factors)
            else:
                own = back(of_w, x) / factors if leaf is w else c
                marks = [weighing(one.reshape(leaf.shape), x) for one in torch.eye(leaf.numel(), dtype=x.dtype)]
                parts.append(torch.stack([(own * mark).sum() for mark in marks]).reshape(leaf.shape))
        return tuple(parts)

    return apply


def attention(call: Call, c: Tensor) -> Parts:
    """Achtibat et al. 2024, propositions 3.1 and 3.3 nested: ``A V`` halves, softmax by Taylor, ``Q K^T`` halves.

    A product with one live factor is not halved. Grouped queries share keys and values.
    """
    a = call.named
    q, k, v = a["query"], a["key"], a["value"]
    group = q.shape[-3] // k.shape[-3]
    scale = q.shape[-1] ** -0.5 if a["scale"] is None else a["scale"]
    mask = additive_mask(a["attn_mask"], a["is_causal"], q, k)
    scores_live = any(slot != 2 for slot in call.live)
    halve_output = 2 if 2 in call.live and scores_live else 1
    halve_scores = 2 if {0, 1} <= set(call.live) else 1
    parts = {0: torch.zeros_like(q), 1: torch.zeros_like(k), 2: torch.zeros_like(v)}
    of_mask = torch.zeros_like(mask)
    for n, h in itertools.product(range(q.shape[0]), range(q.shape[1])):
        keys, values = k[n, h // group], v[n, h // group]
        scores = scale * q[n, h] @ keys.T + mask[n, h]
        weight = torch.where(scores.isinf(), 0.0, (scores - scores.amax(-1, keepdim=True).clamp(min=-1e30)).exp())
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-30)
        parts[2][n, h // group] += weight.T @ c[n, h] / halve_output
        of_weight = c[n, h] @ values.T / halve_output
        r = weight * of_weight
        of_scores = r - weight * r.sum(-1, keepdim=True)
        parts[0][n, h] += scale * of_scores @ keys / halve_scores
        parts[1][n, h // group] += scale * of_scores.T @ q[n, h] / halve_scores
        of_mask[n, h] = of_scores
    if a["attn_mask"] is not None:
        parts[3] = of_mask.sum_to_size(a["attn_mask"].shape)
    return tuple(parts[slot] for slot in call.live)


def additive_mask(mask: Tensor | None, causal: bool, q: Tensor, k: Tensor) -> Tensor:
    """What is added to the scores."""
    found = torch.zeros(*q.shape[:-1], k.shape[-2], dtype=q.dtype)
    if causal:
        found = found.masked_fill(torch.ones(found.shape[-2:]).triu(1).bool(), -math.inf)
    if mask is None:
        return found
    return found.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else found + mask


def stab(z: Tensor, e: float) -> Tensor:
    """``z + e sgn z`` with ``sgn 0 = 1``."""
    return torch.tensor([v + e if v >= 0 else v - e for v in z.tolist()], dtype=z.dtype)


def positive(t: Tensor) -> Tensor:
    return torch.where(t > 0, t, 0.0)


def negative(t: Tensor) -> Tensor:
    return torch.where(t < 0, t, 0.0)


Weighted = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def weighted(formula: Weighted, e: float) -> Reference:
    """A rule over ``(W, b, x, c, e)`` with the dense matrix ``W`` of the call (a row per output) and its bias ``b``."""

    def apply(call: Call, c: Tensor) -> Parts:
        (x,) = call.operands
        bias = call.at({call.live[0]: torch.zeros_like(x)}).flatten()
        return (formula(matrix(call, call.live[0]), bias, x.flatten(), c.flatten(), e).reshape(x.shape),)

    return apply


def epsilon(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float, bias: float = 1.0) -> Tensor:
    """Bach et al. 2015, eq. 58: ``R_i = x_i sum_j w_ij R_j / stab(z_j)``, with a part of the bias in ``z_j``."""
    return w.T @ (c * (w @ x + b) / stab(w @ x + bias * b, e))


def epsilon_sum(e: float) -> Reference:
    """Epsilon rule of a sum with several live terms: the share of every term of the whole sum."""

    def apply(call: Call, c: Tensor) -> Parts:
        z = call.out.flatten()
        s = (c.flatten() * z / stab(z, e)).reshape(c.shape)
        return linear(call, s)

    return apply


def signed(w_above: Tensor, w_below: Tensor, bias: Tensor, x: Tensor, r: Tensor, e: float) -> Tensor:
    """Share of ``r`` by ``z' = W_above x+ + W_below x- + bias``, as coefficients; none at ``x = 0``."""
    z = w_above @ positive(x) + w_below @ negative(x) + bias
    s = r / stab(z, e)
    return (x > 0) * (w_above.T @ s) + (x < 0) * (w_below.T @ s)


def gamma(g: float, bias: float = 1.0) -> Weighted:
    """Generalised gamma rule (Montavon et al. 2019; Andeol et al. 2021), split by the sign of the output."""

    def formula(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float) -> Tensor:
        z = w @ x + b
        up, down = w + g * positive(w), w + g * negative(w)
        above = signed(up, down, bias * (b + g * positive(b)), x, torch.where(z > 0, c * z, 0.0), e)
        below = signed(down, up, bias * (b + g * negative(b)), x, torch.where(z < 0, c * z, 0.0), e)
        return above + below

    return formula


def with_weights(change: Callable[[Tensor], Tensor], bias: float = 1.0) -> Weighted:
    """Montavon et al. 2019, the generic rule: ``R_i = sum_j x_i f(w_ij) / (sum_k x_k f(w_kj) + f(b_j)) R_j``."""

    def formula(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float) -> Tensor:
        return change(w).T @ (c * (w @ x + b) / stab(change(w) @ x + bias * change(b), e))

    return formula


def alpha_beta(alpha: float, beta: float, bias: float = 1.0) -> Weighted:
    """Bach et al. 2015, eq. 60, for inputs of any sign."""

    def formula(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float) -> Tensor:
        r = c * (w @ x + b)
        up = signed(positive(w), negative(w), bias * positive(b), x, r, e)
        down = signed(negative(w), positive(w), bias * negative(b), x, r, e)
        return alpha * up - beta * down

    return formula


def kept_by_sign(alpha: float, beta: float, e: float) -> Callable[[Call, Tensor], Tensor]:
    """What alpha-beta passes on: outputs without contributions of a sign lose the share of that sign."""

    def kept(call: Call, c: Tensor) -> Tensor:
        x, w = call.operands[0].flatten(), matrix(call, call.live[0])
        up = positive(w) @ positive(x) + negative(w) @ negative(x)
        down = negative(w) @ positive(x) + positive(w) @ negative(x)
        return ((alpha * up / stab(up, e) - beta * down / stab(down, e)) * (c * call.out).flatten()).sum()

    return kept


def flat(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float) -> Tensor:
    """Lapuschkin et al. 2019: relevance spreads evenly over the receptive field."""
    field = (w != 0).to(w.dtype)
    return field.T @ (c * (w @ x + b) / (field.sum(1) + e))


def w_square(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float, bias: float = 1.0) -> Tensor:
    """Montavon et al. 2017: shares by squared weights, of which the bias has one."""
    return (w**2).T @ (c * (w @ x + b) / ((w**2).sum(1) + bias * b**2 + e))


def z_box(low: float, high: float) -> Weighted:
    """Montavon et al. 2017, box-constrained domain, by connection; every term with its part of the bias, which cancels.

    Sums over outputs of each of the three terms, as it is written for layers, cancel where ``x`` is at a corner.
    """

    def formula(w: Tensor, b: Tensor, x: Tensor, c: Tensor, e: float) -> Tensor:
        parts = x * w - low * positive(w) - high * negative(w)
        return parts.T @ (c * (w @ x + b) / stab(parts.sum(1), e))

    return formula


# Whole models: the efficient Gradient x Input form. Stop-gradients change the backward pass of a stock model so that
# input x gradient is relevance. Achtibat et al. 2024; Arras et al. 2025; for CP-LRP Ali et al. 2022.


def part_of_gradient(x: Tensor, part: float) -> Tensor:
    """``x``, with a part of its gradient."""
    return part * x + ((1 - part) * x).detach()


def identity_rule(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``y = x * sg(f(x) / x)``: relevance passes the function unchanged (Achtibat et al. 2024, eq. 9)."""

    def same(*args: Any, **kwargs: Any) -> Tensor:
        given = [torch.where(a == 0, 1e-12, a) if isinstance(a, Tensor) else a for a in args]  # its slope at 0
        x, near = (next(a for a in some if isinstance(a, Tensor)) for some in (args, given))
        return x * (f(*given, **kwargs) / near).detach()

    return same


def constant(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``sg(f(x))``."""

    def held(*args: Any, **kwargs: Any) -> Tensor:
        return f(*args, **kwargs).detach()

    return held


def layer_norm_rule(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``w * (x - mean) * sg(1 / std) + b`` (Achtibat et al. 2024, proposition 3.4)."""
    dims = tuple(range(-len(shape), 0))
    y = (x - x.mean(dims, keepdim=True)) * (x.var(dims, correction=0, keepdim=True) + eps).rsqrt().detach()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def attention_rule(through_weights: bool, part: float = 0.5) -> Callable[..., Tensor]:
    """Attention whose two products halve, or with constant weights (Achtibat et al. 2024, proposition 3.3).

    With ``part`` 1 both factors get all of the gradient (Rezaei Jafari et al. 2025).
    """

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        assert not dropout_p
        if enable_gqa:
            k, v = (t.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for t in (k, v))
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        scores = part_of_gradient(q @ k.mT, part) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = torch.softmax(scores, -1)
        return part_of_gradient(weights @ v, part) if through_weights else weights.detach() @ v

    return attend


@contextmanager
def modified_gradient(model: nn.Module, rules: str) -> Iterator[None]:
    """Inside, the gradient of a model times its input is its relevance, by the presets named below."""
    attnlrp = {"attnlrp": True, "cp_lrp": False, "relp": True, "relp_ah": True, "mamba_lrp": True, "libragrad": True}[
        rules
    ]
    attend = attention_rule(rules in ("attnlrp", "relp"), 0.5 if rules == "attnlrp" else 1.0)
    functional, activations = nn.functional, transformers.activations
    gelus = activations.GELUActivation, activations.GELUTanh, activations.NewGELUActivation
    gate = identity_rule if attnlrp else constant
    changes = [
        (functional, "layer_norm", layer_norm_rule),
        (functional, "scaled_dot_product_attention", attend),
        (functional, "gelu", identity_rule(functional.gelu)),
        (functional, "silu", gate(functional.silu)),
        *((kind, "forward", identity_rule(kind.forward)) for kind in gelus),
        (torch, "tanh", identity_rule(torch.tanh)),
        (torch, "rsqrt", constant(torch.rsqrt)),
    ]
    with ExitStack() as stack:
        for owner, name, new in changes:
            stack.enter_context(mock.patch.object(owner, name, new))
        for path, module in model.named_modules():
            if attnlrp and path.endswith(
                (".down_proj", "DenseReluDense.wo", "mlp.wo", "mixer.out_proj")
            ):  # behind gate * up
                hook = module.register_forward_pre_hook(lambda _, given: (part_of_gradient(given[0], 0.5),))
                stack.callback(hook.remove)
            if rules == "mamba_lrp" and path.endswith(".x_proj"):  # the step, B and C (Rezaei Jafari et al. 2024)
                stack.callback(module.register_forward_hook(lambda _, given, out: out.detach()).remove)
        yield


def input_times_gradient(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], target: list[tuple[int, ...]]
) -> tuple[dict[str, Tensor], set[str]]:
    """Input x gradient by name, of floating inputs and embedding lookups, and which of these are inputs.

    Lookups are summed over features and named by the input that holds their indices, else by their module.
    """
    inputs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    floats = {k: v.clone().requires_grad_() for k, v in inputs.items() if v.is_floating_point()}
    lookups: list[tuple[str, Tensor]] = []

    def catch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            if out.requires_grad:
                out.retain_grad()
                key = (k for k, v in inputs.items() if v.dtype == given[0].dtype and torch.equal(v, given[0]))
                lookups.append((next(key, path), out))

        return hook

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            # an embedding with further arguments (Whisper's positions) is no plain lookup
            if isinstance(module, nn.Embedding) and len(inspect.signature(module.forward).parameters) == 1:
                hooks.callback(module.register_forward_hook(catch(path)).remove)
        y = pick_output(model(**inputs | floats), None)
    y[(torch.arange(len(target)), *torch.tensor(target).T)].sum().backward()
    model.zero_grad()
    found = {k: x.detach() * x.grad for k, x in floats.items()}
    for key, out in lookups:
        found[key] = found.get(key, 0) + (out.detach() * out.grad).sum(-1)
    return found, {*floats, *(key for key, _ in lookups if key in inputs)}
