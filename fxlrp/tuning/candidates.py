"""Rule sets to choose from: presets, and one rule for each type of layer that a model has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fxlrp.api import rule_set
from fxlrp.errors import RuleError
from fxlrp.ir.ops import AFFINE, CONVOLUTIONS, SOFTMAXES
from fxlrp.ir.program import find_op
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import RuleSet
from fxlrp.plan.decide import Plan
from fxlrp.rules import PRESETS
from fxlrp.rules.linear import affine
from fxlrp.rules.published.residuals import is_residual_addition, residual_gamma
from fxlrp.rules.weighted import epsilon, flat, gamma, z_box, z_plus

aten = torch.ops.aten

LINEAR = (aten.linear.default,)
ATTENTION = (*SOFTMAXES, aten.scaled_dot_product_attention.default)

Candidates = Mapping[str, Any] | Sequence[Any]
Choice = Rule | str | None

CHOICES: dict[str, tuple[Choice, ...]] = {
    "convolutions": (gamma(0.1), gamma(0.25), z_plus()),
    "dense": (epsilon(), gamma(0.05)),
    "attention": (None, "cp_lrp"),
    "first": (None, flat()),
    "residuals": (None, residual_gamma(1.0)),
}
"""What the default candidates try for each type of layer, named as the arguments of `combine_rules`."""

CALL = "combine_rules"
"""How the summary of what `combine_rules` makes begins."""

OF_ALL = ("auto", "attnlrp", "epsilon", "gradient")
OF_CONVOLUTIONS = ("epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "excitation_backprop")
OF_ATTENTION = ("libragrad", "dynamiclrp")
"""Presets that are no combination of these choices."""


def combine_rules(
    *,
    convolutions: Rule | None = None,
    dense: Rule | None = None,
    attention: str | None = None,
    first: Rule | None = None,
    residuals: Rule | None = None,
) -> RuleSet:
    """Combine one rule for each type of layer; what is None is as in ``attnlrp``.

    Args:
        convolutions: Rule of convolutions.
        dense: Rule of dense layers outside attention, but for the last one.
        attention: ``"cp_lrp"``, if attention weights and activated gates are to be constants.
        first: Rule of the first layer, convolution or dense.
        residuals: Rule of residual additions.

    Raises:
        RuleError: If ``attention`` is none of these.

    Source: Achtibat et al. 2024, B.5, for the dense layers that keep their rule; Ali et al. 2022 for ``"cp_lrp"``.
    """
    if attention not in (None, "cp_lrp"):
        raise RuleError(f"attention={attention!r} is no treatment of attention: give None or 'cp_lrp'")
    rules = PRESETS["attnlrp"]
    if attention is not None:
        rules |= PRESETS[attention].table
    if convolutions is not None:
        rules |= dict.fromkeys(CONVOLUTIONS, convolutions)
    if dense is not None:
        rules |= dict.fromkeys(LINEAR, dense)
        rules = rules.where(affine, ops=LINEAR, module="*att*").where(affine, ops=LINEAR, position="last")
    if residuals is not None:
        rules = rules.where(residuals, ops=aten.add.Tensor, predicate=is_residual_addition)
    if first is not None:
        rules = rules.where(first, ops=AFFINE, position="first")
    given: dict[str, Choice] = dict(zip(CHOICES, (convolutions, dense, attention, first, residuals), strict=True))
    name = ", ".join(write_choice(name, choice) for name, choice in given.items() if choice is not None)
    return replace(rules.optional(), name=name, summary=f"{CALL}({name})")


def write_choice(name: str, choice: Choice) -> str:
    """Write an argument of `combine_rules` as Python."""
    if not isinstance(choice, Rule):
        return f"{name}={choice!r}"
    return f"{name}={choice.name}" if choice.name.endswith(")") else f"{name}={choice.name}()"


def list_candidates(plan: Plan, x: Tensor) -> dict[str, RuleSet]:
    """List the default candidates for a model: presets, and the choices for types of layers that it has, crossed.

    Args:
        plan: Of the model.
        x: The samples; of images, the smallest and the largest entry are the box of the z-box rule.
    """
    types = set(find_layer_types(plan, x))
    names = [*OF_ALL, *(OF_CONVOLUTIONS if "convolutions" in types else ())]
    names += OF_ATTENTION if "attention" in types else ()
    found = {name: PRESETS[name] for name in names}
    choices = {name: given for name, given in CHOICES.items() if name in types}
    if "first" in choices and (box := find_box(x)) is not None:
        choices["first"] += (box,)
    for chosen in product(*choices.values()):
        made = combine_rules(**dict(zip(choices, chosen, strict=True)))  # type: ignore[arg-type]
        found.setdefault(made.name or "attnlrp", made)
    return found


def find_layer_types(plan: Plan, x: Tensor) -> Iterator[str]:
    """Find which types of layers a model has, named as the arguments of `combine_rules`."""
    ops = [find_op(node) for node in plan.twins]
    if any(op in CONVOLUTIONS for op in ops):
        yield "convolutions"
    if ops.count(aten.linear.default) > 1:  # the last keeps its rule
        yield "dense"
    if any(op in ATTENTION for op in ops):
        yield "attention"
    if x.ndim == 4 and x.is_floating_point() and any(op in AFFINE for op in ops):
        yield "first"
    if any(is_residual_addition(node) for node in plan.twins):
        yield "residuals"


def find_box(x: Tensor) -> Rule | None:
    """Return the z-box rule for the range of inputs, to hundredths outwards; None if they are one number."""
    low, high = math.floor(100 * float(x.min())) / 100, math.ceil(100 * float(x.max())) / 100
    return z_box(low, high) if low < high else None


def read_candidates(given: Candidates) -> dict[str, RuleSet]:
    """Return candidates by name.

    Args:
        given: Presets, rule sets or tables by name; or a list of presets and rule sets.

    Raises:
        RuleError: If there are none, one is no rule set, or two have one name.
    """
    if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
        raise RuleError(f"candidates={given!r} are no candidates: give a list of presets, or rule sets by name")
    if not given:
        raise RuleError("there are no candidates: give one or more, or none at all for the default ones")
    if isinstance(given, Mapping):
        return {str(name): rule_set(rules) for name, rules in given.items()}
    sets = [rule_set(rules) for rules in given]
    names = [rules.name for rules in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RuleError(f"several candidates are named {', '.join(twice)}: give a mapping with a name for each")
    return dict(zip(names, sets, strict=True))
