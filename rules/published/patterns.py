"""PatternAttribution: which direction of a layer's input is its signal, estimated from data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp.errors import RuleError
from fxlrp.ir.closures import recipe_by_name
from fxlrp.ir.numerics import Relevance
from fxlrp.ir.ops import AFFINE
from fxlrp.ir.program import find_op
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.rule_set import RuleSet
from fxlrp.rules.unchanged import relevance_at_output
from fxlrp.rules.weights import fixed_weights, refuse_unweighted, replace_weights

aten = torch.ops.aten

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
ROUNDING = 1e-12
"""A variance that is a smaller part of its terms is that of a constant."""


def patterned(pattern: Tensor) -> Rule:
    """PatternAttribution of a linear op: ``R_i = sum_j w_ij a_ij R_j``, with a pattern ``a`` shaped as the weight.

    Nothing is divided; as ``sum_i w_ij a_ij = 1``, dense layers conserve, and convolutions where they do not pad.

    Source: Kindermans et al. 2017, section 4.
    """

    def apply(site: Site, c: Tensor | Relevance) -> Parts:
        """``R_x = (W * A)^T R``."""
        weight, _ = fixed_weights(site)
        own = replace_weights(site, weight * pattern.to(weight))
        return (Relevance(0.0, own.adjoint(relevance_at_output(c, site.out))[0]),)

    name = f"patterned({'x'.join(map(str, pattern.shape))})"
    return Rule(name, "pattern", apply, refuses=refuse_unweighted, takes_relevance=True, recipe=(patterned, (pattern,)))


def pass_active(site: Site, c: Tensor | Relevance) -> Parts:
    """``R_x = R * 1[x > 0]``: units that are off take nothing, whatever their relevance."""
    (x,) = site.operands
    return (c * (x > 0),)


active = Rule(
    "active",
    "pattern",
    pass_active,
    kills_negative=True,
    takes_relevance=True,
    recipe=recipe_by_name("fxlrp.rules.published.patterns:active"),
)


def feeds_relu(node: fx.Node) -> bool:
    """Say whether ReLU is all that takes the output of a node."""
    return bool(node.users) and all(find_op(user) is aten.relu.default for user in node.users)


@dataclass
class Moments:
    """Sums over samples and places of a layer, for every output channel: of all, and of those with a positive output.

    The output counts with its bias, as the ReLU behind it sees it.

    Attributes:
        layer: A copy of the layer in float64, apart from the model.
        count: How many, by regime.
        x: Sum of inputs, shaped as the weight, by regime.
        xy: Sum of inputs times the output, by regime.
        y: Sum of outputs of all.
    """

    layer: nn.Module
    count: dict[str, Any] = field(default_factory=lambda: {"all": 0.0, "active": 0.0})
    x: dict[str, Any] = field(default_factory=lambda: {"all": 0.0, "active": 0.0})
    xy: dict[str, Any] = field(default_factory=lambda: {"all": 0.0, "active": 0.0})
    y: Any = 0.0

    def note(self, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        """Add what a layer was given; a sum of its inputs is the adjoint with respect to its weight."""
        weight: Any = self.layer.weight
        with torch.enable_grad():
            y = self.layer(given[0].detach().double())
        value, channel = y.detach(), 1 - weight.ndim
        others = [d for d in range(y.ndim) if d != channel % y.ndim]
        pull = partial(torch.autograd.grad, y, weight, retain_graph=True)
        self.y = self.y + value.sum(others)
        for regime, mask in (("all", torch.ones_like(value)), ("active", (value > 0).double())):
            self.count[regime] = self.count[regime] + mask.sum(others)
            self.x[regime] = self.x[regime] + pull(mask)[0]
            self.xy[regime] = self.xy[regime] + pull(mask * value)[0]

    def estimate(self, weight: Tensor, regime: str) -> Tensor:
        """Estimate ``a = (E'[x y] - E'[x] E[y]) / (w^T E'[x y] - w^T E'[x] E[y])``, ``E'`` over the regime.

        It is 0 where the output never is in the regime, or is constant in it.

        Source: Kindermans et al. 2017, eq. 4 for the regime of all, eq. 8 for that of positive outputs.
        """
        w, along = weight.detach().double(), [-1, *[1] * (weight.ndim - 1)]
        dims = list(range(1, w.ndim))
        count = self.count[regime].clamp(min=1).reshape(along)
        mean = (self.y / self.count["all"]).reshape(along)
        terms = self.xy[regime] / count, self.x[regime] / count * mean
        size = (w * (terms[0] - terms[1])).sum(dims, keepdim=True)
        least = ROUNDING * sum((w * term).abs().sum(dims, keepdim=True) for term in terms)
        kept = size.abs() > least
        return torch.where(kept, (terms[0] - terms[1]) / torch.where(kept, size, 1.0), 0.0).to(weight)


def estimate_patterns(model: nn.Module, batches: Iterable[Any]) -> RuleSet:
    """Return the rule set of PatternAttribution for a model, with patterns from one pass over data.

    Dense layers and convolutions in front of a ReLU have the pattern of their positive outputs, of the two-component
    estimator (the ReLU keeps the other component off); all others have that of a linear neuron. ReLU passes relevance
    to units that are on, pooling by maximum to the largest; other ops are as in the default table.

    Args:
        model: The model in evaluation mode; it is not changed. The patterns belong to its weights.
        batches: Inputs, each a tensor or a tuple of positional arguments. More samples than a layer has inputs are
            wanted; sums are kept in float64, four for each weight.

    Source: Kindermans et al. 2017, section 4.

    Raises:
        RuleError: If there is no layer or no batch, the model is in training mode, or it has batch norms, whose merging
            changes the weights: merge them first, by `torch.nn.utils.fusion.fuse_conv_bn_eval`.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    refuse_model(model, layers)
    found = {name: Moments(copy.deepcopy(layer).double().requires_grad_()) for name, layer in layers.items()}
    handles = [layer.register_forward_hook(found[name].note) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                model(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
    finally:
        for handle in handles:
            handle.remove()
    ran = {name: moments for name, moments in found.items() if isinstance(moments.y, Tensor)}
    if not ran:
        raise RuleError("patterns are estimated from data, and no batch of it reached a layer of the model")
    rules = RuleSet(
        "pattern_attribution",
        "PatternAttribution, with patterns estimated from data (Kindermans et al. 2017)",
        {aten.relu.default: active},
        norms="apart",  # merging would change the weights that patterns belong to
    )
    for name, moments in ran.items():
        for regime, predicate in (("all", None), ("active", feeds_relu)):
            made = patterned(moments.estimate(layers[name].weight, regime))
            rules = rules.where(made, ops=AFFINE, module=name or None, predicate=predicate)
    return rules.named("pattern_attribution").optional()


def refuse_model(model: nn.Module, layers: dict[str, Any]) -> None:
    """Refuse a model that patterns cannot be estimated of.

    Raises:
        RuleError: Saying why, and what to do.
    """
    norms = [name for name, module in model.named_modules() if isinstance(module, NORMS)]
    if norms:
        raise RuleError(
            f"patterns belong to weights, which merging the batch norm {norms[0]!r} would change: merge it first, by "
            "torch.nn.utils.fusion.fuse_conv_bn_eval"
        )
    if model.training:
        raise RuleError(f"{type(model).__name__} is in training mode: call model.eval() first")
    if not layers:
        raise RuleError("the model has no dense layer and no convolution, of which patterns could be estimated")
