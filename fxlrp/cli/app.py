"""The command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fxlrp import __version__
from fxlrp.api import compile, load_extensions, presets
from fxlrp.cli import artifacts, explain, serve
from fxlrp.cli import bench as timing
from fxlrp.cli import demo as demos
from fxlrp.cli.new_rule import new_rule
from fxlrp.cli.options import (
    Backend,
    Debug,
    Input,
    Model,
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
from fxlrp.demos import sentences
from fxlrp.reports.rule_catalogue import list_rules as rule_table
from fxlrp.reports.rule_catalogue import make_table, write_markdown
from fxlrp.reports.terminal import make_console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Explain any PyTorch model: fxlrp compiles it into a program that returns, with each output, the relevance of "
    "every input (Layer-wise Relevance Propagation, AttnLRP, gradients).\n\n"
    "Begin with `fxlrp demo`, then try your own model with `fxlrp coverage package.module:callable`.",
)


def main() -> None:
    """Run the command line."""
    app()


def show_version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        make_console().print(f"fxlrp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the program itself; its help is that of the application."""


@app.command()
@report_errors
def demo(
    text: Annotated[bool, typer.Option("--text", help="Compare two sentences instead of reading digits.")] = False,
    first: Annotated[str, typer.Option(help="First sentence, with --text.")] = sentences.FIRST_SENTENCE,
    second: Annotated[str, typer.Option(help="Second sentence, with --text.")] = sentences.SECOND_SENTENCE,
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("fxlrp-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data split and the training.")] = 0,
    debug: Debug = False,
) -> None:
    """Train a small network on digits (or load a sentence encoder), explain it, and write pictures."""
    if text or (first, second) != (sentences.FIRST_SENTENCE, sentences.SECOND_SENTENCE):
        demos.demo_sentences(first, second, folder)
    else:
        demos.demo_digits(folder, seed)


app.command()(explain.explain)


@app.command()
@report_errors
def coverage(
    model: Model,
    input: Input = None,
    text: TextInput = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    strict: Strict = True,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Show which op of a model gets which rule."""
    loaded = prepare_model(model, input, text, trust)
    attributor = compile(loaded.model, rules=rules, output=parse_output(output), strict=strict)
    with show_progress("compiling"):
        attributor.compile(*loaded.args, target=loaded.target, **loaded.kwargs)
    report = attributor.coverage()
    make_console().print(report.table())
    if json is not None:
        json.write_text(report.to_json() + "\n")
        make_console().print(f"Wrote {json}", soft_wrap=True, markup=False)


@app.command()
@report_errors
def verify(
    model: Model,
    input: Input = None,
    text: TextInput = None,
    target: TargetOption = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    backend: Backend = "eager",
    json: Annotated[Path | None, typer.Option(help="Write the checks to this file, too.")] = None,
    strict: Strict = True,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Check fxlrp on your own model: output, gradients, ledger, batches, backend, seeds. Exit status 1 if one fails."""
    loaded = prepare_model(model, input, text, trust)
    wanted = loaded.target if target is None else parse_target(target)
    attributor = compile(loaded.model, rules=rules, output=parse_output(output), backend=backend, strict=strict)
    with show_progress("checking"):
        found = attributor.verify(*loaded.args, target=wanted, **loaded.kwargs)
    make_console().print(found.table())
    if json is not None:
        json.write_text(found.to_json() + "\n")
        make_console().print(f"Wrote {json}", soft_wrap=True, markup=False)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
@report_errors
def graph(
    model: Model,
    input: Input = None,
    text: TextInput = None,
    target: TargetOption = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    out: Annotated[
        Path, typer.Option(help="Where to write: .html (an interactive page), .svg, .png or .pdf (drawn by graphviz).")
    ] = Path("model.html"),
    program: Annotated[bool, typer.Option("--program", help="Draw the relevance program, not the model.")] = False,
    strict: Strict = False,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Draw a model: what gets which rule, where relevance flows, what has no rule."""
    loaded = prepare_model(model, input, text, trust)
    wanted = loaded.target if target is None else parse_target(target)
    attributor = compile(loaded.model, rules=rules, output=parse_output(output), strict=strict)
    with show_progress("drawing"):
        attributor.graph(out, *loaded.args, target=wanted, program=program, **loaded.kwargs)
    report = attributor.coverage()
    if report.covered < report.live:
        make_console().print(
            f"{report.live - report.covered} of {report.live} live ops have no rule: red in the picture."
        )
    make_console().print(f"Wrote {out}", soft_wrap=True, markup=False)


@app.command()
@report_errors
def bench(
    model: Model,
    input: Input = None,
    text: TextInput = None,
    target: TargetOption = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    backend: Backend = "eager",
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Round the products of the relevance pass.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="How often everything runs.")] = 10,
    strict: Strict = True,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Measure how long the model, its gradient and its relevance take."""
    loaded = prepare_model(model, input, text, trust)
    loaded = loaded if target is None else replace(loaded, target=parse_target(target))
    precision = "bfloat16" if bfloat16 else None
    with show_progress("measuring"):
        times = timing.measure_times(loaded, rules, backend, precision, parse_output(output), strict, repeats)
    make_console().print(times.table())
    make_console().print(times.loss(), soft_wrap=True, markup=False)


for command in (artifacts.export, artifacts.run, serve.serve, artifacts.batch, new_rule):
    app.command()(command)


@app.command(name="presets")
@report_errors
def list_presets(debug: Debug = False) -> None:
    """List the rule sets."""
    table = Table("preset", "what it is", box=None)
    for name, summary in presets().items():
        table.add_row(name, summary)
    make_console().print(table)


@app.command(name="rules")
@report_errors
def list_rules(
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, as a Markdown page.")] = None,
    debug: Debug = False,
) -> None:
    """List every op that has a rule."""
    load_extensions()
    rows = rule_table()
    if markdown is None:
        make_console().print(make_table(rows))
    else:
        markdown.write_text(write_markdown(rows))
        make_console().print(f"Wrote {markdown}", soft_wrap=True, markup=False)
