"""The programs of a model: one capture per signature of its inputs, one program per form of target."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp import passes
from fxlrp._torch import TreeSpec, lazy_modules, tree_flatten
from fxlrp.backends import Runner, backend
from fxlrp.capture import capture
from fxlrp.errors import SignatureError
from fxlrp.outputs import Objective, Output, pick
from fxlrp.passes.constants import remove_biases
from fxlrp.passes.order import MEMORY
from fxlrp.passes.precision import PRECISION
from fxlrp.pipeline import Plan, lower, plan
from fxlrp.program import Captured, Program
from fxlrp.rulesets import RuleSet
from fxlrp.signatures import Entry, bind, signature
from fxlrp.targets import Form

CACHE = 16
"""Signatures kept per model, least recently used out first."""


class Programs:
    """Captures and compiles a model for the inputs and targets that it is called with, once for each kind.

    Attributes:
        backend: Makes a program ready to run.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        *,
        rules: RuleSet,
        read: Sequence[str],
        output: Output,
        objective: Objective,
        dynamic_shapes: Any,
        backend_name: str,
        memory: str,
        precision: str | None,
        strict: bool,
    ) -> None:
        if precision not in PRECISION:
            raise SignatureError(f"precision={precision!r} is none of {', '.join(map(repr, PRECISION))}")
        if memory not in MEMORY:
            raise SignatureError(f"memory={memory!r} is none of {', '.join(map(repr, MEMORY))}")
        self.backend: Callable[[Program], Runner] = backend(backend_name)
        self._model = model
        self._rules = rules
        self._read = tuple(read)
        self._output, self._objective = output, objective
        self._dynamic_shapes = dynamic_shapes
        self._saving = *PRECISION[precision], *MEMORY[memory]
        self._strict = strict
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._captures = 0
        self._last: tuple[Entry, Program] | None = None

    def __len__(self) -> int:
        """How many signatures are kept."""
        return len(self._entries)

    @property
    def last(self) -> tuple[Entry, Program]:
        """Signature and program of the last call.

        Raises:
            SignatureError: If there was none.
        """
        if self._last is None:
            raise SignatureError(
                "nothing is captured yet: call the attributor once, or compile with example inputs, args=(x,)"
            )
        return self._last

    def entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Entry, list[Any], dict[Any, int]]:
        """The captured signature that the inputs fit, made if there is none; their leaves, and the value of each size.

        Raises:
            CaptureError, MissingRules, SignatureError: As `fxlrp.compile`.
        """
        args, kwargs = bind(self._model, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        for key in reversed(self._entries):
            entry = self._entries[key]
            if entry.spec == spec and (sizes := entry.sizes(leaves)) is not None:
                self._entries.move_to_end(key)
                return entry, leaves, sizes
        entry = self._made(args, kwargs, leaves, spec)
        found = entry.sizes(leaves)
        if found is None:
            raise SignatureError(
                f"these inputs do not fit the program that was exported\n{signature(entry.plan.captured)}"
            )
        return entry, leaves, found

    def program(self, entry: Entry, form: Form) -> tuple[Program, Runner]:
        """The program of a signature for a form of target, made if there is none."""
        if form not in entry.programs:
            program = lower(entry.plan, form)
            passes.run(program.module, self._saving)
            entry.programs[form] = program, self.backend(program)
        self._last = entry, entry.programs[form][0]
        return entry.programs[form]

    def choose(self, output: Any) -> Tensor:
        """What is explained of the model's output: the tensor that targets select from."""
        y = pick(output, self._output)
        return y if self._objective is None else self._objective(y)

    def without_biases(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        """The plan of the model with zeros in place of its additive parameters."""
        captured = self._captured(*bind(self._model, args, kwargs))
        passes.run(captured.module, passes.CANONICAL)
        remove_biases(captured)
        return plan(captured, self._rules, (), self._strict)

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], spec: TreeSpec) -> Entry:
        captured = self._captured(args, kwargs)
        if captured.in_spec != spec:
            raise SignatureError(
                "give the exported program its inputs as at its export: by position what was by position, by keyword "
                f"what was by keyword\n{signature(captured)}"
            )
        kept = tuple(torch.empty(0, device=leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        entry = Entry(plan(captured, self._rules, self._read, self._strict), spec, kept)
        self._captures += 1
        self._entries[self._captures] = entry
        if len(self._entries) > CACHE:
            self._entries.popitem(last=False)
        return entry

    def _captured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        with lazy_modules():  # torch makes a dozen on the way, and none of them runs
            return capture(
                self._model,
                args,
                kwargs,
                output=self._output,
                objective=self._objective,
                dynamic_shapes=self._dynamic_shapes,
            )
