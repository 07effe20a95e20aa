"""Which rooms of the house a call passes through."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import fxlrp

HOUSE = Path(fxlrp.__file__).parent
GROUND = ("__init__", "ir", "_torch", "cache", "errors")
"""The door, and what every room stands on; none is a stop on a journey."""


@cache
def find_room(file: str) -> str | None:
    """Return the room that a source file is in; None if that is the ground, or outside of the house."""
    path = Path(file)
    for floor in (HOUSE, HOUSE.parent):
        if path.is_relative_to(floor):
            room = path.relative_to(floor).parts[0].removesuffix(".py")
            known = room not in GROUND if floor == HOUSE else room in ("passes", "rules")
            return room if known else None
    return None


def count_entries(call: Callable[[], Any]) -> Counter[str]:
    """Count how often a call enters each room from another one; rules are part of who applies or asks them."""
    found = Counter[str]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        room = find_room(frame.f_code.co_filename)
        if event != "call" or room is None or frame.f_code.co_name == "<module>":
            return
        caller = frame.f_back
        while caller is not None and find_room(caller.f_code.co_filename) is None:
            caller = caller.f_back
        before = find_room(caller.f_code.co_filename) if caller is not None else None
        if before != room and not (room == "rules" and before in ("plan", "emit")):
            found[room] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found
