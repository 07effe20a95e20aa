"""What `fxlrp.compile` returns: a model together with its relevance programs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import tree_leaves
from fxlrp.cache import COMPILE_LOCK
from fxlrp.errors import TargetError
from fxlrp.ir.program import FixedSize, Program, find_device
from fxlrp.ir.targets import Form, Target
from fxlrp.ir.targets import split_target as lower_target
from fxlrp.reports.coverage import Coverage, report_coverage
from fxlrp.reports.ledger import Ledger
from fxlrp.reports.ledger_program import LedgerProgram
from fxlrp.reports.rounding_error import measure_errors
from fxlrp.reports.verification import Verification
from fxlrp.session.conditions import lower_conditions, lower_targets
from fxlrp.session.doubts import Question
from fxlrp.session.many_targets import ManyTargets
from fxlrp.session.options import Options
from fxlrp.session.programs import Programs
from fxlrp.session.result import Result, make_result
from fxlrp.session.signature import CapturedSignature, check_finite, plain_mode


class Attributor:
    """A compiled model: call it with the model's inputs and a target.

    Programs are made at the first call of each input signature and kept; see `fxlrp.compile`.
    """

    def __init__(self, model: nn.Module | ExportedProgram, settings: Options) -> None:
        self.model = model
        self.rules = settings.rules
        self.settings = settings
        self._programs = Programs(model, settings)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attributor:
        """A copy of the model, with programs of its own."""
        return type(self)(copy.deepcopy(self.model, memo), self.settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles hold the model and the settings; their programs are made anew."""
        return type(self), (self.model, self.settings)

    def __repr__(self) -> str:
        return f"Attributor({type(self.model).__name__}, rules={self.rules.name!r}, {len(self._programs)} signatures)"

    def __call__(
        self,
        *args: Any,
        target: Target = None,
        targets: Sequence[Target] | Tensor | None = None,
        chunk: int = 8,
        inject: Mapping[str, Tensor] | None = None,
        keep: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Run the model and attribute one number per sample of its output to the inputs.

        Args:
            args: Positional arguments of the model.
            target: Which output to explain: None (the largest), a class, an index tuple such as
                ``(position, token)`` where None stands for the largest, a list or tensor of one of these per
                sample, a floating point seed shaped as the output, or `fxlrp.contrast`.
            targets: Several of these, all of one kind, in place of ``target``: every relevance gets a leading
                dimension for them. The model runs once.
            chunk: The most of ``targets`` whose relevance is computed at a time.
            inject: Coefficients by the name of a module output or graph node: relevance starts there, with
                ``R = x * c``, in place of the target. At an op that a batch norm was merged into, they are of the op's
                own output.
            keep: Masks by such names, shaped as the node or expanding to it: what arrives there is multiplied by the
                mask and goes on, as conditional relevance (Achtibat et al. 2023). ``read`` shows what arrived.
            kwargs: Keyword arguments of the model.

        Raises:
            CaptureError, MissingRules: At the first call of a signature, as in `fxlrp.compile`.
            SignatureError: If an input is not finite or does not fit the model, or a name of ``inject`` or ``keep``
                is of no node that passes relevance on.
            TargetError: If the target does not select one number of each sample.
            VerificationError: If the program's output is not the model's own (``verify=`` of `fxlrp.compile`).
        """
        with plain_mode():
            if targets is not None:
                if target is not None or inject is not None:
                    raise TargetError("targets= is in place of target= and inject=: give one of the three")
                return self._many(args, kwargs, targets, chunk, keep)
            entry, form, tensors, numbers = self._prepared(args, kwargs, target, inject, keep)
            program, runner = self._programs.program(entry, form)
            question = Question(self._programs.choose, form, tuple(numbers))
            result = make_result(entry, program, list(runner(*tensors, *numbers)), question)
            self._programs.verify(entry, form, (args, kwargs), result.output, tensors)
        return result

    def _many(self, args: Any, kwargs: Any, targets: Any, chunk: int, keep: Mapping[str, Tensor] | None) -> Result:
        entry, leaves, sizes = self._programs.entry(args, kwargs)
        check_finite(entry, leaves)
        form, numbers, masks = lower_targets(entry, sizes, targets, chunk, keep)
        program, _ = self._programs.program(entry, form)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        many = entry.many(form, lambda: ManyTargets(program, len(tensors), len(numbers), self._programs.backend))
        if not entry.admits(sizes):
            return self._many(args, kwargs, targets, chunk, keep)
        question = Question(self._programs.choose, form, tuple(numbers), several=True)
        result = make_result(entry, program, many(tensors, numbers, masks, chunk), question)
        self._programs.verify(entry, ("many", form), (args, kwargs), result.output, tensors)
        return result

    def compile(self, *args: Any, target: Target = None, **kwargs: Any) -> None:
        """Capture and compile for these inputs without running."""
        with plain_mode():
            entry, _, sizes = self._programs.entry(args, kwargs)
            form, _ = lower_target(target, entry.shape(sizes))
            self._programs.program(entry, form)

    def ledger(self, *args: Any, target: Target = None, zero_bias: bool = False, **kwargs: Any) -> Ledger:
        """Account for the relevance of a call: what every node received, passed on and kept.

        Args:
            args: Positional arguments of the model.
            target: As in a call.
            zero_bias: Account for the model with zeros in place of all its additive parameters: what is lost then
                is lost by rules alone.
            kwargs: Keyword arguments of the model.
        """
        with plain_mode():
            shapes = tuple(tuple(t.shape) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))

            def book(entry: CapturedSignature, form: Form) -> LedgerProgram:
                def make() -> LedgerProgram:
                    return LedgerProgram(self._programs.without_biases(args, kwargs) if zero_bias else entry.plan, form)

                kind = form, shapes if zero_bias else ()  # without biases it is another capture, for other sizes
                made: LedgerProgram = entry.reports(kind, make)
                return made

            entry, form, tensors, numbers = self._prepared(args, kwargs, target, emit=book)
            account = book(entry, form)
            return account.close(account.module(*tensors, *numbers))

    def precision_error(self, *args: Any, target: Target = None, **kwargs: Any) -> dict[str, float]:
        """Relative error in norm of each relevance, set against the same relevance pass in float64."""
        with plain_mode():
            entry, form, tensors, numbers = self._prepared(args, kwargs, target)
            program, runner = self._programs.program(entry, form)
            with COMPILE_LOCK:
                return measure_errors(entry.plan, form, program, runner, [*tensors, *numbers])

    def verify(self, *args: Any, target: Target = None, **kwargs: Any) -> Verification:
        """Check the programs on your own model and inputs against what must hold of any.

        The output is the model's; gradient rules give what autograd gives, in float64 and in the type of the model; the
        ledger closes; samples are independent; what runs the program gives what torch gives op by op; relevance is
        linear in the seed. It captures the model a few times more, and copies it in float64.

        Args:
            args: Positional arguments of the model.
            target: As in a call.
            kwargs: Keyword arguments of the model.
        """
        from fxlrp.reports.oracle import verify_case
        from fxlrp.reports.references import Case

        with plain_mode(), COMPILE_LOCK:
            silent = type(self)(
                self.model, replace(self.settings, verify="never")
            )  # a wrong output is a row of the table
            return verify_case(Case(silent, args, kwargs, target))

    def graph(
        self,
        path: str | Path,
        /,
        *args: Any,
        target: Target = None,
        ledger: Ledger | None = None,
        program: bool = False,
        **kwargs: Any,
    ) -> Path:
        """Draw the model with its rules, and its relevance program; return the path.

        With the model's inputs, edges are as wide as the relevance that flows along them for ``target``.

        Args:
            path: A file that ends in ``.html`` (an interactive page with both graphs) or in ``.svg``, ``.png`` or
                ``.pdf`` (drawn by graphviz).
            args: Positional arguments of the model, if wanted.
            target: As in a call.
            ledger: An account whose rows are shown at the nodes.
            program: Draw the relevance program; the page shows it first.
            kwargs: Keyword arguments of the model, if wanted.
        """
        from fxlrp.reports.drawing.graph import list_accounts, write_picture
        from fxlrp.reports.drawing.picture_of_plan import make_picture
        from fxlrp.reports.edge_relevance import measure_flow

        measured = None
        if args or kwargs:
            with plain_mode():
                entry, form, tensors, numbers = self._prepared(args, kwargs, target)
                self._programs.program(entry, form)
                measured = measure_flow(entry.plan, tensors, form, numbers)
        entry, used = self._programs.last
        name, rows = type(self.model).__name__, list_accounts(ledger)
        return write_picture(
            make_picture(entry.plan, self.rules, used, title=name, flow=measured, numbers=rows), path, program
        )

    def save(
        self,
        path: str | Path,
        /,
        *args: Any,
        format: str | None = None,
        target: str = "index",
        sign: Any = None,
        **kwargs: Any,
    ) -> Path:
        """Write the relevance program as an artefact that runs without fxlrp; return the path.

        It takes the model's tensors and a target, so that one artefact explains every output, and it takes batches and
        sequences of other sizes if the model was compiled with ``dynamic_shapes``. Before the file is put in place, its
        results on the given inputs are compared with those of this attributor. Torch traces sizes of 2 and
        more: whether the artefact takes one sample too, or a sequence of one, is found out by captures for these sizes
        (one if the batch is open, three if another size is), whose results must be the same.

        Args:
            path: A file that ends in ``.pt2`` or ``.onnx``. The old one stays until the new one is complete.
            args: Positional arguments of the model, as in a call.
            format: ``"pt2"`` (an archive that `torch.export.load` reads), ``"aoti"`` (machine code of AOTInductor, for
                Python and C++), or ``"onnx"``; by default what the ending says, for ``.pt2`` the first.
            target: ``"index"``: the artefact takes int64 indices of shape ``(batch, dimensions)``, where negative ones
                count from the end and `fxlrp.LARGEST` stands for the largest. ``"seed"``: it takes a coefficient for
                every entry of the output.
            sign: A private key of Ed25519 (path of a PEM file, its content, or a key of ``cryptography``) that signs
                the file, so that `fxlrp.load` can be told to take no other.
            kwargs: Keyword arguments of the model.

        Raises:
            ArtifactError: If the program cannot be written in this format, its results differ, or ``sign`` is no key.
            SignatureError: If ``format`` or ``target`` name nothing, or the inputs do not fit the model.
        """
        from fxlrp.artifacts.save import save_artifact

        with plain_mode(), COMPILE_LOCK:
            return save_artifact(
                self._programs, self.rules, type(self.model).__name__, path, args, kwargs, format, target, sign
            )

    def refresh(self) -> None:
        """Forget what was captured and computed of the model; the next call captures it as it is then.

        Needed after a change that cannot be seen: inside objects that modules hold, such as a configuration or a
        list, or of single entries of a tensor by ways that torch does not count (``tensor.data``, numpy).
        """
        self._programs.refresh()

    @property
    def program(self) -> Program:
        """The program of the last call: ``program.module`` is a plain ``torch.fx.GraphModule``."""
        return self._programs.last[1]

    def coverage(self) -> Coverage:
        """Which op got which rule, for the signature of the last call."""
        return report_coverage(self._programs.last[0].plan, self.rules.name)

    def fixed_sizes(self) -> tuple[FixedSize, ...]:
        """Sizes that ``dynamic_shapes="auto"`` could not leave open, each with the source line that asks for it."""
        return self._programs.last[0].plan.captured.fixed

    def _prepared(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        target: Target,
        inject: Mapping[str, Tensor] | None = None,
        keep: Mapping[str, Tensor] | None = None,
        emit: Callable[[CapturedSignature, Form], object] | None = None,
    ) -> tuple[CapturedSignature, Form, list[Tensor], list[Tensor]]:
        """The signature, the form of the target, and the tensors of inputs and target; emits what will run."""
        entry, leaves, sizes = self._programs.entry(args, kwargs)
        check_finite(entry, leaves)
        form, numbers = lower_conditions(entry, sizes, target, inject, keep)
        (emit or self._programs.program)(entry, form)
        if not entry.admits(sizes):  # the relevance pass asks more of the sizes than the model: capture for these
            return self._prepared(args, kwargs, target, inject, keep, emit)
        device = find_device(entry.plan.captured.explained)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return entry, form, tensors, [t.to(device) for t in numbers]
