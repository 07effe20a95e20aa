"""The entry points of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from fxlrp._torch import OpOverload
from fxlrp.attributor import Attributor
from fxlrp.capture.explained_output import Objective, Output
from fxlrp.errors import RuleError
from fxlrp.ir.rule import Rule
from fxlrp.ir.rule_set import MISSING_CHOICES, RuleSet
from fxlrp.rules import PRESETS
from fxlrp.session.options import Options


def compile(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: str | RuleSet | Mapping[OpOverload, Rule] = "auto",
    read: Sequence[str] = (),
    output: Output = None,
    objective: Objective = None,
    dynamic_shapes: Any = None,
    backend: str = "eager",
    memory: str = "normal",
    precision: str | None = None,
    strict: bool = True,
    verify: str = "first",
) -> Attributor:
    """Compile a model into a relevance program.

    The model is captured at the first call, once per input signature, or now if ``args`` or ``kwargs`` are given.
    It is never changed.

    Args:
        model: A module in evaluation mode, or a program exported by torch.export.
        args: Example positional arguments.
        kwargs: Example keyword arguments.
        rules: Name of a preset (`presets`), a rule set, or a table of what differs from the default preset.
        read: Names or patterns (``blocks.*.attn``) of modules, graph nodes or parameters whose relevance is wanted
            too. Parameters sum over the batch; with them, nothing else changes. Views follow a colon: ``:heads=12``
            (relevance of each attention head, before an output projection mixes them), ``:neurons=3,7`` (last
            dimension), ``:channels=3,7`` (dimension 1), ``:input`` (what the module takes), ``:coefficient``
            (``c = R / x``); ``*:positions`` (what positions take where they enter, ``(samples, positions, features)``,
            with ``rules="pa_lrp"``). A convolution that a batch norm was merged into shows its own output, in front of
            the norm.
        output: What to explain of the model's output: None (a tensor, else ``logits``, else the first floating
            tensor), a name, an index, or a function of the output.
        objective: A function of that tensor to one number per sample, such as a cosine; part of the program.
        dynamic_shapes: Sizes that may change between calls, as in `torch.export.export`, or ``"auto"``: the batch and
            the sequence, wherever the model allows (`Attributor.fixed_sizes` says where it does not).
        backend: ``"eager"``, ``"inductor"`` or ``"cudagraphs"``.
        memory: ``"normal"``, or ``"low"`` to compute what lies inside blocks of the model a second time rather than
            keep it for the relevance pass.
        precision: None, or ``"bfloat16"`` to round the operands of the relevance pass' matrix products and convolutions
            if they are of float32, which is fast on processors with such units; the sums are of float32. What it
            costs is `Attributor.precision_error`.
        strict: Raise for an op without a rule; otherwise use the plain adjoint and warn.
        verify: ``"first"``: the first call of every program (and its first for sizes of 0 and 1, if sizes may change)
            runs the model too and compares the outputs; ``"always"`` does so at every call, ``"never"`` trusts.

    Returns:
        An `Attributor`: call it as the model, with ``target=``.

    Raises:
        CaptureError: If the model cannot be exported, or is in training mode.
        MissingRules: If an op has no rule, naming all of them.
        RuleError: If there is no preset of that name, or a rule of yours serves nothing in the model.
        SignatureError: If ``output``, ``read``, ``backend``, ``memory``, ``precision`` or ``verify`` name nothing.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> result = fxlrp.compile(model)(torch.ones(1, 4), target=1)
        >>> result.relevance.shape
        torch.Size([1, 4])
    """
    load_extensions()
    names = (read,) if isinstance(read, str) else tuple(read)
    options = Options(
        rule_set(rules), names, output, objective, dynamic_shapes, backend, memory, precision, strict, verify
    )
    attributor = Attributor(model, options)
    if args is not None or kwargs is not None:
        attributor.compile(*(args or ()), **(kwargs or {}))
    return attributor


def rule_set(rules: str | RuleSet | Mapping[OpOverload, Rule], missing: str = "error") -> RuleSet:
    """Return a rule set from its name, itself, or what differs from the default preset.

    Args:
        rules: Name of a preset, a rule set, or a table.
        missing: ``"ignore"`` if what differs from a preset may fit nothing in a model, see `RuleSet.optional`.

    Raises:
        RuleError: If there is no preset of that name, or it is none of these.
    """
    if missing not in MISSING_CHOICES:
        raise RuleError(f"missing is {' or '.join(map(repr, MISSING_CHOICES))}, not {missing!r}")
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise RuleError(f"there is no preset {rules!r}; there are {', '.join(PRESETS)}")
        return PRESETS[rules]
    if not isinstance(rules, (RuleSet, Mapping)):
        raise RuleError(f"rules are the name of a preset, a rule set, or a table of rules by op, not {rules!r}")
    made = rules if isinstance(rules, RuleSet) else PRESETS["auto"] | rules
    return made if missing == "error" else made.optional()


def presets() -> dict[str, str]:
    """Return name and one line of every preset."""
    return {name: preset.summary for name, preset in PRESETS.items()}


@cache
def load_extensions() -> None:
    """Import the modules that other packages name in the entry-point group ``fxlrp.rules``."""
    for point in entry_points(group="fxlrp.rules"):
        try:
            point.load()
        except Exception as error:
            raise RuleError(f"the rules of {point.value} could not be loaded: {error}") from error
