"""The commands that list what there is: presets and rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.prologue import report_errors, write_report
from fxlrp.reports.terminal import make_console


@report_errors
def list_presets(debug: options.Debug = False) -> None:
    """List the rule sets."""
    table = Table("preset", "what it is", box=None)
    for name, summary in fxlrp.presets().items():
        table.add_row(name, summary)
    make_console().print(table)


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
