"""What the commands have in common: how they fail, what they show meanwhile, and how they load a model.

What needs torch is imported in the functions, here and in the modules of commands, so that help and completion are
there at once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from fxlrp.cli.options import parse_target
from fxlrp.errors import FxlrpError, MissingRules, SignatureError
from fxlrp.reports.terminal import make_console

if TYPE_CHECKING:
    from fxlrp.cli.models import LoadedModel


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
    """Show that something goes on."""
    with make_console(stderr=True).status(what), keep_quiet():
        yield


@contextmanager
def keep_quiet() -> Iterator[None]:
    """Keep what is in reports from being told by logs and warnings too, such as ops without a rule."""
    with silence_logging(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ ops? on the path", UserWarning)
        yield


@contextmanager
def silence_logging() -> Iterator[None]:
    """Keep torch from logging the tracebacks of errors that are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def print_line(text: str) -> None:
    """Print a line as it is, however long."""
    make_console().print(text, soft_wrap=True, markup=False)


def write_report(path: Path | None, text: str) -> None:
    """Write a text to a file, if one is asked for."""
    if path is not None:
        path.write_text(text)
        print_line(f"Wrote {path}")


def prepare_model(
    model: str, files: Sequence[Path] | None, text: str | None, trust: bool, target: str | None = None
) -> LoadedModel:
    """Load a model, what to call it with, and what to explain.

    Args:
        model: As it is named on the command line.
        files: Of inputs.
        text: For a model with a tokenizer.
        trust: Whether a file of torch.export.save may be loaded.
        target: What to explain, as it is typed; by default what the model says itself.

    Raises:
        ArtifactError: If a saved model cannot be loaded.
        FxlrpError: If the name leads to no model.
        SignatureError: If inputs are missing, cannot be read, or are given twice.
        TargetError: If the target cannot be read.
    """
    from fxlrp.cli.arguments import convert_to_model_dtype, read_inputs
    from fxlrp.cli.models import load_model

    if files and text is not None:
        raise SignatureError("give --input or --text, not both")
    with make_console(stderr=True).status("loading"):
        loaded = load_model(model, text, trust)
        if files:
            args, kwargs = convert_to_model_dtype(loaded.model, read_inputs(files))
            loaded = replace(loaded, args=args, kwargs=kwargs, sentence=None)
    if not loaded.args and not loaded.kwargs:
        raise SignatureError(
            f"{model} comes without example inputs: give --input FILE, or let the callable return (module, args)"
        )
    return loaded if target is None else replace(loaded, target=parse_target(target))
