"""The process that reads and writes JSON for the service, and what goes through its pipes.

Nothing is imported but Python's own library and modules of this package that need no more, so that the process is
small, there in some milliseconds, and no loss when it is stopped.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from fxlrp.errors import RequestError
from fxlrp.serving.texts import Numbers, TooLarge, parse, shrunk, write

LENGTH = struct.Struct("<Q")
SMALL = 2**18
"""Bytes of a document without its arrays: the other side reads them while others wait."""
ERRORS: dict[str, type[RequestError]] = {"RequestError": RequestError, "TooLarge": TooLarge}

Buffer = bytearray | memoryview
Where = tuple[str | int, ...]
"""The names and positions that lead to a part of a document."""


def split(value: Any, path: Where, found: list[tuple[Where, Numbers]]) -> Any:
    """The document with null in place of each array, which is added to those found."""
    if isinstance(value, Numbers):
        found.append((path, value))
        return None
    if isinstance(value, dict):
        return {name: split(part, (*path, name), found) for name, part in value.items()}
    if isinstance(value, list):
        return [split(part, (*path, i), found) for i, part in enumerate(value)]
    return value


def send(stream: IO[bytes], document: Any, blobs: Sequence[bytes | Buffer] = (), error: str = "") -> None:
    """Write a document and bytes into a pipe.

    Raises:
        TooLarge: If what is left of the document without its arrays is larger than the other side reads.
    """
    found: list[tuple[Where, Numbers]] = []
    skeleton = split(document, (), found)
    parts = [*blobs, *(numbers.data for _, numbers in found)]
    places = [(path, numbers.shape, numbers.types, numbers.code) for path, numbers in found]
    sizes = [len(part) for part in parts]
    head = json.dumps({"document": skeleton, "places": places, "sizes": sizes, "error": error}).encode()
    if len(head) > SMALL:
        raise TooLarge("the body has too much in it that is not numbers: send safetensors")
    stream.write(LENGTH.pack(len(head)) + head)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes], allocate: Callable[[int], Buffer] = bytearray) -> tuple[Any, list[Buffer], str]:
    """Read what `send` wrote: the document, the bytes, and the error.

    Args:
        stream: The pipe.
        allocate: Makes room for so many bytes.

    Raises:
        EOFError: If the other side has gone.
    """
    (size,) = LENGTH.unpack(taken(stream, LENGTH.size))
    head = json.loads(bytes(taken(stream, size)))
    parts = [taken(stream, size, allocate) for size in head["sizes"]]
    blobs = parts[: len(parts) - len(head["places"])]
    document = [head["document"]]
    for (path, shape, types, code), data in zip(head["places"], parts[len(blobs) :], strict=True):
        holder: Any = document
        where = [0, *path]
        for step in where[:-1]:
            holder = holder[step]
        holder[where[-1]] = Numbers(tuple(shape), tuple(types), code, data)
    return document[0], blobs, head["error"]


def taken(stream: IO[bytes], size: int, allocate: Callable[[int], Buffer] = bytearray) -> Buffer:
    """So many bytes."""
    data = allocate(size)
    if size and stream.readinto(data) != size:  # type: ignore[attr-defined]
        raise EOFError
    return data


def done(document: Any, blobs: Sequence[Buffer]) -> tuple[Any, Sequence[bytes], str]:
    """What is sent back: the document of a text, with lists of so many numbers; or the text of a document."""
    try:
        return (shrunk(parse(bytes(blobs[0])), document), (), "") if blobs else (None, [write(document)], "")
    except RequestError as error:
        return str(error), (), type(error).__name__
    except RecursionError:
        return "the body is nested too deeply", (), RequestError.__name__
    except MemoryError:
        return "as JSON it takes too much memory: use safetensors", (), TooLarge.__name__


def work(memory: int) -> None:
    """Answer until the other side closes its pipe, behind all who have more urgent things to do.

    Args:
        memory: Bytes that this process may have.
    """
    os.nice(10)
    with suppress(ImportError, OSError, ValueError):  # not every system has it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory runs out, this process ends and not the service
    with suppress(EOFError, BrokenPipeError):
        while True:
            document, blobs, _ = receive(sys.stdin.buffer)
            found, texts, error = done(document, blobs)
            try:
                send(sys.stdout.buffer, found, texts, error)
            except TooLarge as large:
                send(sys.stdout.buffer, str(large), error=TooLarge.__name__)
            del document, blobs, found, texts
