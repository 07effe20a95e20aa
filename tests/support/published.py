"""Rules of single papers once more: literal, in float64, each with the equation that it is."""

from __future__ import annotations

from typing import Any

import torch
from reference import Call, Parts
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
