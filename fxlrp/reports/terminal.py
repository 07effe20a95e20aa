"""What the commands print on."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fxlrp.reports.drawing.words import Word, colour_words, find_largest, format_signed, number_words

PIPE_WIDTH = 150


def make_console(*, stderr: bool = False) -> Console:
    """Return where to print; of fixed width if that is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def write_table(table: Table) -> str:
    """Write a table as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=PIPE_WIDTH).print(table)
    return buffer.getvalue().rstrip()


@contextmanager
def open_stderr_console() -> Iterator[Console]:
    """Open a console for standard error which still prints where a library's noise is kept from that stream."""
    if not sys.stderr.isatty():
        yield make_console(stderr=True)
        return
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as stream:
        yield Console(file=stream, highlight=False)


def show_words(out: Console, *texts: Sequence[Word]) -> None:
    """Print texts, coloured on a terminal and with numbers elsewhere."""
    largest = find_largest(*texts)
    for words in texts:
        out.print(
            colour_words(words, largest) if out.is_terminal else number_words(words, largest),
            soft_wrap=not out.is_terminal,
        )
        out.print()
    if out.is_terminal:
        legend = [Word(format_signed(share * largest, largest), share) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        out.print(colour_words(legend, 1.0), Text("red speaks for it, blue against\n", "dim"))
