"""Connections: how long each may take to say what it wants, and how many there are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

KEEP_ALIVE_SECONDS = 5
"""Seconds that a connection is kept between two requests."""
WRITE_SECONDS = 30.0
"""Seconds in which a client must read its answer."""


LAST_SECONDS = 3.0
"""Seconds in which a client that has just come must ask when the service ends."""


class WaitState(IntEnum):
    """What a connection waits for. Where there are too many, the first of these make room."""

    FIRST = 0
    """For the head of its first request."""
    NEXT = 1
    """For another request."""
    BODY = 2
    """For the rest of a body."""
    ANSWER = 3
    """For the service."""


@dataclass
class OpenConnection:
    """A connection: how to end it, what it waits for, and since when."""

    end: Callable[[], None]
    since: float
    waits: WaitState = WaitState.FIRST


class Connections:
    """The open connections. Where there are too many, the one that has waited for longest makes room."""

    def __init__(self, most: int, seconds: float, context: ssl.SSLContext | None = None) -> None:
        """Begin with none.

        Args:
            most: How many there may be.
            seconds: In which a client must have sent the head of its request, and agreed on a key before.
            context: For TLS.
        """
        self.most, self.seconds, self.context = most, seconds, context
        self.open: dict[asyncio.Protocol, OpenConnection] = {}

    def make_protocol(self, **options: Any) -> asyncio.Protocol:
        """Make what speaks with one client, for uvicorn."""
        protocol = TimedProtocol(self, **options)
        return protocol if self.context is None else TlsHandshake(self, self.context, protocol)

    def enter(self, protocol: asyncio.Protocol, end: Callable[[], None]) -> OpenConnection:
        """Count a new connection."""
        connection = OpenConnection(end, asyncio.get_running_loop().time())
        if len(self.open) >= self.most:
            waiting = [other for other in self.open.values() if other.waits is not WaitState.ANSWER]
            min(waiting, key=lambda other: (other.waits, other.since), default=connection).end()
        self.open[protocol] = connection
        return connection

    def leave(self, protocol: asyncio.Protocol) -> None:
        """Count a connection no more."""
        self.open.pop(protocol, None)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with one client, who must not be slow. Uvicorn by itself waits for the rest of a head without end."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.registry = connections
        self.timer: asyncio.TimerHandle | None = None
        self.connection: OpenConnection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of a request."""
        super().connection_made(transport)
        self.connection = self.registry.enter(self, self.abort)
        self.limit_wait(self.registry.seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self.registry.leave(self)
        self.limit_wait(None)

    def data_received(self, data: bytes) -> None:
        """Take data; whoever has begun to send a head must finish it in time, whatever else comes."""
        super().data_received(data)
        if self.busy:
            self.limit_wait(None)
            self.note_wait(WaitState.BODY if self.cycle.more_body else WaitState.ANSWER)
        elif self.timer is None:
            self.limit_wait(self.registry.seconds)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to read the last answer."""
        self.note_wait(WaitState.NEXT)
        super().on_response_complete()
        if self.busy:  # with a request that was sent before this answer had come
            self.note_wait(WaitState.BODY if self.cycle.more_body else WaitState.ANSWER)
        elif self.transport.is_closing():
            self.limit_wait(WRITE_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close, once the last answer has been read."""
        super().timeout_keep_alive_handler()
        self.limit_wait(WRITE_SECONDS)

    def shutdown(self) -> None:
        """Close when what is asked has been answered; a client that has begun to ask, or just come, is heard."""
        if self.busy or (self.connection.waits is WaitState.NEXT and self.timer is None):
            super().shutdown()
        else:
            self.limit_wait(LAST_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether a request is worked on."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def note_wait(self, what: WaitState) -> None:
        """Note what the connection waits for."""
        if self.connection.waits is not what:
            self.connection.waits, self.connection.since = what, self.loop.time()

    def limit_wait(self, seconds: float | None) -> None:
        """Cut the connection if nothing changes for so long."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None if seconds is None else self.loop.call_later(seconds, self.abort)

    def abort(self) -> None:
        """End the connection, whatever was not sent yet."""
        self.transport.abort()


class TlsHandshake(asyncio.Protocol):
    """A connection before TLS is agreed upon, which counts and must not be slow either."""

    def __init__(self, connections: Connections, context: ssl.SSLContext, protocol: TimedProtocol) -> None:
        self.registry, self.context, self.protocol = connections, context, protocol
        self.early: list[bytes] = []
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Agree on TLS before anything else is read."""
        self.registry.enter(self, transport.abort)
        self.protocol.connections.add(cast(Any, self))  # those that uvicorn waits for when it ends
        transport.pause_reading()  # what comes is for TLS
        self.task = asyncio.get_running_loop().create_task(self.agree(transport))

    def shutdown(self) -> None:
        """Go on: a client that has just come is heard."""

    def data_received(self, data: bytes) -> None:
        """Keep what comes together with the end of the agreement."""
        self.early.append(data)

    async def agree(self, transport: asyncio.Transport) -> None:
        """Agree and hand over; who speaks something else, or too slowly, is not answered."""
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, self.context, server_side=True, ssl_handshake_timeout=self.registry.seconds
            )
        except OSError:  # that of TLS, and of time, are among them
            return
        finally:
            self.registry.leave(self)
            self.protocol.connections.discard(cast(Any, self))
        if secured is None:  # the client has gone
            return
        secured.set_protocol(self.protocol)
        self.protocol.connection_made(secured)
        for data in self.early:
            self.protocol.data_received(data)
