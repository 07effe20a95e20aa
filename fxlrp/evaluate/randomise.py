"""Whether an explanation depends on what a model learned: it must change when parameters are drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp._torch import tree_leaves
from fxlrp.attributor import Attributor
from fxlrp.errors import SignatureError
from fxlrp.evaluate.correlation import correlate_ranks
from fxlrp.ir.targets import Target
from fxlrp.session.result import Result

ORDERS = ("down", "up")
Prepare = Callable[[Attributor], Callable[..., Result]]
"""From an attributor, what is called in its place."""


@dataclass(frozen=True)
class Randomisation:
    """How alike explanations stay while more and more parameters are drawn anew.

    Attributes:
        names: Parameter that is drawn anew at each step.
        similarity: Rank correlation with the explanation of the trained model, ``(steps, samples)``.
    """

    names: tuple[str, ...]
    similarity: Tensor

    @property
    def final(self) -> float:
        """Mean similarity when every parameter is random; an explanation of the model has about 0."""
        return float(self.similarity[-1].mean())

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per step, ready for ``pandas.DataFrame``."""
        means = self.similarity.mean(1).tolist()
        return [{"parameter": name, "similarity": mean} for name, mean in zip(self.names, means, strict=True)]


def randomise_parameters(
    attributor: Attributor,
    *args: Any,
    target: Target = None,
    order: str = "down",
    absolute: bool = False,
    seed: int = 0,
    explain: Prepare | None = None,
    **kwargs: Any,
) -> Randomisation:
    """Draw the parameters of a copy of the model anew, one after the other, and compare what is explained.

    They go in the order of the graph, not of registration, from the output down or from the input up, and none is left
    out because of the class of its module. Each is drawn from a normal distribution of its own mean and deviation.

    Args:
        attributor: What explains; its model is left as it is.
        args: Inputs of the model.
        target: What is explained, the same at every step; it must not depend on the output.
        order: ``"down"``, or ``"up"``.
        absolute: Compare sizes, without signs.
        seed: Of what is drawn.
        explain: What is called in place of the attributor, made of it: ``fxlrp.smooth`` compares means over noisy
            inputs (smooth MPRT of Hedström et al. 2024).
        kwargs: Keyword inputs of the model.

    Source: Adebayo et al. 2018, cascading randomisation, with Spearman's correlation.

    Raises:
        SignatureError: If ``order`` is none, the target is None, or the model is no module.
    """
    if order not in ORDERS:
        raise SignatureError(f"order={order!r} is none of {', '.join(map(repr, ORDERS))}")
    own, call = copy_for_changes(attributor, explain, target)
    original = explain_flat(call, args, kwargs, target, absolute)
    names = own.order_parameters()[:: -1 if order == "down" else 1]
    generator, found = torch.Generator().manual_seed(seed), []
    model: Any = own.model
    for name in names:
        draw_anew(model.get_parameter(name), generator)
        found.append(correlate_ranks(original, explain_flat(call, args, kwargs, target, absolute)))
    return Randomisation(names, torch.stack(found))


def measure_rise(
    attributor: Attributor,
    *args: Any,
    target: Target = None,
    bins: int = 100,
    seed: int = 0,
    explain: Prepare | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return how much less ordered explanations are when all parameters are random: ``(H_random - H) / H``.

    ``H`` is the entropy of the histogram of each sample's relevance. Two explanations are all that is needed; above 0
    says that what was learned orders them. A constant explanation has an entropy of 0, and a rise of 0 or infinity.

    Args:
        attributor: What explains; its model is left as it is.
        args: Inputs of the model.
        target: What is explained, the same for both; it must not depend on the output.
        bins: Of the histogram, of equal width from the smallest to the largest number.
        seed: Of what is drawn.
        explain: As in `randomise_parameters`.
        kwargs: Keyword inputs of the model.

    Source: Hedström et al. 2024, efficient MPRT.

    Raises:
        SignatureError: If ``bins`` are none, the target is None, or the model is no module.
    """
    if bins < 2:
        raise SignatureError(f"bins={bins!r} tell nothing apart: give 2 or more")
    own, call = copy_for_changes(attributor, explain, target)
    before = measure_entropy(explain_flat(call, args, kwargs, target, absolute=False), bins)
    draw_all_anew(own, seed)
    after = measure_entropy(explain_flat(call, args, kwargs, target, absolute=False), bins)
    rise: Tensor = torch.where(after == before, 0.0, (after - before) / before)
    return rise


def copy_for_changes(
    attributor: Attributor, explain: Prepare | None, target: Target
) -> tuple[Attributor, Callable[..., Result]]:
    """Return an attributor of a copy of the model, and what explains with it."""
    if target is None:
        raise SignatureError("target=None is another class for every model: give the class that is explained")
    if not isinstance(attributor.model, nn.Module):
        raise SignatureError(
            "the parameters of an exported program cannot be drawn anew: give an attributor of a module"
        )
    own = copy.deepcopy(attributor)
    return own, own if explain is None else explain(own)


def measure_entropy(rows: Tensor, bins: int) -> Tensor:
    """Return the entropy of the histogram of each row, in nats."""
    shares = torch.stack([torch.histc(row, bins) for row in rows.cpu()]) / rows.shape[1]
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropy


def explain_flat(call: Callable[..., Result], args: Any, kwargs: Any, target: Target, absolute: bool) -> Tensor:
    """Return the relevance of all inputs as one row per sample."""
    relevance = tree_leaves(call(*args, target=target, **kwargs).relevance)
    rows = torch.cat([r.detach().double().flatten(1) for r in relevance], 1)
    return rows.abs() if absolute else rows


def draw_all_anew(attributor: Attributor, seed: int) -> None:
    """Draw every parameter of an attributor's model anew."""
    generator, model = torch.Generator().manual_seed(seed), attributor.model
    assert isinstance(model, nn.Module)
    for name in attributor.order_parameters():
        draw_anew(model.get_parameter(name), generator)


@torch.no_grad()
def draw_anew(parameter: Tensor, generator: torch.Generator) -> None:
    """Draw a parameter from a normal distribution of its mean and standard deviation."""
    drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    wide = parameter.double()
    parameter.copy_(wide.mean() + wide.std(correction=0) * drawn.to(parameter.device))
