"""The process that serves: a socket, uvicorn, and an end on request."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from fxlrp.errors import FxlrpError

LOCAL = ("127.0.0.1", "::1", "localhost")
"""Addresses that other machines cannot reach."""
GRACE = 10
"""Seconds that requests have to be answered once the process is told to stop."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for clients.

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
        sock.listen()
    except OSError as error:
        if sock is not None:
            sock.close()
        raise FxlrpError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose others with --host and --port"
        ) from error
    return sock


def serve_until_stopped(application: Starlette, sock: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT; then take no more, and return when those that came are answered.

    Raises:
        FxlrpError: If uvicorn could not start the application.
    """
    config = uvicorn.Config(
        application,
        http="h11",  # whatever else is installed: limits and errors are tested with this one
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # not a line for every client that does not speak HTTP
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    # It raises the signals that it stopped for once more, and one may come before it looks out for them.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(SystemExit):  # which some versions raise if it does not start, and others do not
            server.run(sockets=[sock])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not server.started:
        raise FxlrpError("the service did not start, for the reason that is written above")
