"""The service: explanations of an artefact over HTTP.

It is written for Starlette: routes, errors and bodies that stream, typed and tested, and nothing else but anyio is
installed. FastAPI adds models of requests, but here the artefact's manifest says what a request is; LitServe and Ray
Serve copy tensors between processes, where one artefact by itself can fill a machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from fxlrp.batching import Batcher, Tensors, joinable
from fxlrp.errors import FxlrpError, RequestError
from fxlrp.loading import Artifact
from fxlrp.messages import BINARY, JSON, decode, describe, encode
from fxlrp.metrics import CONTENT_TYPE, Metrics

LONGEST_ERROR = 2000
"""Characters of an error that are sent: it may quote what was received."""
CLOSE = {"Connection": "close"}
AGAIN = {"Retry-After": "1"}


@dataclass(frozen=True)
class Limits:
    """What a service takes.

    Attributes:
        body: Bytes of one request.
        queue: Requests that are read, wait or run at a time.
        samples: Samples in one call of the artefact.
        wait: Seconds that a request waits for others to run with.
        seconds: Until a request's body must have arrived.
    """

    body: int
    queue: int
    samples: int
    wait: float
    seconds: float = 30.0


class Service:
    """Answers requests with an artefact."""

    def __init__(self, artifact: Artifact, limits: Limits) -> None:
        self.artifact = artifact
        self.limits = limits
        self.in_flight = 0
        self.metrics = Metrics(lambda: self.in_flight)
        most = limits.samples if joinable(artifact.manifest) else 1
        self.batcher = Batcher(self.run, most, limits.wait, self.metrics.called)
        self.worker: asyncio.Task[None] | None = None

    def run(self, tensors: Tensors) -> dict[str, Tensor]:
        """Call the artefact on its device."""
        device = self.artifact.manifest.device
        results = self.artifact.run({name: tensor.to(device) for name, tensor in tensors.items()})
        return {name: tensor.cpu() for name, tensor in results.items()}

    def application(self) -> Starlette:
        """The service as an application of ASGI."""
        routes = [
            Route("/", self.about),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.show_metrics),
        ]
        paths = frozenset(route.path for route in routes)
        return Starlette(
            routes=routes,
            middleware=[Middleware(Counted, metrics=self.metrics, paths=paths)],
            exception_handlers={
                HTTPException: on_http,
                ClientDisconnect: on_gone,
                RequestError: on_unread,
                FxlrpError: on_unfit,
                Exception: on_bug,
            },
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Keep the worker running until every request is answered."""
        self.worker = asyncio.create_task(self.batcher.work())
        yield
        self.worker.cancel()
        await asyncio.wait([self.worker])

    async def about(self, _: Request) -> Response:
        """What the artefact is, takes and returns."""
        return JSONResponse(describe(self.artifact.manifest, self.limits.body))

    async def health(self, _: Request) -> Response:
        """Whether the process does its work; otherwise it should be started anew."""
        alive = self.worker is not None and not self.worker.done()
        return answer("alive" if alive else "the thread that runs the artefact has stopped", 200 if alive else 500)

    async def ready(self, request: Request) -> Response:
        """Whether the next request would be taken."""
        if self.in_flight >= self.limits.queue:
            return answer("the queue is full", 503, AGAIN)
        return await self.health(request)

    async def show_metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def explain(self, request: Request) -> Response:
        """Run the artefact on what the body holds."""
        kind = kind_of(request)
        if self.in_flight >= self.limits.queue:
            await read(request, keep=0, most=self.limits.body, seconds=self.limits.seconds)
            raise HTTPException(503, f"{self.in_flight} requests are being answered: try again later", AGAIN)
        self.in_flight += 1
        try:
            body = await read(request, self.limits.body, 2 * self.limits.body, self.limits.seconds)
            if body is None:
                raise HTTPException(413, f"the body has more than {self.limits.body} bytes", CLOSE)
            # Reading JSON holds Python's lock from beginning to end: in a thread it would stop this one all the same.
            call = decode(body, kind, self.artifact.manifest)
            given = self.artifact.bound((), call.inputs)
            chosen = self.artifact.chosen(given, call.target)
            results = await self.batcher.submit({**given, **chosen})
            self.artifact.check_reached(chosen, results)
            return Response(encode(results, kind), media_type=kind)
        except asyncio.CancelledError:
            raise HTTPException(503, "the service stops", CLOSE) from None
        finally:
            self.in_flight -= 1


def kind_of(request: Request) -> str:
    """The kind of body.

    Raises:
        HTTPException: If it is one that is not read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, BINARY):
        raise HTTPException(415, f"the Content-Type must be {JSON} or {BINARY}, not {kind or 'none'}", CLOSE)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "a body must not be compressed", CLOSE)
    return kind


async def read(request: Request, keep: int, most: int, seconds: float) -> bytes | None:
    """The body, or None if it has more than ``keep`` bytes.

    What is too much is dropped as it comes, up to ``most``: many clients read no answer before all of it is sent.

    Raises:
        HTTPException: If the body does not arrive in time.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size <= keep:
                    parts.append(part)
                elif size > most:
                    break
                else:
                    parts.clear()
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} seconds", CLOSE) from None
    return b"".join(parts) if size <= keep else None


def answer(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An answer without results."""
    key = "status" if status < 400 else "error"
    text = message if len(message) <= LONGEST_ERROR else message[:LONGEST_ERROR] + " ..."
    return JSONResponse({key: text.encode(errors="replace").decode()}, status, headers)


async def on_http(_: Request, error: Exception) -> Response:
    """Wrong paths, methods and bodies."""
    assert isinstance(error, HTTPException)
    return answer(error.detail, error.status_code, dict(error.headers or {}))


async def on_gone(_: Request, error: Exception) -> Response:
    """Of a client that left; nobody reads the answer, but it is counted."""
    return answer("the body is incomplete", 400, CLOSE)


async def on_unread(_: Request, error: Exception) -> Response:
    """What cannot be read."""
    return answer(str(error), 400)


async def on_unfit(_: Request, error: Exception) -> Response:
    """What can be read and does not fit the artefact."""
    return answer(str(error), 422)


async def on_bug(_: Request, error: Exception) -> Response:
    """What should not happen; the server writes the traceback to its log."""
    return answer(f"the service failed: {type(error).__name__}", 500)


class Counted:
    """Middleware that counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at what is sent."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.answered(path, status, time.perf_counter() - start)
