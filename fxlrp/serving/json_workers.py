"""Reading and writing JSON without holding up the service: what is large goes to processes of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fxlrp.errors import FxlrpError
from fxlrp.serving.json_numbers import TooLarge, parse_json, write_json
from fxlrp.serving.json_process import ERROR_TYPES, Buffer, receive_document, send_document

MAX_INLINE_BYTES = 2**15
"""Bytes of a text that is not read here: so many take some two milliseconds, whatever they are."""
MAX_WAITING = 8
"""Large texts per process that are read or wait for it; those of one client must not fill the service's queue."""
MAX_INLINE_NUMBERS = 2**12
"""Numbers that are not written here."""
MAX_SECONDS = 20.0
"""That a process has for one text."""
START_CODE = """
import sys, types
package = types.ModuleType("fxlrp")  # without what it imports, which is torch
package.__path__ = [sys.argv[1]]
sys.modules["fxlrp"] = package
from fxlrp.errors import FxlrpError
from fxlrp.serving.json_process import answer_requests
answer_requests(int(sys.argv[2]))
"""

T = TypeVar("T")


class Busy(FxlrpError):
    """There is too much to do at the moment."""


class JsonWorkers:
    """Reads and writes texts: small ones at once, others in one of a few processes that are started when needed."""

    def __init__(self, count: int, memory: int, seconds: float = MAX_SECONDS) -> None:
        """Prepare.

        Args:
            count: Processes.
            memory: Bytes that each may have.
            seconds: After which one that is not ready is stopped.
        """
        self.memory, self.seconds = memory, seconds
        self.room = asyncio.Semaphore(MAX_WAITING * count)
        self.threads = ThreadPoolExecutor(count, "texts")
        self.local = threading.local()
        self.processes: set[subprocess.Popen[bytes]] = set()

    async def parse(self, text: bytes, most: int) -> Any:
        """Parse a text, with `fxlrp.serving.json_numbers.Numbers` where a large list was.

        Args:
            text: The text.
            most: Numbers that a list may have: those of more are not kept.

        Raises:
            RequestError: If it is not JSON.
            TooLarge: If it takes too much time or memory.
            Busy: If too many others are read.
        """
        if len(text) <= MAX_INLINE_BYTES:
            return parse_json(text)
        if self.room.locked():
            raise Busy("many large bodies of JSON are being read: try again later, or send safetensors")
        async with self.room:
            document, _ = await self.ask(most, [text])
        return document

    async def write(self, document: Any, entries: int) -> bytes:
        """Write a document that has `fxlrp.serving.json_numbers.Numbers` in it.

        Args:
            document: The document.
            entries: How many numbers there are.
        """
        if entries <= MAX_INLINE_NUMBERS:
            return write_json(document)
        _, (text,) = await self.ask(document, [])
        return bytes(text)

    async def ask(self, document: Any, blobs: Sequence[bytes]) -> tuple[Any, Sequence[Buffer]]:
        """Ask a process, without holding up the service."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, self.exchange, document, blobs)

    def exchange(self, document: Any, blobs: Sequence[bytes]) -> tuple[Any, Sequence[Buffer]]:
        """Send to this thread's process and wait for its answer; stop it if that does not come."""
        process = self.find_process()
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(self.seconds, process.kill)
        alarm.start()
        try:
            send_document(process.stdin, document, blobs)
            found, texts, error = receive_document(process.stdout, allocate_bytes)
        except (EOFError, BrokenPipeError):
            self.stop(process)
            raise TooLarge("as JSON it takes too much time or memory: use safetensors") from None
        finally:
            alarm.cancel()
        if error:
            raise ERROR_TYPES[error](found)
        return found, texts

    def find_process(self) -> subprocess.Popen[bytes]:
        """Return the process of this thread, started anew if it has ended."""
        process: subprocess.Popen[bytes] | None = getattr(self.local, "process", None)
        if process is not None and process.poll() is not None:
            self.stop(process)
            process = None
        if process is None:
            command = [sys.executable, "-P", "-c", START_CODE, str(Path(__file__).parents[1]), str(self.memory)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=-1
            )
            self.local.process = process
            self.processes.add(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a process."""
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self.processes.discard(process)

    def close(self) -> None:
        """End all processes."""
        for process in [*self.processes]:
            self.stop(process)
        self.threads.shutdown()


def allocate_bytes(size: int) -> memoryview:
    """Allocate bytes that are not set to 0 before they are read, while others wait."""
    return np.empty(size, np.uint8).data


async def run_aside(size: int, call: Callable[..., T], *args: Any) -> T:
    """Make a call that lets go of Python's lock, in a thread if what it works on has many bytes."""
    return await asyncio.to_thread(call, *args) if size > MAX_INLINE_BYTES else call(*args)
