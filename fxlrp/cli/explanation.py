"""What `fxlrp explain` shows and writes, of a model or of an artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from fxlrp.artifacts.load import load
from fxlrp.cli.arguments import read_inputs, write_arrays
from fxlrp.cli.options import parse_target
from fxlrp.cli.prologue import show_progress
from fxlrp.errors import SignatureError
from fxlrp.ir import targets
from fxlrp.reports.terminal import make_console
from fxlrp.session.result import Result


@dataclass(frozen=True)
class Explanation:
    """A result, and what it is of.

    Attributes:
        title: The model and the rules.
        output: The explained output; samples in front.
        target: What of it is explained.
        relevances: Relevance by the name of its input.
        warnings: What speaks against the result.
        token: The text of a token id, if the output is of tokens.
    """

    title: str
    output: Tensor
    target: targets.Target
    relevances: Mapping[str, Tensor]
    warnings: Sequence[str]
    token: Callable[[int], str] | None = None

    @classmethod
    def of(
        cls,
        result: Result,
        names: Sequence[str],
        title: str,
        output: Tensor,
        target: targets.Target,
        token: Callable[[int], str] | None = None,
    ) -> Explanation:
        """Name the parts of a result, whose relevance is a tensor where there is one input."""
        relevance = result.relevance
        relevances = {names[0]: relevance} if isinstance(relevance, Tensor) else dict(relevance)
        output = output if output.ndim else output.reshape(1)
        return cls(title, output, target, relevances, result.warnings, token)

    def show(self) -> None:
        """Print what was explained, where it went, and what speaks against it."""
        out = make_console()
        out.print(f"{self.title}; output of shape {tuple(self.output.shape)}\n", markup=False)
        out.print(self.table())
        for warning in self.warnings:
            out.print(f"Warning: {warning}", style="yellow", soft_wrap=True, markup=False)

    def table(self) -> Table:
        """Make a table of what is explained of each sample, and of the sum of relevance by input."""
        form, numbers = targets.split_target(self.target, tuple(self.output.shape))
        seed = targets.make_seed(form, self.output, numbers)
        table = Table("sample", "explains", "value")
        for name in self.relevances:
            table.add_column(Text(f"relevance of {name}"))
        for column in table.columns[2:]:
            column.justify = "right"
        for i, (row, chosen) in enumerate(zip(self.output, seed, strict=True)):
            index = chosen.nonzero()[0].tolist()
            place = ", ".join(map(str, index)) or "the output"
            label = Text(f"{place} {self.token(index[-1])!r}" if self.token is not None else place)
            parts = self.relevances.values()
            sums = (f"{float(r[i].sum()):+.4f}" if len(r) == len(self.output) else "" for r in parts)
            table.add_row(str(i), label, f"{float((row * chosen).sum()):+.4f}", *sums)
        return table

    def write(self, path: Path | None) -> None:
        """Write relevance and output to a file, if one is asked for."""
        if path is not None:
            path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
            relevances = {f"relevance.{name}": relevance for name, relevance in self.relevances.items()}
            write_arrays(path, {"output": self.output.double(), **relevances})


def explain_artifact(path: Path, files: Sequence[Path], target: str | None, **options: Any) -> Explanation:
    """Run an artefact on inputs from files.

    Raises:
        SignatureError: If there are no inputs, or the artefact does not return what it explains.
    """
    with show_progress("loading"):
        artifact = load(path, **options)
    about = artifact.manifest
    if not files:
        raise SignatureError(f"{path} comes without example inputs: give --input FILE\n{about.signature()}")
    if about.explained.name not in [spec.name for spec in about.outputs]:
        raise SignatureError(f"{path} explains a number that it does not return: use `fxlrp run`")
    args, kwargs = read_inputs(files)
    wanted = parse_target(target)
    with show_progress("explaining"):
        result = artifact(*args, target=wanted, **kwargs)
    named = result.output if isinstance(result.output, dict) else {}
    y = named.get(about.explained.name.removeprefix("output."), result.output)
    names = [spec.name.removeprefix("relevance.") for spec in about.outputs if spec.name.startswith("relevance.")]
    return Explanation.of(result, names, f"{about.model} with the rules {about.rules}", y, wanted)
