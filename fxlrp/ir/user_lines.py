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
LIBRARIES = sys.stdlib_module_names | {"torch", "fxlrp", "sympy", "pytest", "_pytest", "pluggy"}
"""Packages whose code runs a model and is none itself."""


class SourceLine(NamedTuple):
    """A line of source."""

    file: str
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}  {self.code}".rstrip()


def find_raising_line(error: BaseException) -> SourceLine | None:
    """Find the innermost line of the user's code that an error, or one that it came from, went through.

    A model of nothing but torch's layers has only theirs.
    """
    errors = list(iterate_causes(error))
    for part in reversed(errors):
        if line := find_innermost(traceback.walk_tb(part.__traceback__), is_user_frame):
            return line
    if lines := [line for part in errors for line in drop_torch_lines(parse_stack(str(part)))]:
        return lines[-1]
    return find_innermost(traceback.walk_tb(error.__traceback__), is_layer_frame)


def find_running_line() -> SourceLine | None:
    """Find the innermost line of the user's code that is running."""
    return find_innermost(reversed(list(traceback.walk_stack(None))), is_user_frame)


def iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def find_innermost(frames: Iterable[tuple[FrameType, int]], fits: Callable[[FrameType], bool]) -> SourceLine | None:
    """Find the line of the last frame that fits, told by the name of its module, which may lie in any folder."""
    own = [(frame, number) for frame, number in frames if fits(frame)]
    if not own:
        return None
    frame, number = own[-1]
    (summary,) = traceback.StackSummary.extract(iter([(frame, number)]))
    return SourceLine(frame.f_code.co_filename, number, summary.line or "")


def is_user_frame(frame: FrameType) -> bool:
    """Return whether a frame is neither of a package that runs models nor of code that such a package generates."""
    name, code = str(frame.f_globals.get("__name__") or ""), frame.f_code
    made = code.co_filename.startswith("<eval_with_key>") or (not name and code.co_name == "<lambda>")
    return not made and name.partition(".")[0] not in LIBRARIES


def is_layer_frame(frame: FrameType) -> bool:
    """Return whether a frame is of one of torch's layers."""
    name = str(frame.f_globals.get("__name__") or "")
    return name.startswith("torch.nn.modules.") and name.rpartition(".")[2] not in ("module", "container")


def parse_stack(text: str) -> list[SourceLine]:
    """Find the lines that a printed stack names, outermost first; without the code of generated graphs."""
    found = [SourceLine(f["file"], int(f["line"]), (f["code"] or "").strip()) for f in _WRITTEN.finditer(text)]
    return [line for line in found if not line.file.startswith("<eval_with_key>")]


def drop_torch_lines(lines: list[SourceLine]) -> list[SourceLine]:
    """Return the lines that are not torch's, or all if every one is."""
    return [line for line in lines if not line.file.startswith(_TORCH)] or lines
