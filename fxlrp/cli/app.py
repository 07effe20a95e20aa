"""The application of the command line: its commands in the order of its help, and those that list what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.artifact_commands import batch, run
from fxlrp.cli.demo import demo
from fxlrp.cli.explain import explain
from fxlrp.cli.model_commands import bench, coverage, export, graph, tune, verify
from fxlrp.cli.new_rule import new_rule
from fxlrp.cli.prologue import report_errors, write_report
from fxlrp.cli.serve import serve
from fxlrp.reports.terminal import make_console

app = typer.Typer(
    no_args_is_help=True,
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
        make_console().print(f"fxlrp {fxlrp.__version__}")
        raise typer.Exit


@app.callback()
def take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options of the program itself; its help is that of the application."""


for command in (demo, explain, coverage, verify, graph, bench, tune, export, run, serve, batch, new_rule):
    app.command()(command)


@app.command(name="presets")
@report_errors
def list_presets(debug: options.Debug = False) -> None:
    """List the rule sets."""
    table = Table("preset", "what it is", box=None)
    for name, summary in fxlrp.presets().items():
        table.add_row(name, summary)
    make_console().print(table)


@app.command(name="rules")
@report_errors
def list_rules(
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, as a Markdown page.")] = None,
    debug: options.Debug = False,
) -> None:
    """List every op that has a rule."""
    from fxlrp.api import load_extensions
    from fxlrp.reports import rule_catalogue as catalogue

    load_extensions()
    rows = catalogue.list_rules()
    if markdown is None:
        make_console().print(catalogue.make_table(rows))
    else:
        write_report(markdown, catalogue.write_markdown(rows))
