"""The application of the command line: its commands in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from fxlrp import __version__
from fxlrp.cli.artifact_commands import batch, run
from fxlrp.cli.demo import demo
from fxlrp.cli.explain import explain
from fxlrp.cli.listings import list_presets, list_rules
from fxlrp.cli.model_commands import bench, coverage, export, graph, verify
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
        make_console().print(f"fxlrp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options of the program itself; its help is that of the application."""


for command in (demo, explain, coverage, verify, graph, bench, export, run, serve, batch):
    app.command()(command)
app.command(name="presets")(list_presets)
app.command(name="rules")(list_rules)
