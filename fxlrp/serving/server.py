"""The process that serves: a socket, uvicorn, and an end on request."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from fxlrp.errors import FxlrpError
from fxlrp.serving.connections import KEEP_ALIVE_SECONDS, Connections

LOCAL_ADDRESSES = ("127.0.0.1", "::1", "localhost")
"""Addresses that other machines cannot reach."""
GRACE_SECONDS = 10
"""Seconds that requests have to be answered once no others are taken."""
GREETING_SECONDS = 0.2
"""Seconds in which who has been greeted comes to be taken."""
ATTACH_FILTER = 26
"""Linux's SO_ATTACH_FILTER, which Python does not name."""
SPARE_FILES = 128
"""Files that are open besides connections."""
BACKLOG = 128
"""Clients that may wait to be taken."""


@dataclass(frozen=True)
class ServerSettings:
    """On which clients are served.

    Attributes:
        connections: How many there may be.
        seconds: Until the head of a request must have come.
        drain: Seconds for which requests are still taken once the process is told to end: whoever sends them on must
            notice first.
        context: For TLS.
    """

    connections: int = 512
    seconds: float = 10.0
    drain: float = 0.0
    context: ssl.SSLContext | None = None


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that waits for clients.

    Raises:
        FxlrpError: If the port is taken or the address is not this machine's.
    """
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named asyncio turns Nagle's algorithm off, which costs 40 ms per answer.
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of connections that closed a moment ago
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise FxlrpError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose others with --host and --port"
        ) from error
    return sock


def check_open_files(settings: ServerSettings) -> None:
    """Refuse more connections than the process may have files open, of which each is one.

    Raises:
        FxlrpError: If there may be too few.
    """
    with suppress(ImportError):  # not every system has it
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and most < settings.connections + SPARE_FILES:
            raise FxlrpError(
                f"{settings.connections} connections need {settings.connections + SPARE_FILES} open files, and this "
                f"process may have {most}: give fewer --connections, or raise the limit with ulimit -n"
            )


def make_tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Read what is needed for TLS.

    Raises:
        FxlrpError: If the files are not a certificate and its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise FxlrpError(
            f"{certificate} and {key or 'what is in it'} are no certificate and key in PEM format: {error}"
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def refuse_greetings(sock: socket.socket) -> None:
    """Let the system answer nobody who comes anew to a socket that listens; who has been greeted is still taken.

    Between the last client that is taken and the end of the socket there would always be time for one more, which would
    be cut off. Unanswered it asks again, and is refused when nobody listens any more.
    """
    if sys.platform != "linux":
        return
    # if byte 13 of what comes, its flags, has SYN in it: nothing of it is kept, else all
    steps = (0x30, 0, 0, 13), (0x45, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 2**32 - 1)
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with suppress(OSError):  # where the kernel is not Linux itself
        sock.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", len(steps), ctypes.addressof(program)))


class Server(uvicorn.Server):
    """Uvicorn, which goes on for a while when it is told to end."""

    def __init__(self, config: uvicorn.Config, drain: float, on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self.drain, self.on_end = drain, on_end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: Ctrl+C does not wait for new requests, and a second signal waits for nothing."""
        self.force_exit = self.should_exit
        self.drain = 0.0 if sig == signal.SIGINT else self.drain
        self.on_end()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on, take who has come until then, and end when all are answered."""
        end = time.monotonic() + self.drain
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.05)
        for sock in sockets or []:
            refuse_greetings(sock)
        await asyncio.sleep(GREETING_SECONDS)
        for sock in sockets or []:
            await self.take_last(sock)
        await super().shutdown(sockets)

    async def take_last(self, sock: socket.socket) -> None:
        """Take the clients that wait at a socket, which would be reset when it closes."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        with suppress(OSError):  # nobody waits any more
            while True:
                client, _ = sock.accept()
                await loop.connect_accepted_socket(self.make_protocol, client)

    def make_protocol(self) -> asyncio.Protocol:
        """Make what speaks with a client."""
        made = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def make_server(application: Starlette, settings: ServerSettings, on_end: Callable[[], None]) -> Server:
    """Make the server of an application.

    Args:
        application: What answers.
        settings: On which clients are served.
        on_end: Called when the process is told to end.
    """
    connections = Connections(settings.connections, settings.seconds, settings.context)
    config = uvicorn.Config(
        application,
        http=cast(Any, connections.make_protocol),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # not a line for every client that does not speak HTTP
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config, settings.drain, on_end)


def serve_until_stopped(serving: Server, sock: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT; then take no more, and return when those that came are answered.

    Args:
        serving: The server.
        sock: Where clients come.

    Raises:
        FxlrpError: If uvicorn could not start the application.
    """
    # It raises the signals that it stopped for once more, and one may come before it looks out for them.
    before = {number: signal.signal(number, serving.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(SystemExit):  # which some versions raise if it does not start, and others do not
            serving.run(sockets=[sock])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not serving.started:
        raise FxlrpError("the service did not start, for the reason that is written above")
