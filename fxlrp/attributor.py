"""What `fxlrp.compile` returns: a model together with its relevance programs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp.ir.program import FixedSize, Program
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import Target
from fxlrp.session.call import Call
from fxlrp.session.conditions import Condition
from fxlrp.session.explain import compile_program, explain
from fxlrp.session.options import Options
from fxlrp.session.programs import Programs
from fxlrp.session.result import Result

if TYPE_CHECKING:
    from fxlrp.reports.coverage import Coverage
    from fxlrp.reports.ledger import Ledger
    from fxlrp.reports.verification import Verification


class Attributor:
    """A compiled model: call it with the model's inputs and a target.

    Programs are made at the first call of each input signature and kept; see `fxlrp.compile`.
    """

    def __init__(self, model: nn.Module | ExportedProgram, options: Options) -> None:
        self.model = model
        self.rules = options.rules
        self.options = options
        self._programs = Programs(model, options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attributor:
        """Copy the model, with programs of its own."""
        return type(self)(copy.deepcopy(self.model, memo), self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model and the options; the programs are made anew."""
        return type(self), (self.model, self.options)

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
        conditions: Sequence[Condition] | None = None,
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
            chunk: The most of ``targets`` or ``conditions`` whose relevance is computed at a time.
            inject: Coefficients by the name of a module output or graph node: relevance starts there, with
                ``R = x * c``, in place of the target. At an op that a batch norm was merged into, they are of the op's
                own output. Names take the views that ``read=`` takes, such as ``layer4:channels=3``: what a view leaves
                out is 0, and the features of a head share its number.
            keep: Masks by such names, shaped as the node or expanding to it: what arrives there is multiplied by the
                mask and goes on, as conditional relevance (Achtibat et al. 2023). ``read`` shows what arrived.
            conditions: Several of these, such as ``[{"layer4": 3}, {"layer4": [3, 5], "layer3": 1}]``: every relevance
                gets a leading dimension for them, and the model runs once. A number or a list stands for channels that
                go on alone, of dimension 1; write ``name:neurons`` for the last dimension. With ``targets``, one each.
            kwargs: Keyword arguments of the model.

        Raises:
            CaptureError, MissingRules: At the first call of a signature, as in `fxlrp.compile`.
            SignatureError: If an input is not finite or does not fit the model, or a name of ``inject``, ``keep``
                or ``conditions`` is of no node that passes relevance on.
            TargetError: If the target does not select one number of each sample.
            VerificationError: If the program's output is not the model's own (``verify=`` of `fxlrp.compile`).
        """
        return explain(self._programs, Call(args, kwargs, target, targets, chunk, inject, keep, conditions))

    def compile(self, *args: Any, target: Target = None, **kwargs: Any) -> None:
        """Capture and compile for these inputs without running."""
        compile_program(self._programs, Call(args, kwargs, target))

    def with_rules(self, rules: RuleSet) -> Attributor:
        """Return an attributor of the same model for another rule set (`fxlrp.rule_set`).

        What this one has captured is not captured again, unless the two treat batch norms differently.
        """
        other = copy.copy(self)
        other._programs = self._programs.with_rules(rules)
        other.rules, other.options = rules, other._programs.options
        return other

    def ledger(self, *args: Any, target: Target = None, zero_bias: bool = False, **kwargs: Any) -> Ledger:
        """Account for the relevance of a call: what every node received, passed on and kept.

        Args:
            args: Positional arguments of the model.
            target: As in a call.
            zero_bias: Account for the model with zeros in place of all its additive parameters: what is lost then
                is lost by rules alone.
            kwargs: Keyword arguments of the model.
        """
        from fxlrp.reports.ledger_program import measure_ledger

        return measure_ledger(self._programs, Call(args, kwargs, target), zero_bias)

    def precision_error(self, *args: Any, target: Target = None, **kwargs: Any) -> dict[str, float]:
        """Return the relative error in norm of each relevance, set against the same relevance pass in float64."""
        from fxlrp.reports.rounding_error import measure_precision

        return measure_precision(self._programs, Call(args, kwargs, target))

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
        from fxlrp.reports.oracle import verify_call

        return verify_call(self._programs, Call(args, kwargs, target))

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
        from fxlrp.reports.drawing.graph import draw_programs

        call = Call(args, kwargs, target) if args or kwargs else None
        return draw_programs(self._programs, path, call, ledger, program)

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

        return save_artifact(self._programs, path, Call(args, kwargs), format, target, sign)

    def refresh(self) -> None:
        """Forget what was captured and computed of the model; the next call captures it as it is then.

        Needed after a change that cannot be seen: inside objects that modules hold, such as a configuration or a
        list, or of single entries of a tensor by ways that torch does not count (``tensor.data``, numpy).
        """
        self._programs.refresh()

    @property
    def program(self) -> Program:
        """Return the program of the last call: ``program.module`` is a plain ``torch.fx.GraphModule``."""
        return self._programs.last[1]

    def order_parameters(self) -> tuple[str, ...]:
        """Return the names of the model's parameters in the order of their first use, in the graph of the last call."""
        captured = self._programs.last[0].plan.captured
        place = {node: i for i, node in enumerate(captured.graph.nodes)}
        first = {node: min((place[user] for user in node.users), default=len(place)) for node in captured.parameters}
        return tuple(captured.names[node] for node in sorted(first, key=lambda node: (first[node], place[node])))

    def coverage(self) -> Coverage:
        """Report which op got which rule, for the signature of the last call."""
        from fxlrp.reports.coverage import report_coverage

        return report_coverage(self._programs.last[0].plan, self.rules.name)

    def fixed_sizes(self) -> tuple[FixedSize, ...]:
        """Return the sizes that ``dynamic_shapes="auto"`` had to fix, each with the source line that asks for it."""
        return self._programs.last[0].plan.captured.fixed
