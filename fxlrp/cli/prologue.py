"""What the commands have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from fxlrp.cli import models
from fxlrp.cli.arguments import converted, read_inputs
from fxlrp.errors import FxlrpError, MissingRules, SignatureError
from fxlrp.reports.terminal import console


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that users can mend into one message and exit status 2."""

    @wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except (FxlrpError, OSError) as error:
            if options["debug"]:
                raise
            hint = "\nOn the command line that is --no-strict." if isinstance(error, MissingRules) else ""
            console(stderr=True).print(Text.assemble(("Error: ", "bold red"), f"{error}{hint}"), soft_wrap=True)
            raise typer.Exit(2) from None

    return run


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something goes on; ops without a rule are told of in the report and not by a warning."""
    with console(stderr=True).status(what), models.silenced(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ ops? on the path", UserWarning)
        yield


def prepared(model: str, files: Sequence[Path] | None, text: str | None, trust: bool) -> models.Loaded:
    """The model and what to call it with."""
    if files and text is not None:
        raise SignatureError("give --input or --text, not both")
    with console(stderr=True).status("loading"):
        loaded = models.load(model, text, trust)
        if files:
            args, kwargs = converted(loaded.model, read_inputs(files))
            loaded = replace(loaded, args=args, kwargs=kwargs, sentence=None)
    if not loaded.args and not loaded.kwargs:
        raise SignatureError(
            f"{model} comes without example inputs: give --input FILE, or let the callable return (module, args)"
        )
    return loaded
