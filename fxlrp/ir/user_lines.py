"""Which lines of a stack are the user's."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
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
    """The innermost line of the user's code that an error, or one that it came from, went through.

    A model of nothing but torch's layers has only theirs.
    """
    errors = list(chain(error))
    for part in reversed(errors):
        if line := innermost(traceback.walk_tb(part.__traceback__), is_users):
            return line
    if lines := [line for part in errors for line in outside(written(str(part)))]:
        return lines[-1]
    return innermost(traceback.walk_tb(error.__traceback__), is_layer)


def here() -> Line | None:
    """The innermost line of the user's code that is running."""
    return innermost(reversed(list(traceback.walk_stack(None))), is_users)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def innermost(frames: Iterable[tuple[FrameType, int]], fits: Callable[[FrameType], bool]) -> Line | None:
    """The line of the last frame that fits; it is told by the name of its module, which may lie in any folder."""
    own = [(frame, number) for frame, number in frames if fits(frame)]
    if not own:
        return None
    frame, number = own[-1]
    (summary,) = traceback.StackSummary.extract(iter([(frame, number)]))
    return Line(frame.f_code.co_filename, number, summary.line or "")


def is_users(frame: FrameType) -> bool:
    """Whether a frame is neither of a package that runs models nor of code that such a package generates."""
    name, code = str(frame.f_globals.get("__name__") or ""), frame.f_code
    made = code.co_filename.startswith("<eval_with_key>") or (not name and code.co_name == "<lambda>")
    return not made and name.partition(".")[0] not in OTHERS


def is_layer(frame: FrameType) -> bool:
    """Whether a frame is of one of torch's layers."""
    name = str(frame.f_globals.get("__name__") or "")
    return name.startswith("torch.nn.modules.") and name.rpartition(".")[2] not in ("module", "container")


def written(text: str) -> list[Line]:
    """The lines that a printed stack names, outermost first; without the code of generated graphs."""
    found = [Line(f["file"], int(f["line"]), (f["code"] or "").strip()) for f in _WRITTEN.finditer(text)]
    return [line for line in found if not line.file.startswith("<eval_with_key>")]


def outside(lines: list[Line]) -> list[Line]:
    """The lines that are not torch's, or all if every one is."""
    return [line for line in lines if not line.file.startswith(_TORCH)] or lines
