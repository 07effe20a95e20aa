"""Reductions of entries that meet in one place: sums, means, products, or the largest."""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.ir.rule import Site, rule

aten = torch.ops.aten


@rule(aten.scatter_reduce.two, aten.index_reduce.default, aten.segment_reduce.default)
def reduction(site: Site, c: Tensor) -> tuple[Tensor, ...]:
    """``c_x = J^T c`` for sum, mean, and the largest or smallest entry; a product of n live entries divides by n."""
    if site.arguments["reduce"] != "prod":
        return site.adjoint(c)
    return site.adjoint(c / count_factors(site).clamp(min=1))


def count_factors(site: Site) -> Tensor:
    """Count how many live entries each entry of a scattered product multiplies."""
    a = site.arguments
    if site.op is aten.segment_reduce.default:
        total = site.fix({i: "sum" for i, leaf in enumerate(site.leaves) if leaf is a["reduce"]})
        count: Tensor = total(*map(torch.ones_like, site.operands)) - total(*map(torch.zeros_like, site.operands))
        return count
    given = a["source"] if site.op is aten.index_reduce.default else a["src"]
    own, other = (any(x is leaf for leaf in site.operands) for x in (a["self"], given))
    first = torch.full_like(site.out, float(own and a["include_self"]))
    add = torch.index_add if site.op is aten.index_reduce.default else torch.scatter_add
    return add(first, a["dim"], a["index"], torch.ones_like(given)) if other else first
