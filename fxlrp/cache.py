"""Values that are made at their first use, kept, and shared by all threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

COMPILE_LOCK = threading.RLock()
"""Held while anything is captured, traced or compiled: torch does these one at a time in a process."""


class Cache(Generic[Key, Value]):
    """The most recently used values by key, each made once whichever threads ask for it.

    Args:
        size: How many are kept; the least recently used goes first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the values that are kept."""
        return len(self._kept)

    def __call__(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made if there is none."""
        found = self.find(key)
        if found is None:
            with COMPILE_LOCK:  # another thread may have made it while this one waited
                found = self.find(key)
                if found is None:
                    found = make()
                    self.put(key, found)
        return found

    def find(self, key: Key) -> Value | None:
        """Return the value of a key, which counts as used; None if there is none."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, and drop what has not been used for longest."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def values(self) -> list[Value]:
        """Return the values, the most recently used first."""
        with self._lock:
            return list(reversed(self._kept.values()))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
