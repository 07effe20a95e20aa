"""Where relevance is read, started or masked: at the value of a node, or in front of norms merged into its op."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.graphs import call_op
from fxlrp.ir.program import MergedNorm


@dataclass(frozen=True)
class Point:
    """The value of a node, or what a linear op gave before norms that were merged into it.

    The node's value is ``scale * value + shift``, so that a node's coefficient ``c`` is ``scale * c`` at the point and
    the relevance there is ``(node's value - shift) * c``, in which nothing is divided. What the norms' constants absorb
    stays between the two. So a point shows what the merged op's rule is given, and what starts there with the
    coefficient that is read there goes on as if it had come through the norms.

    Attributes:
        node: The node.
        norms: The norms between the point and the node's value, innermost first.
    """

    node: fx.Node
    norms: tuple[MergedNorm, ...] = ()

    def compute_affine(self, env: Mapping[fx.Node, Any]) -> tuple[Tensor, Tensor]:
        """Return scale and shift, in the shape of the node's channels in dimension 1."""
        scale, shift = torch.ones(()), torch.zeros(())
        for norm in reversed(self.norms):
            s, t = (numerics.widen(env[node]) for node in (norm.scale, norm.shift))
            scale, shift = scale.to(s) * s, shift.to(t) + scale.to(t) * t
        sizes = [-1 if dim == 1 else 1 for dim in range(self.node.meta["val"].ndim)]
        return scale.reshape(sizes), shift.reshape(sizes)

    def coefficient(self, carried: Any, env: Env) -> Tensor:
        """Return the coefficient of the value, from what arrived."""
        c = numerics.to_coefficient(carried, numerics.widen(env[self.node]))
        return self.compute_affine(env)[0] * c if self.norms else c

    def relevance(self, carried: Any, env: Env) -> Tensor:
        """Return the relevance of the value, from what arrived."""
        x = numerics.widen(env[self.node])
        return numerics.to_relevance(carried, x - self.compute_affine(env)[1] if self.norms else x)

    def start(self, c: Tensor, env: Env) -> Tensor:
        """Return the node's coefficient that is ``c`` at the point; 0 in channels that the norms multiply by 0."""
        scale = self.compute_affine(env)[0]
        return torch.where(scale == 0, 0.0, c / torch.where(scale == 0, 1.0, scale))

    def find_silent(self, constants: Mapping[fx.Node, Any]) -> Tensor:
        """Tell which channels the norms multiply by 0, for weights as they are now."""
        env = {node: compute_constant(node, constants) for norm in self.norms for node in (norm.scale, norm.shift)}
        return self.compute_affine(env)[0] == 0


def compute_constant(node: fx.Node, constants: Mapping[fx.Node, Any]) -> Any:
    """Compute the value of a node that depends on constants alone."""
    return constants[node] if node in constants else call_op(node, lambda n: compute_constant(n, constants))


def list_points(node: fx.Node) -> list[Point]:
    """List the value of a node, then those inside it, in the order in which relevance passes them."""
    norms: tuple[MergedNorm, ...] = node.meta.get("merged", ())
    return [Point(node, norms[place:]) for place in range(len(norms), -1, -1)]


def drop_broken_facts(twins: Mapping[fx.Node, Twin], starts: Collection[fx.Node]) -> dict[fx.Node, Twin]:
    """Return twins without the proofs that a coefficient given at ``starts`` breaks.

    Such a coefficient need not be 0 where the output is negative. Masks break no proof, as they keep zeros, and neither
    changes the sign of a value.
    """
    doubted = {node: replace(twins[node].facts, dead_below=False) for node in starts}
    return {**twins, **{node: replace(twins[node], facts=facts) for node, facts in doubted.items()}}
