"""What `fxlrp.compile` returns: a model together with its relevance programs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp import passes
from fxlrp._torch import TreeSpec, tree_flatten
from fxlrp.backends import Runner, backend
from fxlrp.capture import capture
from fxlrp.conditions import conditioned, several
from fxlrp.coverage import Coverage, coverage
from fxlrp.errors import SignatureError, TargetError
from fxlrp.ledger import Book, Ledger
from fxlrp.many import Many
from fxlrp.outputs import Objective, Output
from fxlrp.passes.constants import remove_biases
from fxlrp.passes.order import MEMORY
from fxlrp.passes.precision import PRECISION
from fxlrp.pipeline import Plan, lower, plan
from fxlrp.precision import errors
from fxlrp.program import Captured, Program
from fxlrp.results import Result, pack
from fxlrp.rulesets import RuleSet
from fxlrp.signatures import Entry, bind, check_finite, plain_mode, signature
from fxlrp.sizes import Fixed
from fxlrp.targets import FORMS, Form, Target, example_targets
from fxlrp.targets import lower as lower_target

CACHE = 16
"""Programs kept per attributor, least recently used out first."""


class Attributor:
    """A compiled model: call it with the model's inputs and a target.

    Programs are made at the first call of each input signature and kept; see `fxlrp.compile`.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        *,
        rules: RuleSet,
        read: Sequence[str] = (),
        output: Output = None,
        objective: Objective = None,
        dynamic_shapes: Any = None,
        backend_name: str = "eager",
        memory: str = "normal",
        precision: str | None = None,
        strict: bool = True,
    ) -> None:
        if precision not in PRECISION:
            raise SignatureError(f"precision={precision!r} is none of {', '.join(map(repr, PRECISION))}")
        if memory not in MEMORY:
            raise SignatureError(f"memory={memory!r} is none of {', '.join(map(repr, MEMORY))}")
        self.model = model
        self.rules = rules
        self._read = tuple(read)
        self._output, self._objective = output, objective
        self._dynamic_shapes = dynamic_shapes
        self._backend: Callable[[Program], Runner] = backend(backend_name)
        self._saving = *PRECISION[precision], *MEMORY[memory]
        self._strict = strict
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._captures = 0
        self._last: tuple[Entry, Program] | None = None

    def __repr__(self) -> str:
        return f"Attributor({type(self.model).__name__}, rules={self.rules.name!r}, {len(self._entries)} signatures)"

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
                ``R = x * c``, in place of the target.
            keep: Masks by such names, shaped as the node or expanding to it: what arrives there is multiplied by the
                mask and goes on, as conditional relevance (Achtibat et al. 2023). ``read`` shows what arrived.
            kwargs: Keyword arguments of the model.

        Raises:
            CaptureError, MissingRules: At the first call of a signature, as in `fxlrp.compile`.
            SignatureError: If an input is not finite or does not fit the model, or a name of ``inject`` or ``keep``
                is of no node that passes relevance on.
            TargetError: If the target does not select one number of each sample.
        """
        with plain_mode():
            if targets is not None:
                if target is not None or inject is not None:
                    raise TargetError("targets= is in place of target= and inject=: give one of the three")
                return self._many(args, kwargs, targets, chunk, keep)
            entry, form, tensors, numbers = self._prepared(args, kwargs, target, inject, keep)
            program, runner = self._program(entry, form)
            flat = list(runner(*tensors, *numbers))
        return pack(entry, program, flat)

    def _many(self, args: Any, kwargs: Any, targets: Any, chunk: int, keep: Mapping[str, Tensor] | None) -> Result:
        entry, leaves, sizes = self._entry(args, kwargs)
        check_finite(entry, leaves)
        form, numbers, masks = several(entry, sizes, targets, chunk, keep)
        program, _ = self._program(entry, form)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if form not in entry.many:
            entry.many[form] = Many(program, len(tensors), len(numbers), self._backend)
        return pack(entry, program, entry.many[form](tensors, numbers, masks, chunk))

    def compile(self, *args: Any, target: Target = None, **kwargs: Any) -> None:
        """Capture and compile for these inputs without running."""
        with plain_mode():
            entry, _, sizes = self._entry(args, kwargs)
            form, _ = lower_target(target, entry.shape(sizes))
            self._program(entry, form)

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
            entry, form, tensors, numbers = self._prepared(args, kwargs, target)
            if (form, zero_bias) not in entry.books:
                plan = self._without_biases(args, kwargs) if zero_bias else entry.plan
                entry.books[form, zero_bias] = Book(plan, form)
            book = entry.books[form, zero_bias]
            return book.close(book.module(*tensors, *numbers))

    def precision_error(self, *args: Any, target: Target = None, **kwargs: Any) -> dict[str, float]:
        """Relative error in norm of each relevance, set against the same relevance pass in float64."""
        with plain_mode():
            entry, form, tensors, numbers = self._prepared(args, kwargs, target)
            return errors(entry.plan, form, *self._program(entry, form), [*tensors, *numbers])

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
        from fxlrp.flow import flow
        from fxlrp.graph import accounts, draw
        from fxlrp.views import picture

        measured = None
        if args or kwargs:
            with plain_mode():
                entry, form, tensors, numbers = self._prepared(args, kwargs, target)
                self._program(entry, form)
                measured = flow(entry.plan, tensors, form, numbers)
        entry, used = self._used()
        name, rows = type(self.model).__name__, accounts(ledger)
        return draw(picture(entry.plan, self.rules, used, title=name, flow=measured, numbers=rows), path, program)

    def save(
        self,
        path: str | Path,
        /,
        *args: Any,
        format: str | None = None,
        target: str = "index",
        **kwargs: Any,
    ) -> Path:
        """Write the relevance program as an artefact that runs without fxlrp; return the path.

        It takes the model's tensors and a target, so that one artefact explains every output, and it takes batches and
        sequences of other sizes if the model was compiled with ``dynamic_shapes``. Before the file is put in place, its
        results on the given inputs are compared with those of this attributor.

        Args:
            path: A file that ends in ``.pt2`` or ``.onnx``. The old one stays until the new one is complete.
            args: Positional arguments of the model, as in a call.
            format: ``"pt2"`` (an archive that `torch.export.load` reads), ``"aoti"`` (machine code of AOTInductor, for
                Python and C++), or ``"onnx"``; by default what the ending says, for ``.pt2`` the first.
            target: ``"index"``: the artefact takes int64 indices of shape ``(batch, dimensions)``, where a negative one
                stands for the largest. ``"seed"``: it takes a coefficient for every entry of the output.
            kwargs: Keyword arguments of the model.

        Raises:
            ArtifactError: If the program cannot be written in this format, or its results differ.
            SignatureError: If ``format`` or ``target`` name nothing, or the inputs do not fit the model.
        """
        from fxlrp.loading import check_same
        from fxlrp.saving import export, write

        if target not in FORMS:
            raise SignatureError(
                f"target={target!r} is none of {', '.join(map(repr, FORMS))}: which kind it shall take"
            )
        path, form = Path(path), FORMS[target]
        with plain_mode():
            entry, leaves, sizes = self._entry(args, kwargs)
            check_finite(entry, leaves)
            program, _ = self._program(entry, form)
            exported = export(entry.plan, program, self.rules, type(self.model).__name__)
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            tensors += example_targets(form, entry.shape(sizes), tensors[0].device)
            with write(exported, path, format) as new:
                check_same(new, tensors, program.module(*tensors))
        return path

    def _without_biases(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
        args, kwargs = bind(self.model, args, kwargs)
        captured = self._captured(args, kwargs)
        passes.run(captured.module, passes.CANONICAL)
        remove_biases(captured)
        return plan(captured, self.rules, (), self._strict)

    @property
    def program(self) -> Program:
        """The program of the last call: ``program.module`` is a plain ``torch.fx.GraphModule``."""
        return self._used()[1]

    def coverage(self) -> Coverage:
        """Which op got which rule, for the signature of the last call."""
        return coverage(self._used()[0].plan, self.rules.name)

    def fixed_sizes(self) -> tuple[Fixed, ...]:
        """Sizes that ``dynamic_shapes="auto"`` could not leave open, each with the source line that asks for it."""
        return self._used()[0].plan.captured.fixed

    def _used(self) -> tuple[Entry, Program]:
        if self._last is None:
            raise SignatureError(
                "nothing is captured yet: call the attributor once, or compile with example inputs, args=(x,)"
            )
        return self._last

    def _prepared(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        target: Target,
        inject: Mapping[str, Tensor] | None = None,
        keep: Mapping[str, Tensor] | None = None,
    ) -> tuple[Entry, Form, list[Tensor], list[Tensor]]:
        """The signature, the form of the target, and the tensors of inputs and target."""
        entry, leaves, sizes = self._entry(args, kwargs)
        check_finite(entry, leaves)
        form, numbers = conditioned(entry, sizes, target, inject, keep)
        device = entry.plan.captured.explained.meta["val"].device
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return entry, form, tensors, [t.to(device) for t in numbers]

    def _entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Entry, list[Any], dict[Any, int]]:
        """The captured signature that the inputs fit, made if there is none."""
        args, kwargs = bind(self.model, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        for key in reversed(self._entries):
            entry = self._entries[key]
            if entry.spec == spec and (sizes := entry.sizes(leaves)) is not None:
                self._entries.move_to_end(key)
                return entry, leaves, sizes
        entry = self._capture(args, kwargs, leaves, spec)
        found = entry.sizes(leaves)
        if found is None:
            raise SignatureError(
                f"these inputs do not fit the program that was exported\n{signature(entry.plan.captured)}"
            )
        return entry, leaves, found

    def _capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], spec: TreeSpec) -> Entry:
        captured = self._captured(args, kwargs)
        if captured.in_spec != spec:
            raise SignatureError(
                "give the exported program its inputs as at its export: by position what was by position, by keyword "
                f"what was by keyword\n{signature(captured)}"
            )
        kept = tuple(torch.empty(0, device=leaf.device) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        entry = Entry(plan(captured, self.rules, self._read, self._strict), spec, kept)
        self._captures += 1
        self._entries[self._captures] = entry
        if len(self._entries) > CACHE:
            self._entries.popitem(last=False)
        return entry

    def _captured(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        return capture(
            self.model,
            args,
            kwargs,
            output=self._output,
            objective=self._objective,
            dynamic_shapes=self._dynamic_shapes,
        )

    def _program(self, entry: Entry, form: Form) -> tuple[Program, Runner]:
        if form not in entry.programs:
            program = lower(entry.plan, form)
            passes.run(program.module, self._saving)
            entry.programs[form] = program, self._backend(program)
        self._last = entry, entry.programs[form][0]
        return entry.programs[form]
