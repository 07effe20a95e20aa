"""The command that explains: a model, or an artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fxlrp.api import compile
from fxlrp.artifacts.load import load
from fxlrp.capture.explained_output import pick_output
from fxlrp.cli import models
from fxlrp.cli.arguments import read_inputs
from fxlrp.cli.options import (
    Debug,
    Input,
    Key,
    Model,
    Native,
    Output,
    Rules,
    Strict,
    TargetOption,
    TextInput,
    Trust,
    parse_output,
    parse_target,
)
from fxlrp.cli.prologue import prepare_model, report_errors, show_progress
from fxlrp.errors import SignatureError
from fxlrp.ir import targets
from fxlrp.reports.terminal import make_console, show_words
from fxlrp.session.result import Result

MODEL_OPTIONS = ("text", "rules", "output", "ledger", "zero_bias", "strict", "trust")
ARTIFACT_OPTIONS = ("key", "allow_native_code")
"""Options that one of the two has no use for."""


@report_errors
def explain(
    context: typer.Context,
    model: Model,
    input: Input = None,
    text: TextInput = None,
    target: TargetOption = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    save: Annotated[Path | None, typer.Option(help="Write relevance and output to this .npz file.")] = None,
    ledger: Annotated[bool, typer.Option("--ledger", help="Account for the relevance that did not arrive.")] = False,
    zero_bias: Annotated[
        bool, typer.Option("--zero-bias", help="That account with all biases at zero: what rules alone lose.")
    ] = False,
    strict: Strict = True,
    trust: Trust = False,
    key: Key = None,
    allow_native_code: Native = False,
    debug: Debug = False,
) -> None:
    """Attribute one output of a model, or of an artefact of `fxlrp export`, to its inputs."""
    if models.is_artifact(model):
        refuse_options(context, MODEL_OPTIONS, "an artefact has its model and its rules inside")
        explain_artifact(Path(model), input or (), target, save, allow_native_code=allow_native_code, key=key)
        return
    refuse_options(context, ARTIFACT_OPTIONS, f"{model} is no artefact of fxlrp")
    loaded = prepare_model(model, input, text, trust)
    wanted = loaded.target if target is None else parse_target(target)
    attributor = compile(loaded.model, rules=rules, output=parse_output(output), strict=strict)
    with show_progress("explaining"):
        result = attributor(*loaded.args, target=wanted, **loaded.kwargs)
    y = pick_output(result.output, parse_output(output))
    y = y if y.ndim else y.reshape(1)
    relevances = name_relevances(result, attributor.program.relevances)
    show_result(
        f"{type(loaded.model).__name__} with the rules {rules}", y, wanted, relevances, result.warnings, loaded.token
    )
    out = make_console()
    report = attributor.coverage()
    if report.covered < report.live:
        out.print(f"{report.live - report.covered} of {report.live} live ops have no rule; the plain adjoint is used.")
    if loaded.sentence is not None and "input_ids" in relevances:
        out.print()
        show_words(out, loaded.sentence.words(relevances["input_ids"][0].tolist()))
    if ledger or zero_bias:
        with show_progress("accounting"):
            book = attributor.ledger(*loaded.args, target=wanted, zero_bias=zero_bias, **loaded.kwargs)
        out.print()
        out.print(book.table())
    write_result(save, y, relevances)


def refuse_options(context: typer.Context, options: Sequence[str], reason: str) -> None:
    """Refuse options that mean nothing here, rather than ignore them."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SignatureError(f"--{name.replace('_', '-')} is not for this: {reason}")


def explain_artifact(path: Path, files: Sequence[Path], target: str | None, save: Path | None, **options: Any) -> None:
    """Run an artefact and account for what it explains."""
    with show_progress("loading"):
        artifact = load(path, **options)
    about = artifact.manifest
    if not files:
        raise SignatureError(f"{path} comes without example inputs: give --input FILE\n{about.signature()}")
    if about.explained.name not in [spec.name for spec in about.outputs]:
        raise SignatureError(f"{path} explains a number that it does not return: use `fxlrp run`")
    args, kwargs = read_inputs(files)
    wanted = None if target is None else parse_target(target)
    with show_progress("explaining"):
        result = artifact(*args, target=wanted, **kwargs)
    named = result.output if isinstance(result.output, dict) else {}
    y = named.get(about.explained.name.removeprefix("output."), result.output)
    found = [spec.name.removeprefix("relevance.") for spec in about.outputs if spec.name.startswith("relevance.")]
    relevances = name_relevances(result, found)
    show_result(f"{about.model} with the rules {about.rules}", y, wanted, relevances, result.warnings)
    write_result(save, y, relevances)


def name_relevances(result: Result, names: Sequence[str]) -> dict[str, Tensor]:
    """Return every relevance by the name of its input."""
    return {names[0]: result.relevance} if isinstance(result.relevance, Tensor) else dict(result.relevance)


def show_result(
    title: str,
    y: Tensor,
    target: targets.Target,
    relevances: Mapping[str, Tensor],
    warnings: Sequence[str],
    token: Callable[[int], str] | None = None,
) -> None:
    """Print what was explained, where it went, and what speaks against it."""
    out = make_console()
    out.print(f"{title}; output of shape {tuple(y.shape)}\n", markup=False)
    out.print(make_result_table(y, target, relevances, token))
    for warning in warnings:
        out.print(f"Warning: {warning}", style="yellow", soft_wrap=True, markup=False)


def write_result(path: Path | None, y: Tensor, relevances: Mapping[str, Tensor]) -> None:
    """Write relevance and output to a file, if one is asked for."""
    if path is None:
        return
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    arrays = {f"relevance.{name}": r.numpy() for name, r in relevances.items()}
    np.savez(path, allow_pickle=False, output=y.double().numpy(), **arrays)
    make_console().print(f"Wrote {path}", soft_wrap=True, markup=False)


def make_result_table(
    y: Tensor, target: targets.Target, relevances: Mapping[str, Tensor], token: Callable[[int], str] | None
) -> Table:
    """Make a table of what is explained of each sample, and of the sum of relevance by input."""
    form, numbers = targets.split_target(target, tuple(y.shape))
    seed = targets.make_seed(form, y, numbers)
    table = Table("sample", "explains", "value")
    for name in relevances:
        table.add_column(Text(f"relevance of {name}"))
    for column in table.columns[2:]:
        column.justify = "right"
    for i, (row, chosen) in enumerate(zip(y, seed, strict=True)):
        index = chosen.nonzero()[0].tolist()
        place = ", ".join(map(str, index)) or "the output"
        label = Text(f"{place} {token(index[-1])!r}" if token is not None else place)
        sums = (f"{float(r[i].sum()):+.4f}" if len(r) == len(y) else "" for r in relevances.values())
        table.add_row(str(i), label, f"{float((row * chosen).sum()):+.4f}", *sums)
    return table
