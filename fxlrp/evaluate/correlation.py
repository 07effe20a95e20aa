"""How alike rows of numbers are."""

from __future__ import annotations

import torch
from torch import Tensor


def correlate_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of rows; 0 where a row is constant."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / torch.where(norms == 0, 1.0, norms)


def correlate_ranks(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of rows; 0 where a row is constant. Equal entries share their rank."""
    return correlate_rows(rank_with_ties(a), rank_with_ties(b))


def rank_with_ties(rows: Tensor) -> Tensor:
    """Return the rank of each entry in its row; equal ones get the mean of theirs."""
    rows = rows.contiguous()
    ordered = rows.sort(1).values
    first, last = (torch.searchsorted(ordered, rows, right=right) for right in (False, True))
    return (first + last - 1).double() / 2
