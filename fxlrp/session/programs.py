"""The programs of a model: one capture per signature of its inputs, one program per form of target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
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
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import Form
from fxlrp.passes.analyses.constants import remove_biases
from fxlrp.passes.lowering.bfloat16 import PRECISION
from fxlrp.passes.lowering.release_order import MEMORY
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.session.agreement import check_output, find_difference, find_rounding_unit
from fxlrp.session.freshness import Structure
from fxlrp.session.many_targets import ManyTargets
from fxlrp.session.options import Options
from fxlrp.session.signature import CapturedSignature, bind_arguments, describe_inputs, make_dense, summarise_argument

MAX_SIGNATURES = 16
"""Signatures kept per model, least recently used out first."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Programs:
    """Captures and compiles a model for the inputs and targets that it is called with, once for each kind.

    Threads may share it: whatever is made is made by one of them.
    """

    def __init__(self, model: nn.Module | ExportedProgram, options: Options) -> None:
        self.model, self.options = model, options
        self._saving = *PRECISION[options.precision], *MEMORY[options.memory]
        self._captures = 0
        self._signatures: Cache[int, CapturedSignature] = Cache(MAX_SIGNATURES)
        self._last: tuple[CapturedSignature, Program] | None = None
        self._runs: Counter[tuple[int, str]] = Counter()
        self._lender: Programs | None = None
        self.refresh()

    def __len__(self) -> int:
        """Count the signatures that are kept."""
        return len(self._signatures)

    def refresh(self) -> None:
        """Forget every program: the next call captures the model as it is then."""
        with COMPILE_LOCK:
            self._signatures.clear()
            self._structure: Structure | None = None
            self._store = ConstantStore()

    def with_rules(self, rules: RuleSet) -> Programs:
        """Make programs of the same model for other rules, of graphs and constants that are here already."""
        other = Programs(self.model, replace(self.options, rules=rules))
        other._lender, other._store = self, self._store
        return other

    def lend_plan(self, leaves: list[Any], spec: TreeSpec, norms: str) -> Plan | None:
        """Return a plan whose graph suits other rules for these inputs; None if none is of the model as it is now."""
        if norms != self.options.rules.norms or self._structure is None or self._structure.changed():
            return None
        found = self._find_signature(leaves, spec)
        return found and found[0].plan

    @property
    def last(self) -> tuple[CapturedSignature, Program]:
        """Return signature and program of the last call.

        Raises:
            SignatureError: If there was none.
        """
        if self._last is None:
            raise SignatureError(
                "nothing is captured yet: call the attributor once, or compile with example inputs, args=(x,)"
            )
        return self._last

    def prepare_runner(self, program: Program) -> Runner:
        """Make a program run, sharing with the others of this model what depends on its tensors alone."""
        return BACKENDS[self.options.backend](program, self._store)

    def find_signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CapturedSignature, list[Any], dict[Any, int]]:
        """Find or capture the signature that inputs are of; return it, their leaves, and the value of each size.

        Raises:
            CaptureError, MissingRules, SignatureError: As `fxlrp.compile`.
        """
        structure = self._structure
        if structure is not None and structure.changed():
            self.refresh()
        args, kwargs = bind_arguments(self.model, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        leaves = [make_dense(leaf) for leaf in leaves]
        found = self._find_signature(leaves, spec)
        if found is None:
            with COMPILE_LOCK:  # another thread may have made it while this one waited
                found = self._find_signature(leaves, spec) or self._make_signature(args, kwargs, leaves, spec)
        signature, sizes = found
        return signature, leaves, sizes

    def find_open_signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[CapturedSignature, list[Any], dict[Any, int]]:
        """Do as `find_signature`, but for two samples in place of one where that leaves the batch open."""
        doubled = double_batch((args, kwargs))
        if doubled is not None and (self.options.dynamic_shapes is not None or isinstance(self.model, ExportedProgram)):
            with suppress(FxlrpError):  # the model takes one sample alone
                found = self.find_signature(*doubled)
                values = [node.meta["val"] for node in found[0].plan.captured.inputs]
                if all(is_symbolic(value.shape[0]) for value in values if isinstance(value, Tensor)):
                    return found
        return self.find_signature(args, kwargs)

    def find_program(self, signature: CapturedSignature, form: Form) -> tuple[Program, Runner]:
        """Find the program of a signature for a form of target, or make it."""

        def make() -> tuple[Program, Runner]:
            program = emit_program(signature.plan, form)
            passes.run_passes(program.module, self._saving)
            return program, self.prepare_runner(program)

        found = signature.programs(form, make)
        self._last = signature, found[0]
        return found

    def find_many(self, signature: CapturedSignature, form: Form, varying: tuple[int, ...], chunk: int) -> Runner:
        """Return what runs the program of a form for many targets or conditions, at most ``chunk`` at a time.

        Args:
            signature: The signature.
            form: The form of target.
            varying: Places of those inputs of the program that have a leading dimension for them.
            chunk: The most at a time.
        """
        program, _ = self.find_program(signature, form)
        make = partial(ManyTargets, program, varying, self.prepare_runner)
        return partial(signature.many((form, varying), make), chunk)

    def compare_with_model(
        self, signature: CapturedSignature, kind: Hashable, inputs: Inputs, output: Any, tensors: Sequence[Tensor]
    ) -> None:
        """Compare what a program returned in place of the model with the model's own output, if that is asked for.

        Args:
            signature: The signature.
            kind: What is checked once: a program, for sizes of 0, of 1 and of more.
            inputs: Arguments of the model.
            output: The output to compare.
            tensors: The tensors among the flattened inputs.

        Raises:
            VerificationError: If they differ.
        """
        sizes = tuple(min(n, 2) for x in tensors for n in x.shape)
        when = self.options.verify
        if when == "never" or (when == "first" and signature.verified.find((kind, sizes))):
            return
        with COMPILE_LOCK:  # while another thread exports, torch tells models that they are being exported
            explain = partial(find_difference, self.model, inputs, signature.plan, self.prepare_runner, tensors)
            check_output(self.model, inputs, output, find_rounding_unit(signature.plan.captured.graph), explain)
            if self._structure is not None:
                self._structure.note_run()
        signature.verified.put((kind, sizes), True)

    def choose_explained(self, output: Any) -> Tensor:
        """Return what is explained of the model's output: the tensor that targets select from."""
        y: Tensor = pick_output(output, self.options.output)
        return y if self.options.objective is None else self.options.objective(y)

    def plan_without_biases(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        """Plan the model with zeros in place of its additive parameters."""
        with COMPILE_LOCK:
            captured = self._capture(*bind_arguments(self.model, args, kwargs))
            passes.run_passes(captured.module, passes.FORMS[self.options.rules.norms])
            remove_biases(captured)
            return make_plan(captured, self.options.rules.optional(), (), self.options.strict)

    def _find_signature(self, leaves: list[Any], spec: TreeSpec) -> tuple[CapturedSignature, dict[Any, int]] | None:
        for signature in self._signatures.values():
            if signature.spec == spec and (sizes := signature.fit(leaves)) is not None:
                self._signatures.find(signature.number)
                return signature, sizes
        return None

    def _make_signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], spec: TreeSpec
    ) -> tuple[CapturedSignature, dict[Any, int]]:
        structure = self._structure or Structure(self.model, self._runs)
        lent = self._lender and self._lender.lend_plan(leaves, spec, self.options.rules.norms)
        captured = lent.captured if lent else self._capture(args, kwargs)
        if captured.in_spec != spec:
            raise SignatureError(
                "give the exported program its inputs as at its export: by position what was by position, by keyword "
                f"what was by keyword\n{describe_inputs(captured)}"
            )
        kept = tuple(map(summarise_argument, leaves))
        plan = make_plan(captured, self.options.rules, self.options.read, self.options.strict)
        plan = replace(plan, rewrites=lent.rewrites) if lent else plan
        self._captures += 1
        signature = CapturedSignature(plan, spec, kept, self._captures)
        self._structure = structure
        self._signatures.put(signature.number, signature)
        sizes = signature.fit(leaves)
        if sizes is None:
            raise SignatureError(
                f"these inputs do not fit the program that was exported\n{describe_inputs(signature.plan.captured)}"
            )
        return signature, sizes

    def _capture(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        with lazy_modules():  # torch makes a dozen on the way, and none of them runs
            return capture(
                self.model,
                args,
                kwargs,
                output=self.options.output,
                objective=self.options.objective,
                dynamic_shapes=self.options.dynamic_shapes,
            )
