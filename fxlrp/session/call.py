"""What a user calls an attributor with, and what that is in a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from fxlrp._torch import tree_leaves
from fxlrp.errors import TargetError
from fxlrp.ir.targets import Form, Target
from fxlrp.session.conditions import Condition, check_chunk, lower_masks, lower_target, lower_targets
from fxlrp.session.programs import Programs
from fxlrp.session.signature import CapturedSignature

Made = TypeVar("Made")


@dataclass(frozen=True)
class Call:
    """The arguments of `fxlrp.Attributor.__call__`, which says what they mean."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Target = None
    targets: Sequence[Target] | Tensor | None = None
    chunk: int = 8
    inject: Mapping[str, Tensor] | None = None
    keep: Mapping[str, Tensor] | None = None
    conditions: Sequence[Condition] | None = None

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments of the model."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class FittedCall(Generic[Made]):
    """A call of a captured signature.

    Attributes:
        signature: The signature.
        form: Form of its target.
        tensors: Inputs of the model.
        numbers: Tensors of the target.
        masks: Tensors that coefficients are multiplied by.
        varying: Places among `values` of those that have a leading dimension, for several targets or conditions.
        made: What was made for this signature and form.
    """

    signature: CapturedSignature
    form: Form
    tensors: list[Tensor]
    numbers: list[Tensor]
    masks: list[Tensor]
    varying: tuple[int, ...]
    made: Made

    @property
    def values(self) -> list[Tensor]:
        """List all that a program takes."""
        return [*self.tensors, *self.numbers, *self.masks]


def fit_call(programs: Programs, call: Call, make: Callable[[CapturedSignature, Form], Made]) -> FittedCall[Made]:
    """Find the signature and the tensors of a call, and make what runs for it.

    Args:
        programs: The programs of the model.
        call: The call.
        make: Makes what will run, from a signature and a form of target. It may trace the relevance pass, which may
            ask more of the sizes than the model does: then the model is captured for these.

    Raises:
        CaptureError, MissingRules, SignatureError, TargetError: As `fxlrp.Attributor.__call__`.
    """
    if call.targets is not None and not (call.target is None and call.inject is None):
        raise TargetError("targets= is in place of target= and inject=: give one of the three")
    check_chunk(call.chunk)
    signature, leaves, sizes = programs.find_signature(call.args, call.kwargs)
    signature.check_finite(leaves)
    if call.targets is None:
        form, numbers = lower_target(signature, sizes, call.target, call.inject)
    else:
        form, numbers = lower_targets(signature, sizes, call.targets)
    kept, masks, conditional = lower_masks(signature, sizes, call.keep, call.conditions)
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    values = [*tensors, *numbers, *masks]
    chosen = range(len(tensors), len(tensors) + len(numbers)) if call.targets is not None else ()
    varying = (*chosen, *range(len(values) - conditional, len(values)))
    if len({len(values[i]) for i in varying}) > 1:
        raise TargetError(f"there are {len(numbers[0])} targets and {len(masks[-1])} conditions: give one for each")
    form = replace(form, kept=kept)
    made = make(signature, form)
    if not signature.admits(sizes):
        return fit_call(programs, call, make)
    return FittedCall(signature, form, tensors, numbers, masks, varying, made)
