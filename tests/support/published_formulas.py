"""Rules of single papers once more: literal, in float64, each with the equation that it is."""

from __future__ import annotations

from typing import Any

import torch
from reference import Call, Parts, matrix, slope
from torch import Tensor, nn


def stab(z: Tensor, e: float) -> Tensor:
    """``z + e sgn z`` with ``sgn 0 = 1``."""
    return torch.where(z < 0, z - e, z + e)


def terms_of(call: Call) -> tuple[Tensor, Tensor]:
    """The two terms of a sum or a difference, in the shape of the sum."""
    a = call.named
    other = a["other"] * a["alpha"] * (-1 if "sub" in str(call.op) else 1)
    return a["self"].expand(call.out.shape), other.expand(call.out.shape)


def shares(call: Call, relevances: tuple[Tensor, Tensor]) -> Parts:
    """Relevance of the terms as coefficients of the operands, summed where these were broadcast."""
    return tuple(relevances[slot].sum_to_size(call.leaves[slot].shape) / call.leaves[slot] for slot in call.live)


def residual_gamma(g: float, e: float) -> Any:
    """Berend et al., ResLRP, eq. 3: ``R_k = w_k z_k / (w_1 z_1 + w_2 z_2) R``, ``w_k = 1 + g 1[sgn z_k = sgn z]``."""

    def apply(call: Call, c: Tensor) -> Parts:
        z = call.out
        weighted = [(1 + g * (t.sign() == z.sign())) * t for t in terms_of(call)]
        total = weighted[0] + weighted[1]
        relevance = [w / stab(total, e) * z * c for w in weighted]
        return shares(call, (relevance[0], relevance[1]))

    return apply


def arras(lstm: nn.LSTM, x: Tensor, r: Tensor, e: float) -> Tensor:
    """Relevance of the inputs of one direction of one layer, from that of its last state.

    Arras et al. 2017, eq. 1 with delta = 0, cell by cell: ``h = o tanh(c)`` gives all to ``c``; ``c = f c' + i g`` and
    the pre-activation of ``g`` are shared with the stabiliser; gates get nothing.

    Args:
        lstm: One layer, one direction.
        x: Inputs of one sample, (steps, features).
        r: Relevance of its last hidden state.
        e: The stabiliser.
    """
    d = lstm.hidden_size
    wx, wh = lstm.weight_ih_l0, lstm.weight_hh_l0
    b = lstm.bias_ih_l0 + lstm.bias_hh_l0
    h, c = [torch.zeros(d).double()], [torch.zeros(d).double()]
    steps = []
    for row in x:
        pre = wx @ row + wh @ h[-1] + b
        i, f, o = (pre[k * d : (k + 1) * d].sigmoid() for k in (0, 1, 3))
        g = pre[2 * d : 3 * d].tanh()
        steps.append((pre[2 * d : 3 * d], f * c[-1], i * g))
        c.append(f * c[-1] + i * g)
        h.append(o * c[-1].tanh())
    wx, wh = wx[2 * d : 3 * d], wh[2 * d : 3 * d]
    found = torch.zeros_like(x)
    of_h, of_c = r, torch.zeros(d).double()
    for t in reversed(range(len(x))):
        pre, kept, new = steps[t]
        of_c = of_c + of_h
        of_g = new / stab(c[t + 1], e) * of_c
        of_c = kept / stab(c[t + 1], e) * of_c
        for i in range(x.shape[1]):
            found[t, i] = sum(wx[j, i] * x[t, i] / stab(pre[j], e) * of_g[j] for j in range(d))
        of_h = torch.stack([sum(wh[j, i] * h[t][i] / stab(pre[j], e) * of_g[j] for j in range(d)) for i in range(d)])
    return found


def shared_linear(e: float) -> Any:
    """Arras et al. 2017, eq. 1 with delta = 1: ``R_i = sum_j (w_ij x_i + (b_j + e sgn z_j) / D) / stab(z_j) R_j``."""

    def apply(call: Call, c: Tensor) -> Parts:
        x, w, b = (*call.args, None)[:3]
        rows, found = x.reshape(-1, x.shape[-1]), []
        for row, own in zip(rows, c.reshape(len(rows), -1), strict=True):
            r = torch.zeros_like(row)
            for j in range(len(w)):
                bias = torch.zeros(()).double() if b is None else b[j]
                z = w[j] @ row + bias
                below = stab(z, e) if e else z
                r += (w[j] * row + (bias + (below - z)) / len(row)) / below * z * own[j]
            found.append(r)
        return (torch.stack(found).reshape(x.shape),)

    return apply


