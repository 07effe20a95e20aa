"""The end of a sequence model, walked for the explained positions only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from fxlrp.emit.walk import walk_backward
from fxlrp.ir import numerics, targets
from fxlrp.ir.decisions import Env, Tail, Twin
from fxlrp.ir.numerics import Relevance


def walk_explained_rows(
    graph: fx.Graph,
    env: Env,
    twins: Mapping[fx.Node, Twin],
    tail: Tail,
    form: targets.Form,
    chosen: Sequence[Tensor],
) -> Env:
    """Walk in reverse in two parts: the tail for one row per term of the target, then the rest for all positions.

    Relevance starts at single entries, so that all other rows of the tail carry zeros. A coefficient is linear in the
    seed, so that the terms add up where they meet.

    Args:
        graph: The canonical forward graph.
        env: Value of every node.
        twins: Rule and operands of every live node.
        tail: The tail.
        form: Form of the target, with one index per term.
        chosen: The indices.
    """
    y = numerics.widen(env[tail.end])
    width = math.prod(y.shape[2:])
    places = torch.cat(
        [targets.find_flat_position(y, wild, index) for wild, index in zip(form.wild, chosen, strict=True)], 1
    )
    rows, entries = places // width, places % width
    local = {node: gather_rows(env[node], rows, env[tail.end]) for node in graph.nodes if node in tail.aligned}
    if tail.columns:
        columns = entries.flatten()
        local |= {node: env[node].index_select(0, columns) for node in tail.columns}
        local[tail.end] = local[tail.end].index_select(-1, columns)
        start = torch.eye(columns.shape[0], dtype=y.dtype, device=y.device).view(*rows.shape, -1)
    else:
        start = torch.zeros_like(numerics.widen(local[tail.end])).flatten(2)
        start = start.scatter(2, entries[..., None], 1.0)
    start = torch.cat([start[:, i : i + 1] * weight for i, weight in enumerate(form.weights)], 1)
    if form == targets.INDEX_FORM:
        start = start * targets.mask_out_of_range(y, chosen[0])[..., None]
    own = {node: twin for node, twin in twins.items() if node in tail.nodes}
    rest = {node: twin for node, twin in twins.items() if node not in tail.nodes}
    near = walk_backward(graph, {**env, **local}, own, {tail.end: start.view(local[tail.end].shape)})
    spread = {node: scatter_rows(carried, rows, env[node]) for node, carried in near.items() if node is not tail.end}
    spread[tail.end] = targets.make_seed(form, y, chosen)
    return {**spread, **walk_backward(graph, env, rest, {n: c for n, c in spread.items() if n not in tail.nodes})}


def expand_rows(rows: Tensor, x: Tensor) -> Tensor:
    """Return the rows, (samples, terms), as an index into dimension 1 of ``x``."""
    return rows.view(*rows.shape, *[1] * (x.ndim - 2)).expand(*rows.shape, *x.shape[2:])


def gather_rows(x: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Gather the rows of ``x``, which may have one sample for all."""
    x = x.expand(like.shape[0], *x.shape[1:])
    return x.gather(1, expand_rows(rows, x))


def scatter_rows(carried: Tensor | Relevance, rows: Tensor, value: Tensor) -> Tensor | Relevance:
    """Scatter a coefficient of rows over all positions: zeros elsewhere, equal rows added."""
    if isinstance(carried, Relevance):
        zeros = torch.zeros_like(numerics.widen(value))
        whole = scatter_rows(carried.coefficient + torch.zeros_like(carried.rest), rows, zeros)
        rest = scatter_rows(carried.rest, rows, zeros.real)
        assert isinstance(whole, Tensor)
        assert isinstance(rest, Tensor)
        return Relevance(whole, rest)
    return torch.zeros_like(value, dtype=carried.dtype).scatter_add(1, expand_rows(rows, carried), carried)
