"""The service: explanations of artefacts over HTTP.

It is written for Starlette: routes, errors and bodies that stream, typed and tested, and nothing else but anyio is
installed. FastAPI adds models of requests, but here the artefact's manifest says what a request is; LitServe and Ray
Serve copy tensors between processes, where one artefact by itself can fill a machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fxlrp.artifacts.artifact import Artifact
from fxlrp.errors import FxlrpError, RequestError
from fxlrp.serving import inference_protocol, instances
from fxlrp.serving.bodies import AGAIN, CLOSE, kind_of
from fxlrp.serving.desk import Desk, Limits
from fxlrp.serving.messages import (
    BINARY,
    JSON,
    describe,
    packed_results,
    read_binary,
    read_document,
    size_of,
    write_binary,
)
from fxlrp.serving.metrics import CONTENT_TYPE
from fxlrp.serving.texts import TooLarge
from fxlrp.serving.watching import Door, Watch
from fxlrp.serving.workers import Busy, aside

LONGEST_ERROR = 2000
"""Characters of an error that are sent: it may quote what was received."""
OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths for those who watch over the process, who have no token."""


class Service:
    """Answers requests with artefacts."""

    def __init__(
        self, artifacts: Mapping[str, Artifact], limits: Limits, tokens: Collection[bytes] = frozenset()
    ) -> None:
        """Prepare.

        Args:
            artifacts: The artefacts by name.
            limits: What is taken.
            tokens: Digests of those that clients must have one of; none if anybody may ask.
        """
        self.desk = Desk(artifacts, limits)
        self.tokens = tokens
        self.ending = False
        self.tasks: list[asyncio.Task[None]] = []

    def application(self) -> Starlette:
        """The service as an application of ASGI."""
        routes = [
            Route("/", self.about),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/models/{name}", self.about_one),
            Route("/models/{name}/explain", self.explain, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            *inference_protocol.routes(self.desk, self.health, self.ready),
            *instances.routes(self.desk),
        ]
        watch = Middleware(Watch, routes=routes, answered=self.desk.metrics.answered, ending=lambda: self.ending)
        door = Middleware(Door, tokens=self.tokens, open=OPEN, refused=partial(self.on_http, error=unknown()))
        return Starlette(
            routes=routes,
            middleware=[watch, door] if self.tokens else [watch],
            exception_handlers={
                HTTPException: self.on_http,
                ClientDisconnect: on_gone,
                Busy: on_busy,
                TooLarge: on_large,
                RequestError: on_unread,
                FxlrpError: on_unfit,
                Exception: on_bug,
            },
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Keep the artefacts running until every request is answered."""
        self.tasks = [asyncio.create_task(host.batcher.work()) for host in self.desk.hosts.values()]
        yield
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.desk.workers.close()

    def end(self) -> None:
        """Tell whoever asks that it should ask elsewhere from now on."""
        self.ending = True

    async def about(self, request: Request) -> Response:
        """What the artefacts are, take and return."""
        if len(self.desk.hosts) == 1:
            return await self.about_one(request)
        most = self.desk.limits.body
        return JSONResponse(
            {"models": {name: describe(name, host.about, most) for name, host in self.desk.hosts.items()}}
        )

    async def about_one(self, request: Request) -> Response:
        """What an artefact is, takes and returns."""
        host = self.desk.host(request)
        return JSONResponse(describe(host.name, host.about, self.desk.limits.body))

    async def health(self, _: Request) -> Response:
        """Whether the process does its work; otherwise it should be started anew."""
        alive = bool(self.tasks) and not any(task.done() for task in self.tasks)
        return answer("alive" if alive else "a thread that runs an artefact has stopped", 200 if alive else 500)

    async def ready(self, request: Request) -> Response:
        """Whether the next request would be taken."""
        if self.ending:
            return answer("the service stops", 503)
        if self.desk.in_flight >= self.desk.limits.queue:
            return answer("the queue is full", 503, AGAIN)
        return await self.health(request)

    async def metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        return Response(self.desk.metrics.text(), media_type=CONTENT_TYPE)

    async def explain(self, request: Request) -> Response:
        """Run an artefact on what the body holds."""
        host, kind = self.desk.host(request), kind_of(request, JSON, BINARY)
        async with self.desk.taken(request) as body:
            if kind == BINARY:
                found = await self.desk.explained(request, host, len(body), partial(read_binary, body))
                return Response(await aside(size_of(found), write_binary, found), media_type=kind)
            document = await self.desk.document(body, host)
            read = partial(read_document, document, host.about)
            found = await self.desk.explained(request, host, len(body), read)
            results = await aside(size_of(found), packed_results, found)
            return Response(await self.desk.text({"results": results}, found), media_type=kind)

    async def on_http(self, request: Request, error: Exception) -> Response:
        """Wrong paths, methods and bodies, and the wrong token; what still comes of a body is waited for."""
        assert isinstance(error, HTTPException)
        if not getattr(request.state, "read", False):
            with suppress(HTTPException, ClientDisconnect):
                await self.desk.bodies.spurned(request)
        return answer(error.detail, error.status_code, dict(error.headers or {}))


def unknown() -> HTTPException:
    """The error of a client without a token."""
    return HTTPException(
        401, "this needs the header Authorization: Bearer TOKEN", {"WWW-Authenticate": 'Bearer realm="fxlrp"'}
    )


def answer(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An answer without results."""
    key = "status" if status < 400 else "error"
    text = message if len(message) <= LONGEST_ERROR else message[:LONGEST_ERROR] + " ..."
    return JSONResponse({key: text.encode(errors="replace").decode()}, status, headers)


async def on_gone(_: Request, error: Exception) -> Response:
    """Of a client that left; nobody reads the answer, but it is counted."""
    return answer("the body is incomplete", 400, CLOSE)


async def on_busy(_: Request, error: Exception) -> Response:
    """Of what could be answered later."""
    return answer(str(error), 503, AGAIN)


async def on_large(_: Request, error: Exception) -> Response:
    """Of what is too much to read."""
    return answer(str(error), 413)


async def on_unread(_: Request, error: Exception) -> Response:
    """What cannot be read."""
    return answer(str(error), 400)


async def on_unfit(_: Request, error: Exception) -> Response:
    """What can be read and does not fit the artefact."""
    return answer(str(error), 422)


async def on_bug(_: Request, error: Exception) -> Response:
    """What should not happen; the server writes the traceback to its log."""
    return answer(f"the service failed: {type(error).__name__}", 500)
