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
from fxlrp.capture.explained_output import pick
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
from fxlrp.cli.prologue import prepared, reported, working
from fxlrp.errors import SignatureError
from fxlrp.ir import targets
from fxlrp.reports.terminal import console, show_words
from fxlrp.session.result import Result

OF_MODELS = ("text", "rules", "output", "ledger", "zero_bias", "strict", "trust")
OF_ARTIFACTS = ("key", "allow_native_code")
"""Options that one of the two has no use for."""


@reported
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
        refuse(context, OF_MODELS, "an artefact has its model and its rules inside")
        explain_artifact(Path(model), input or (), target, save, allow_native_code=allow_native_code, key=key)
        return
    refuse(context, OF_ARTIFACTS, f"{model} is no artefact of fxlrp")
    loaded = prepared(model, input, text, trust)
    wanted = loaded.target if target is None else parse_target(target)
    attributor = compile(loaded.model, rules=rules, output=parse_output(output), strict=strict)
    with working("explaining"):
        result = attributor(*loaded.args, target=wanted, **loaded.kwargs)
    y = pick(result.output, parse_output(output))
    y = y if y.ndim else y.reshape(1)
    relevances = by_name(result, attributor.program.relevances)
    show(f"{type(loaded.model).__name__} with the rules {rules}", y, wanted, relevances, result.warnings, loaded.token)
    out = console()
    report = attributor.coverage()
    if report.covered < report.live:
        out.print(f"{report.live - report.covered} of {report.live} live ops have no rule; the plain adjoint is used.")
    if loaded.sentence is not None and "input_ids" in relevances:
        out.print()
        show_words(out, loaded.sentence.words(relevances["input_ids"][0].tolist()))
    if ledger or zero_bias:
        with working("accounting"):
            book = attributor.ledger(*loaded.args, target=wanted, zero_bias=zero_bias, **loaded.kwargs)
        out.print()
        out.print(book.table())
    write(save, y, relevances)


def refuse(context: typer.Context, options: Sequence[str], reason: str) -> None:
    """Say that an option means nothing here, rather than leave it out."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SignatureError(f"--{name.replace('_', '-')} is not for this: {reason}")


def explain_artifact(path: Path, files: Sequence[Path], target: str | None, save: Path | None, **options: Any) -> None:
    """Run an artefact and account for what it explains."""
    with working("loading"):
        artifact = load(path, **options)
    about = artifact.manifest
    if not files:
        raise SignatureError(f"{path} comes without example inputs: give --input FILE\n{about.signature()}")
    if about.explained.name not in [spec.name for spec in about.outputs]:
        raise SignatureError(f"{path} explains a number that it does not return: use `fxlrp run`")
    args, kwargs = read_inputs(files)
    wanted = None if target is None else parse_target(target)
    with working("explaining"):
        result = artifact(*args, target=wanted, **kwargs)
    named = result.output if isinstance(result.output, dict) else {}
    y = named.get(about.explained.name.removeprefix("output."), result.output)
    found = [spec.name.removeprefix("relevance.") for spec in about.outputs if spec.name.startswith("relevance.")]
    relevances = by_name(result, found)
    show(f"{about.model} with the rules {about.rules}", y, wanted, relevances, result.warnings)
    write(save, y, relevances)


def by_name(result: Result, names: Sequence[str]) -> dict[str, Tensor]:
    """Every relevance by the name of its input."""
    return {names[0]: result.relevance} if isinstance(result.relevance, Tensor) else dict(result.relevance)


def show(
    title: str,
    y: Tensor,
    target: targets.Target,
    relevances: Mapping[str, Tensor],
    warnings: Sequence[str],
    token: Callable[[int], str] | None = None,
) -> None:
    """Print what was explained, where it went, and what speaks against it."""
    out = console()
    out.print(f"{title}; output of shape {tuple(y.shape)}\n", markup=False)
    out.print(account(y, target, relevances, token))
    for warning in warnings:
        out.print(f"Warning: {warning}", style="yellow", soft_wrap=True, markup=False)


def write(path: Path | None, y: Tensor, relevances: Mapping[str, Tensor]) -> None:
    """Write relevance and output to a file, if one is asked for."""
    if path is None:
        return
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    arrays = {f"relevance.{name}": r.numpy() for name, r in relevances.items()}
    np.savez(path, allow_pickle=False, output=y.double().numpy(), **arrays)
    console().print(f"Wrote {path}", soft_wrap=True, markup=False)


def account(
    y: Tensor, target: targets.Target, relevances: Mapping[str, Tensor], token: Callable[[int], str] | None
) -> Table:
    """What is explained of each sample, and the sum of relevance by input."""
    form, numbers = targets.lower(target, tuple(y.shape))
    seed = targets.seed(form, y, numbers)
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
