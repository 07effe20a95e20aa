"""Bodies of requests: each in time, and together no more than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

FREE_SECONDS = 5.0
"""Seconds for which a body may come at any rate."""
MIN_RATE = 2**14
"""Bytes per second that it must bring after that."""
UNPACED_BYTES = 2**20
"""Bytes of a body that are taken as fast as they come."""
MAX_RATE = 2**26
"""Bytes per second that are taken of all that is larger, so that there is time for others in between."""
CLOSE_HEADER = {"Connection": "close"}
RETRY_HEADER = {"Retry-After": "1"}


def read_content_type(request: Request, *kinds: str) -> str:
    """Return the content type of a body, one of those that are read, which no stranger's page can make a browser send.

    Raises:
        HTTPException: If it is another one, or compressed, so that some bytes can be many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        known = " or ".join(filter(None, kinds))
        raise HTTPException(415, f"the Content-Type must be {known}, not {kind or 'none'}")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "a body must not be compressed")
    return kind


class ArrivingBody:
    """A body that arrives.

    Attributes:
        parts: What has come and is kept.
        size: Bytes of it.
        timeout: Ends the wait for more.
        ousted: Whether others need the room.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.timeout = asyncio.timeout(None)
        self.ousted = False


class Bodies:
    """The bodies that arrive or are worked on."""

    def __init__(self, most: int, room: int, seconds: float) -> None:
        """Begin with none.

        Args:
            most: Bytes of one body.
            room: Bytes of all of them.
            seconds: Until a body must have arrived.
        """
        self.most, self.room, self.seconds = most, room, seconds
        self.held = 0
        self.free = 0.0
        self.arriving: dict[ArrivingBody, None] = {}

    @asynccontextmanager
    async def read_whole(self, request: Request) -> AsyncIterator[bytes]:
        """Wait for the whole body of a request; its bytes count until the context is left.

        Raises:
            HTTPException: If it is too large, does not come in time, or there is no room for it.
        """
        arrival = ArrivingBody()
        try:
            yield await self.read(request, arrival, self.most)
        finally:
            self.drop(arrival)

    async def discard(self, request: Request) -> None:
        """Wait until a body that nobody wants has come: many clients read no answer before they have sent it all."""
        await self.read(request, ArrivingBody(), 0)

    async def read(self, request: Request, arrival: ArrivingBody, keep: int) -> bytes:
        """Read a body; what it has beyond ``keep`` bytes is dropped as it comes, to a limit."""
        request.state.read = True
        start, count = asyncio.get_running_loop().time(), 0
        self.arriving[arrival] = None
        try:
            async with arrival.timeout:
                arrival.timeout.reschedule(start + min(FREE_SECONDS, self.seconds))
                async for part in request.stream():
                    count += len(part)
                    arrival.timeout.reschedule(start + min(FREE_SECONDS + count / MIN_RATE, self.seconds))
                    if count <= keep:
                        self.keep(arrival, part)
                    else:
                        self.drop(arrival)
                    if arrival.ousted or count > 2 * self.most:
                        break
                    await self.pace(len(part), count)
        except TimeoutError:
            if not arrival.ousted:
                raise HTTPException(
                    408, f"the body did not arrive within {self.seconds:g} seconds, or too slowly", CLOSE_HEADER
                ) from None
        finally:
            self.arriving.pop(arrival, None)
        if arrival.ousted:
            raise HTTPException(503, "too much arrives at once: try again later", {**CLOSE_HEADER, **RETRY_HEADER})
        if 0 < keep < count:
            raise HTTPException(413, f"the body has more than {keep} bytes", CLOSE_HEADER)
        return b"".join(arrival.parts)

    async def pace(self, size: int, count: int) -> None:
        """Wait until more may be taken of a body that is large by now; the system holds its sender back meanwhile."""
        if count > UNPACED_BYTES:
            now = asyncio.get_running_loop().time()
            self.free = max(self.free, now) + size / MAX_RATE
            await asyncio.sleep(self.free - now)

    def keep(self, arrival: ArrivingBody, part: bytes) -> None:
        """Hold a part of a body; if there is no room for it, the body that has been arriving for longest must go."""
        while self.held + len(part) > self.room:
            oldest = next((other for other in self.arriving if other.size), arrival)
            self.drop(oldest)
            oldest.ousted = True
            oldest.timeout.reschedule(0)
            if oldest is arrival:
                return
            del self.arriving[oldest]
        arrival.parts.append(part)
        arrival.size += len(part)
        self.held += len(part)

    def drop(self, arrival: ArrivingBody) -> None:
        """Let go of what has come of a body."""
        self.held -= arrival.size
        arrival.parts.clear()
        arrival.size = 0
