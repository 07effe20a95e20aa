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
from fxlrp.serving.json_numbers import Numbers, TooLarge, parse_json, shrink_document, write_json

LENGTH = struct.Struct("<Q")
MAX_HEAD_BYTES = 2**18
"""Bytes of a document without its arrays: the other side reads them while others wait."""
ERROR_TYPES: dict[str, type[RequestError]] = {"RequestError": RequestError, "TooLarge": TooLarge}

Buffer = bytearray | memoryview
DocumentPath = tuple[str | int, ...]
"""The names and positions that lead to a part of a document."""


def separate_numbers(value: Any, path: DocumentPath, found: list[tuple[DocumentPath, Numbers]]) -> Any:
    """Replace each array of a document by null, and add it to those found."""
    if isinstance(value, Numbers):
        found.append((path, value))
        return None
    if isinstance(value, dict):
        return {name: separate_numbers(part, (*path, name), found) for name, part in value.items()}
    if isinstance(value, list):
        return [separate_numbers(part, (*path, i), found) for i, part in enumerate(value)]
    return value


def send_document(stream: IO[bytes], document: Any, blobs: Sequence[bytes | Buffer] = (), error: str = "") -> None:
    """Write a document and bytes into a pipe.

    Raises:
        TooLarge: If what is left of the document without its arrays is larger than the other side reads.
    """
    found: list[tuple[DocumentPath, Numbers]] = []
    skeleton = separate_numbers(document, (), found)
    parts = [*blobs, *(numbers.data for _, numbers in found)]
    places = [(path, numbers.shape, numbers.types, numbers.code) for path, numbers in found]
    sizes = [len(part) for part in parts]
    head = json.dumps({"document": skeleton, "places": places, "sizes": sizes, "error": error}).encode()
    if len(head) > MAX_HEAD_BYTES:
        raise TooLarge("the body has too much in it that is not numbers: send safetensors")
    stream.write(LENGTH.pack(len(head)) + head)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive_document(stream: IO[bytes], allocate: Callable[[int], Buffer] = bytearray) -> tuple[Any, list[Buffer], str]:
    """Read what `send_document` wrote: the document, the bytes, and the error.

    Args:
        stream: The pipe.
        allocate: Makes room for so many bytes.

    Raises:
        EOFError: If the other side has gone.
    """
    (size,) = LENGTH.unpack(read_exactly(stream, LENGTH.size))
    head = json.loads(bytes(read_exactly(stream, size)))
    parts = [read_exactly(stream, size, allocate) for size in head["sizes"]]
    blobs = parts[: len(parts) - len(head["places"])]
    document = [head["document"]]
    for (path, shape, types, code), data in zip(head["places"], parts[len(blobs) :], strict=True):
        holder: Any = document
        where = [0, *path]
        for step in where[:-1]:
            holder = holder[step]
        holder[where[-1]] = Numbers(tuple(shape), tuple(types), code, data)
    return document[0], blobs, head["error"]


def read_exactly(stream: IO[bytes], size: int, allocate: Callable[[int], Buffer] = bytearray) -> Buffer:
    """Read so many bytes."""
    data = allocate(size)
    if size and stream.readinto(data) != size:  # type: ignore[attr-defined]
        raise EOFError
    return data


def answer_request(document: Any, blobs: Sequence[Buffer]) -> tuple[Any, Sequence[bytes], str]:
    """Compute what is sent back: the document of a text, with lists of so many numbers; or the text of a document."""
    try:
        return (
            (shrink_document(parse_json(bytes(blobs[0])), document), (), "")
            if blobs
            else (None, [write_json(document)], "")
        )
    except RequestError as error:
        return str(error), (), type(error).__name__
    except RecursionError:
        return "the body is nested too deeply", (), RequestError.__name__
    except MemoryError:
        return "as JSON it takes too much memory: use safetensors", (), TooLarge.__name__


def answer_requests(memory: int) -> None:
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
            document, blobs, _ = receive_document(sys.stdin.buffer)
            found, texts, error = answer_request(document, blobs)
            try:
                send_document(sys.stdout.buffer, found, texts, error)
            except TooLarge as large:
                send_document(sys.stdout.buffer, str(large), error=TooLarge.__name__)
            del document, blobs, found, texts
