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
from fxlrp.cli.arguments import convert_to_model_dtype, read_inputs
from fxlrp.errors import FxlrpError, MissingRules, SignatureError
from fxlrp.reports.terminal import make_console


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that users can mend into one message and exit status 2."""

    @wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except (FxlrpError, OSError) as error:
            if options["debug"]:
                raise
            hint = "\nOn the command line that is --no-strict." if isinstance(error, MissingRules) else ""
            make_console(stderr=True).print(Text.assemble(("Error: ", "bold red"), f"{error}{hint}"), soft_wrap=True)
            raise typer.Exit(2) from None

    return run


@contextmanager
def show_progress(what: str) -> Iterator[None]:
    """Show that something goes on; ops without a rule are told of in the report and not by a warning."""
    with make_console(stderr=True).status(what), models.silence_logging(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ ops? on the path", UserWarning)
        yield


def prepare_model(model: str, files: Sequence[Path] | None, text: str | None, trust: bool) -> models.LoadedModel:
    """Load a model and what to call it with."""
    if files and text is not None:
        raise SignatureError("give --input or --text, not both")
    with make_console(stderr=True).status("loading"):
        loaded = models.load_model(model, text, trust)
        if files:
            args, kwargs = convert_to_model_dtype(loaded.model, read_inputs(files))
            loaded = replace(loaded, args=args, kwargs=kwargs, sentence=None)
    if not loaded.args and not loaded.kwargs:
        raise SignatureError(
            f"{model} comes without example inputs: give --input FILE, or let the callable return (module, args)"
        )
    return loaded
