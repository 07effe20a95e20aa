"""Clients that mean harm to ``fxlrp serve``, each a process of its own: ``python attackers.py NAME PORT``.

They run behind everybody else on the machine, as if they were on another one. At the end, which is that of standard
input, they say what became of what they sent.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

JSON = {"Content-Type": "application/json"}
LARGE = 15 * 2**20
HALF_HEAD = b"POST /explain HTTP/1.1\r\nHost: a\r\nX: "
HALF_BODY = b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"
PAUSE = 0.2
"""Seconds between two bytes of those who are slow."""

stopped = threading.Event()


def filled(start: bytes, part: bytes, end: bytes, size: int = LARGE) -> bytes:
    return start + part * ((size - len(start) - len(end)) // len(part)) + end


def lists() -> Iterator[bytes]:
    """Numbers, empty lists, and lists of one."""
    for part in (b"0,", b"[],", b"[0.5],", b"-1.2345678e-5,"):
        yield filled(b'{"inputs": {"input_1": [', part, b"0]}}")


def dictionaries() -> Iterator[bytes]:
    """Many small objects, and one with very many names."""
    yield filled(b'{"inputs": [', b"{},", b"0]}")
    yield filled(b'{"inputs": [', b'{"a":0},', b"0]}")
    names = b",".join(b'"%d":0' % i for i in range(LARGE // 12))
    yield b'{"inputs": {' + names + b"}}"


def nested() -> Iterator[bytes]:
    """Lists in lists, closed or not."""
    for size in (60_000, 200_000, LARGE):
        yield b'{"inputs": {"input_1": ' + b"[" * (size // 2) + b"]" * (size // 2) + b"}}"
        yield b"[" * size
        yield b'{"a":' * (size // 5)


def types() -> Iterator[bytes]:
    """What is no number, in small and in large."""
    for size in (2_000, 60_000, LARGE):
        for part in (b'"a",', b"true,", b"null,", b"9" * 4000 + b",", b"1e999,"):
            yield filled(b'{"inputs": {"input_1": [', part, b"0]}}", size)


def post(port: int, bodies: Callable[[], Iterator[bytes]]) -> Counter[str]:
    """One body after the other on one connection."""
    seen: Counter[str] = Counter()
    texts = list(bodies())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not stopped.is_set():
        for text in texts:
            try:
                connection.request("POST", "/explain", text, JSON)
                response = connection.getresponse()
                response.read()
                seen[str(response.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[type(error).__name__] += 1
                connection.close()
            if stopped.is_set():
                break
    return seen


def drip(port: int, count: int, start: bytes) -> Counter[str]:
    """So many connections that never come to an end, and new ones for those that are closed."""
    seen: Counter[str] = Counter()
    waiting = selectors.DefaultSelector()

    def begin() -> None:
        with suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", port), timeout=5)
            sock.sendall(start)
            sock.setblocking(False)
            waiting.register(sock, selectors.EVENT_READ)
            seen["opened"] += 1

    while not stopped.is_set():
        for _ in range(count - len(waiting.get_map())):
            begin()
        gone = {key.fileobj for key, _ in waiting.select(0)}
        for key in list(waiting.get_map().values()):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if sock in gone:
                    raise ConnectionError
                sock.sendall(b" ")
            except OSError:
                waiting.unregister(sock)
                sock.close()
                seen["closed"] += 1
        time.sleep(PAUSE)
    return seen


ATTACKS: dict[str, Callable[[int], Counter[str]]] = {
    "15 MiB lists": lambda port: post(port, lists),
    "15 MiB dictionaries": lambda port: post(port, dictionaries),
    "half heads x 300": lambda port: drip(port, 300, HALF_HEAD),
    "slow bodies x 200": lambda port: drip(port, 200, HALF_BODY),
    "deep nesting": lambda port: post(port, nested),
    "wrong types": lambda port: post(port, types),
}


def main() -> None:
    os.nice(19)
    name, port = sys.argv[1:]
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    print(json.dumps(ATTACKS[name](int(port))))


if __name__ == "__main__":
    main()