def shared_sum(e: float) -> Any:
    """``R_i = (x_i + (what is no live term of the stabilised sum) / k) / stab(z) * R`` for k live terms."""

    def apply(call: Call, c: Tensor) -> Parts:
        z, terms = call.out, terms_of(call)
        s = z * c / stab(z, e)
        rest = z * c - s * sum(terms[slot] for slot in call.live)
        found = [terms[slot] * s + rest / len(call.live) for slot in call.live]
        return tuple(r.sum_to_size(call.leaves[slot].shape) for r, slot in zip(found, call.live, strict=True))

    return apply


def sized(call: Call) -> tuple[Tensor, Tensor]:
    """Sizes by which the two operands of a sum, a product or a quotient share."""
    a, b = call.named["self"], call.named["other"]
    if "add" in str(call.op) or "sub" in str(call.op):
        a, b = terms_of(call)
    return a.abs(), (1 / b if "div" in str(call.op) else b).abs()


TINY = 1e-11


def by_size(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, add, multiply, divide: ``R_k = |z_k| / (|z_1| + |z_2| + e) R``."""
    sizes, r = sized(call), c * call.out
    parts = [size / (sizes[0] + sizes[1] + TINY) * r for size in sizes]
    return tuple(parts[slot].sum_to_size(call.leaves[slot].shape) for slot in call.live)


def same(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, identity: ``R_x = R``."""
    return tuple((c * call.out).sum_to_size(x.shape) for x in call.operands)


def reduced(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, sum and mean: ``R_i = |x_i| / (sum |x| + e) R``, of the mean with the sizes of its parts."""
    (x,), r = call.operands, c * call.out
    dims = call.named.get("dim") or list(range(x.ndim))
    keep = [1 if d in [k % x.ndim for k in dims] else n for d, n in enumerate(x.shape)]
    return (x.abs() / (x.abs().sum(dims, keepdim=True) + TINY) * r.reshape(keep),)


def windows(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, adaptive average pool: an even share for each entry of the window."""
    (x,), r = call.operands, c * call.out
    found = torch.zeros_like(x)
    (height, width), (rows, columns) = x.shape[-2:], r.shape[-2:]
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            size = (bottom - top) * (right - left)
            found[..., top:bottom, left:right] += r[..., i : i + 1, j : j + 1] / size
    return (found,)


def split_bias(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, add of a product and a bias, then epsilon: ``R_i = sum_j w_ij x_i / stab(z_j) R'_j``."""
    x, w, b = (*call.args, None)[:3]
    rows, found = x.reshape(-1, x.shape[-1]), []
    for row, own in zip(rows, c.reshape(len(rows), -1), strict=True):
        r = torch.zeros_like(row)
        for j in range(len(w)):
            z, bias = w[j] @ row, torch.zeros(()).double() if b is None else b[j]
            left = own[j] * (z + bias) * (1 if b is None else z.abs() / (z.abs() + bias.abs() + TINY))
            r += w[j] * left / stab(z, TINY)
        found.append(r)
    return (torch.stack(found).reshape(x.shape),)


def bilinear(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, Achtibat et al. 2024, proposition 3.3: ``R_ik = sum_j a_ik b_kj / (2 z_ij) R_ij``."""
    a, b = call.args
    s = c * call.out / stab(call.out, TINY) / len(call.live)
    parts = torch.einsum("...ij,...kj->...ik", s, b), torch.einsum("...ij,...ik->...kj", s, a)
    return tuple(parts[slot] for slot in call.live)


def softmax(call: Call, c: Tensor) -> Parts:
    """Lee and Arias 2025, Achtibat et al. 2024, proposition 3.1: ``R_i = x_i (R_i - s_i sum_j R_j)``."""
    r, (x,) = c * call.out, call.operands
    return (x * (r - call.out * r.sum(call.args[1], keepdim=True)),)


def attention(call: Call, c: Tensor) -> Parts:
    """The above in a row: ``A V``, softmax, and the scaled ``Q K^T``, which needs no stabiliser, all as relevance."""
    q, k, v = call.args[:3]
    logits = q @ k.mT * q.shape[-1] ** -0.5
    weights = logits.softmax(-1)
    of_weights, of_values = (p * x for p, x in zip(bilinear(product(weights, v), c), (weights, v), strict=True))
    of_logits = logits * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    share = of_logits / (q @ k.mT) / 2
    return share @ k, share.mT @ q, of_values / v


def product(a: Tensor, b: Tensor) -> Call:
    return Call(torch.ops.aten.matmul.default, (a, b), {}, (0, 1))


def positive(call: Call, c: Tensor) -> Parts:
    """Chefer et al. 2021, code: ``R_i = (x_i+ w_ij+ + x_i- w_ij-) / sum_k (...) R_j``, no bias, as a coefficient."""
    w = matrix(call, 0)
    x, r = call.args[0].flatten(), (c * call.out).flatten()
    parts = (w * x).clamp(min=0)
    return (((parts / (parts.sum(1, keepdim=True) + 1e-9)).T @ r / x).reshape(call.args[0].shape),)


def image_range(call: Call, c: Tensor) -> Parts:
    """Chefer et al. 2021, code: z-box between the smallest and the largest value of each sample, no bias."""
    w, image, r = matrix(call, 0), call.args[0], (c * call.out).flatten()
    edges = [edge.reshape(-1, *[1] * (image.ndim - 1)).expand_as(image).flatten()
             for edge in (image.flatten(1).min(1).values, image.flatten(1).max(1).values)]  # fmt: skip
    parts = w * image.flatten() - w.clamp(min=0) * edges[0] - w.clamp(max=0) * edges[1]
    return (((parts / (parts.sum(1, keepdim=True) + 1e-9)).T @ r).reshape(image.shape),)


def simple(call: Call, c: Tensor) -> Parts:
    """Chefer et al. 2021, code: ``c_i = J_i^T (R / z) / k``."""
    s = c * call.out / stab(call.out, 1e-9) / len(call.live)
    return tuple(slope(call, slot, s) for slot in call.live)


def normalised(call: Call, c: Tensor) -> Parts:
    """Chefer et al. 2021, code: shares of a sum, each side scaled to its part of the sizes of both totals."""
    r = c * call.out
    found = [t / stab(call.out, 1e-9) * r for t in terms_of(call)]
    for n in range(len(r)):
        totals = [part[n].sum() for part in found]
        for part, total in zip(found, list(totals), strict=True):
            part[n] *= total.abs() / (totals[0].abs() + totals[1].abs()) * r[n].sum() / total
    return tuple(found[slot].sum_to_size(call.leaves[slot].shape) for slot in call.live)


def chefer_attention(call: Call, c: Tensor) -> Parts:
    """Chefer et al. 2021, code: two products that share and halve, relevance unchanged through the softmax between."""
    q, k, v = call.args[:3]
    if call.named["enable_gqa"]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    shown = torch.ones_like(logits, dtype=torch.bool)
    if call.named["is_causal"]:
        shown = shown.tril()
    weights = logits.masked_fill(~shown, -torch.inf).softmax(-1)
    s = c * call.out / stab(call.out, 1e-9) / 2
    of_weights, of_values = (
        weights * torch.einsum("...ij,...kj->...ik", s, v),
        torch.einsum("...ij,...ik->...jk", weights, s),
    )
    t = of_weights / stab(logits, 1e-9) / 2 * q.shape[-1] ** -0.5
    of_q, of_k = torch.einsum("...ij,...jk->...ik", t, k), torch.einsum("...ij,...ik->...jk", t, q)
    own = call.args[1].shape
    return of_q, *(p if p.shape == own else p.reshape(own[0], own[1], -1, *own[2:]).sum(2) for p in (of_k, of_values))


def half(call: Call, c: Tensor) -> Parts:
    """Bakish et al. 2025, lemma 3.2: a factor takes half of ``R = x p c``, whether or not the other is read."""
    x, p = call.leaves
    return ((x * p * c / 2 / x).sum_to_size(x.shape),)


def all_terms(call: Call, c: Tensor) -> Parts:
    """Bakish et al. 2025, eq. 5, with epsilon 0: ``R_k = z_k / z R`` with ``R = z c``."""
    z = call.out
    return shares(call, tuple(term / z * z * c for term in terms_of(call)))  # type: ignore[arg-type]
