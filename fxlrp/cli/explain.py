"""The command that explains: a model, or an artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fxlrp.cli import options
from fxlrp.cli.prologue import prepare_model, report_errors, show_progress
from fxlrp.errors import SignatureError
from fxlrp.reports.terminal import make_console, show_words

MODEL_OPTIONS = ("text", "rules", "output", "ledger", "zero_bias", "strict", "trust")
ARTIFACT_OPTIONS = ("key", "allow_native_code")
"""Options that one of the two has no use for."""


@report_errors
def explain(
    context: typer.Context,
    model: options.Model,
    input: options.Input = None,
    text: options.Text = None,
    target: options.Target = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    save: Annotated[Path | None, typer.Option(help="Write relevance and output to this .npz file.")] = None,
    ledger: Annotated[bool, typer.Option("--ledger", help="Account for the relevance that did not arrive.")] = False,
    zero_bias: Annotated[
        bool, typer.Option("--zero-bias", help="That account with all biases at zero: what rules alone lose.")
    ] = False,
    strict: options.Strict = True,
    trust: options.Trust = False,
    key: options.Key = None,
    allow_native_code: options.NativeCode = False,
    debug: options.Debug = False,
) -> None:
    """Attribute one output of a model, or of an artefact of `fxlrp export`, to its inputs."""
    from fxlrp.capture.explained_output import pick_output
    from fxlrp.cli.explanation import Explanation, explain_artifact
    from fxlrp.cli.models import is_artifact

    if is_artifact(model):
        refuse_options(context, MODEL_OPTIONS, "an artefact has its model and its rules inside")
        found = explain_artifact(Path(model), input or (), target, allow_native_code=allow_native_code, key=key)
        found.show()
        found.write(save)
        return
    refuse_options(context, ARTIFACT_OPTIONS, f"{model} is no artefact of fxlrp")
    loaded = prepare_model(model, input, text, trust, target)
    attributor = loaded.compile(rules, output, strict=strict)
    with show_progress("explaining"):
        result = attributor(*loaded.args, target=loaded.target, **loaded.kwargs)
    title = f"{type(loaded.model).__name__} with the rules {rules}"
    y = pick_output(result.output, options.parse_output(output))
    found = Explanation.of(result, attributor.program.relevances, title, y, loaded.target, loaded.token)
    found.show()
    out, report = make_console(), attributor.coverage()
    if missing := report.live - report.covered:
        out.print(f"{missing} of {report.live} live ops have no rule; the plain adjoint is used.")
    for choice in report.choices:
        out.print(f"Chosen: {choice}", soft_wrap=True, markup=False)
    if loaded.sentence is not None and "input_ids" in found.relevances:
        out.print()
        show_words(out, loaded.sentence.words(found.relevances["input_ids"][0].tolist()))
    if ledger or zero_bias:
        with show_progress("accounting"):
            book = attributor.ledger(*loaded.args, target=loaded.target, zero_bias=zero_bias, **loaded.kwargs)
        out.print()
        out.print(book.table())
    found.write(save)


def refuse_options(context: typer.Context, names: Sequence[str], reason: str) -> None:
    """Refuse options that mean nothing here, rather than ignore them.

    Raises:
        SignatureError: If one is given.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SignatureError(f"--{name.replace('_', '-')} is not for this: {reason}")
