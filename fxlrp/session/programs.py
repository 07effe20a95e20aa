"""The programs of a model: one capture per signature of its inputs, one program per form of target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp import passes
from fxlrp._torch import TreeSpec, lazy_modules, tree_flatten
from fxlrp.backends.choice import BACKENDS, Runner
from fxlrp.backends.constants import ConstantStore
from fxlrp.cache import COMPILE_LOCK, Cache
from fxlrp.capture.explained_output import pick_output
from fxlrp.capture.functional_graph import capture
from fxlrp.capture.open_sizes import double_batch
from fxlrp.emit.lower import emit_program
from fxlrp.errors import FxlrpError, SignatureError
from fxlrp.ir.guards import is_symbolic
from fxlrp.ir.program import Captured, Program
from fxlrp.ir.targets import Form
from fxlrp.passes.analyses.constants import remove_biases
from fxlrp.passes.lowering.bfloat16 import PRECISION
from fxlrp.passes.lowering.release_order import MEMORY
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.session.agreement import check_output, find_difference, find_rounding_unit
from fxlrp.session.freshness import Structure
from fxlrp.session.options import Options
from fxlrp.session.signature import CapturedSignature, bind_arguments, describe_inputs, make_dense, summarise_argument

MAX_SIGNATURES = 16
"""Signatures kept per model, least recently used out first."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Programs:
    """Captures and compiles a model for the inputs and targets that it is called with, once for each kind.

    Threads may share it: whatever is made is made by one of them.
    """

    def __init__(self, model: nn.Module | ExportedProgram, settings: Options) -> None:
        self._model, self._settings = model, settings
        self._saving = *PRECISION[settings.precision], *MEMORY[settings.memory]
        self._captures = 0
        self._entries: Cache[int, CapturedSignature] = Cache(MAX_SIGNATURES)
        self._last: tuple[CapturedSignature, Program] | None = None
        self._runs: Counter[tuple[int, str]] = Counter()
        self.refresh()

    def __len__(self) -> int:
        """How many signatures are kept."""
        return len(self._entries)

    def refresh(self) -> None:
        """Forget every program: the next call captures the model as it is then."""
        with COMPILE_LOCK:
            self._entries.clear()
            self._structure: Structure | None = None
            self._store = ConstantStore()

    @property
    def last(self) -> tuple[CapturedSignature, Program]:
        """Signature and program of the last call.

        Raises:
            SignatureError: If there was none.
        """
        if self._last is None:
            raise SignatureError(
                "nothing is captured yet: call the attributor once, or compile with example inputs, args=(x,)"
            )
        return self._last

    def backend(self, program: Program) -> Runner:
        """Make a program run, sharing with the others of this model what depends on its tensors alone."""
        return BACKENDS[self._settings.backend](program, self._store)

    def entry(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CapturedSignature, list[Any], dict[Any, int]]:
        """The captured signature that the inputs fit, made if there is none; their leaves, and the value of each size.

        Raises:
            CaptureError, MissingRules, SignatureError: As `fxlrp.compile`.
        """
        structure = self._structure
        if structure is not None and structure.changed():
            self.refresh()
        args, kwargs = bind_arguments(self._model, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        leaves = [make_dense(leaf) for leaf in leaves]
        found = self._found(leaves, spec)
        if found is None:
            with COMPILE_LOCK:  # another thread may have made it while this one waited
                found = self._found(leaves, spec) or self._made(args, kwargs, leaves, spec)
        entry, sizes = found
        return entry, leaves, sizes

    def open_entry(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CapturedSignature, list[Any], dict[Any, int]]:
        """As `entry`, but for two samples in place of one where that leaves the batch open."""
        doubled = double_batch((args, kwargs))
        if doubled is not None and (
            self._settings.dynamic_shapes is not None or isinstance(self._model, ExportedProgram)
        ):
            with suppress(FxlrpError):  # the model takes one sample alone
                found = self.entry(*doubled)
                values = [node.meta["val"] for node in found[0].plan.captured.inputs]
                if all(is_symbolic(value.shape[0]) for value in values if isinstance(value, Tensor)):
                    return found
        return self.entry(args, kwargs)

    def program(self, entry: CapturedSignature, form: Form) -> tuple[Program, Runner]:
        """The program of a signature for a form of target, made if there is none."""

        def make() -> tuple[Program, Runner]:
            program = emit_program(entry.plan, form)
            passes.run_passes(program.module, self._saving)
            return program, self.backend(program)

        found = entry.programs(form, make)
        self._last = entry, found[0]
        return found

    def verify(
        self, entry: CapturedSignature, kind: Hashable, inputs: Inputs, output: Any, tensors: Sequence[Tensor]
    ) -> None:
        """Compare what a program returned in place of the model with the model's own output, if that is asked for.

        Args:
            entry: The signature.
            kind: What is checked once: a program, for sizes of 0, of 1 and of more.
            inputs: Arguments of the model.
            output: The output to compare.
            tensors: The tensors among the flattened inputs.

        Raises:
            VerificationError: If they differ.
        """
        sizes = tuple(min(n, 2) for x in tensors for n in x.shape)
        when = self._settings.verify
        if when == "never" or (when == "first" and entry.verified.find((kind, sizes))):
            return
        with COMPILE_LOCK:  # while another thread exports, torch tells models that they are being exported
            explain = partial(find_difference, self._model, inputs, entry.plan, self.backend, tensors)
            check_output(self._model, inputs, output, find_rounding_unit(entry.plan.captured.graph), explain)
            if self._structure is not None:
                self._structure.ran()
        entry.verified.put((kind, sizes), True)

    def choose(self, output: Any) -> Tensor:
        """What is explained of the model's output: the tensor that targets select from."""
        y: Tensor = pick_output(output, self._settings.output)
        return y if self._settings.objective is None else self._settings.objective(y)

    def without_biases(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        """The plan of the model with zeros in place of its additive parameters."""
        with COMPILE_LOCK:
            captured = self._captured(*bind_arguments(self._model, args, kwargs))
            passes.run_passes(captured.module, passes.CANONICAL)
            remove_biases(captured)
            return make_plan(captured, self._settings.rules.optional(), (), self._settings.strict)

    def _found(self, leaves: list[Any], spec: TreeSpec) -> tuple[CapturedSignature, dict[Any, int]] | None:
        for entry in self._entries.values():
            if entry.spec == spec and (sizes := entry.sizes(leaves)) is not None:
                self._entries.find(entry.number)
                return entry, sizes
        return None

    def _made(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], spec: TreeSpec
    ) -> tuple[CapturedSignature, dict[Any, int]]:
        structure = self._structure or Structure(self._model, self._runs)
        captured = self._captured(args, kwargs)
        if captured.in_spec != spec:
            raise SignatureError(
                "give the exported program its inputs as at its export: by position what was by position, by keyword "
                f"what was by keyword\n{describe_inputs(captured)}"
            )
        kept = tuple(map(summarise_argument, leaves))
        made = make_plan(captured, self._settings.rules, self._settings.read, self._settings.strict)
        self._captures += 1
        entry = CapturedSignature(made, spec, kept, self._captures)
        self._structure = structure
        self._entries.put(entry.number, entry)
        sizes = entry.sizes(leaves)
        if sizes is None:
            raise SignatureError(
                f"these inputs do not fit the program that was exported\n{describe_inputs(entry.plan.captured)}"
            )
        return entry, sizes

    def _captured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        with lazy_modules():  # torch makes a dozen on the way, and none of them runs
            return capture(
                self._model,
                args,
                kwargs,
                output=self._settings.output,
                objective=self._settings.objective,
                dynamic_shapes=self._settings.dynamic_shapes,
            )
