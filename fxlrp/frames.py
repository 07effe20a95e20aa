"""Which lines of a stack are the user's."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

_WRITTEN = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in [^\n]*)?(?:\n(?!\s*File ")\s*(?P<code>[^\n]*))?'
)
_TORCH = f"{Path(torch.__file__).parent}/"
OTHERS = sys.stdlib_module_names | {"torch", "fxlrp", "sympy", "pytest", "_pytest", "pluggy"}
"""Packages whose code runs a model and is none itself."""


class Line(NamedTuple):
    """A line of source."""

    file: str
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}  {self.code}".rstrip()


def raised_at(error: BaseException) -> Line | None:
    """The innermost line of the user's code that an error, or one that it came from, went through."""
    for part in reversed(list(chain(error))):
        if line := innermost(traceback.walk_tb(part.__traceback__)):
            return line
    texts = [str(part) for part in chain(error)]
    return next((lines[-1] for text in texts if (lines := outside(written(text)))), None)


def here() -> Line | None:
    """The innermost line of the user's code that is running."""
    return innermost(reversed(list(traceback.walk_stack(None))))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def innermost(frames: Iterable[tuple[FrameType, int]]) -> Line | None:
    """The last frame of a module that is the user's; by its name, as it may lie in any folder."""
    own = [(f, n) for f, n in frames if is_users(str(f.f_globals.get("__name__", "")), f.f_code.co_filename)]
    if not own:
        return None
    frame, number = own[-1]
    (summary,) = traceback.StackSummary.extract(iter([(frame, number)]))
    return Line(frame.f_code.co_filename, number, summary.line or "")


def is_users(module: str, file: str) -> bool:
    """Whether a frame is neither of a package that runs models nor generated."""
    return module.partition(".")[0] not in OTHERS and not file.startswith("<eval_with_key>")


def written(text: str) -> list[Line]:
    """The lines that a printed stack names, outermost first; without the code of generated graphs."""
    found = [Line(f["file"], int(f["line"]), (f["code"] or "").strip()) for f in _WRITTEN.finditer(text)]
    return [line for line in found if not line.file.startswith("<eval_with_key>")]


def outside(lines: list[Line]) -> list[Line]:
    """The lines that are not torch's, or all if every one is."""
    return [line for line in lines if not line.file.startswith(_TORCH)] or lines
