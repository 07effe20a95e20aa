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
from fxlrp.serving import inference_protocol, kserve_protocol
from fxlrp.serving.bodies import CLOSE_HEADER, RETRY_HEADER, read_content_type
from fxlrp.serving.json_numbers import TooLarge
from fxlrp.serving.json_workers import Busy, run_aside
from fxlrp.serving.messages import (
    JSON,
    SAFETENSORS,
    count_bytes,
    describe_artifact,
    pack_results,
    read_document,
    read_safetensors,
    write_safetensors,
)
from fxlrp.serving.metrics import CONTENT_TYPE
from fxlrp.serving.middleware import TokenMiddleware, WatchMiddleware
from fxlrp.serving.request_handling import Limits, RequestHandler

MAX_ERROR_CHARACTERS = 2000
"""Characters of an error that are sent: it may quote what was received."""
STATUS: dict[type[FxlrpError], int] = {Busy: 503, TooLarge: 413, RequestError: 400, FxlrpError: 422}
"""Status of the answer, by the first of these that an error is."""
OPEN_PATHS = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
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
        self.handler = RequestHandler(artifacts, limits)
        self.tokens = tokens
        self.ending = False
        self.tasks: list[asyncio.Task[None]] = []

    def application(self) -> Starlette:
        """Make the application of ASGI."""
        routes = [
            Route("/", self.about),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/models/{name}", self.about_one),
            Route("/models/{name}/explain", self.explain, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            *inference_protocol.make_routes(self.handler, self.health, self.ready),
            *kserve_protocol.make_routes(self.handler),
        ]
        watch = Middleware(
            WatchMiddleware, routes=routes, answered=self.handler.metrics.count_answer, ending=lambda: self.ending
        )
        door = Middleware(
            TokenMiddleware,
            tokens=self.tokens,
            open=OPEN_PATHS,
            refused=partial(self.on_http, error=make_unauthorized_error()),
        )
        return Starlette(
            routes=routes,
            middleware=[watch, door] if self.tokens else [watch],
            exception_handlers={
                HTTPException: self.on_http,
                ClientDisconnect: on_gone,
                FxlrpError: on_error,
                Exception: on_bug,
            },
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Keep the artefacts running until every request is answered."""
        batchers = [hosted.batcher for hosted in self.handler.artifacts.values()]
        self.tasks = [asyncio.create_task(batcher.run_until_cancelled()) for batcher in batchers]
        yield
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.handler.json.close()

    def end(self) -> None:
        """Tell whoever asks that it should ask elsewhere from now on."""
        self.ending = True

    async def about(self, request: Request) -> Response:
        """Describe all artefacts."""
        if len(self.handler.artifacts) == 1:
            return await self.about_one(request)
        artifacts, most = self.handler.artifacts, self.handler.limits.body
        found = {name: describe_artifact(name, hosted.about, most) for name, hosted in artifacts.items()}
        return JSONResponse({"models": found})

    async def about_one(self, request: Request) -> Response:
        """Describe one artefact."""
        hosted = self.handler.find_artifact(request)
        return JSONResponse(describe_artifact(hosted.name, hosted.about, self.handler.limits.body))

    async def health(self, _: Request) -> Response:
        """Say whether the process does its work; otherwise it should be started anew."""
        alive = bool(self.tasks) and not any(task.done() for task in self.tasks)
        return make_answer("alive" if alive else "a thread that runs an artefact has stopped", 200 if alive else 500)

    async def ready(self, request: Request) -> Response:
        """Say whether the next request would be taken."""
        if self.ending:
            return make_answer("the service stops", 503)
        if self.handler.in_flight >= self.handler.limits.queue:
            return make_answer("the queue is full", 503, RETRY_HEADER)
        return await self.health(request)

    async def metrics(self, _: Request) -> Response:
        """Write counts for Prometheus."""
        return Response(self.handler.metrics.write(), media_type=CONTENT_TYPE)

    async def explain(self, request: Request) -> Response:
        """Run an artefact on what the body holds."""
        hosted, kind = self.handler.find_artifact(request), read_content_type(request, JSON, SAFETENSORS)
        async with self.handler.take_in(request) as body:
            if kind == SAFETENSORS:
                found = await self.handler.explain(request, hosted, len(body), partial(read_safetensors, body))
                return Response(await run_aside(count_bytes(found), write_safetensors, found), media_type=kind)
            return await self.handler.explain_json(request, hosted, body, read_document, pack_results)

    async def on_http(self, request: Request, error: Exception) -> Response:
        """Answer wrong paths, methods, bodies and tokens; what still comes of a body is waited for."""
        assert isinstance(error, HTTPException)
        if not getattr(request.state, "read", False):
            with suppress(HTTPException, ClientDisconnect):
                await self.handler.bodies.discard(request)
        return make_answer(error.detail, error.status_code, dict(error.headers or {}))


def make_unauthorized_error() -> HTTPException:
    """Make the error of a client without a token."""
    return HTTPException(
        401, "this needs the header Authorization: Bearer TOKEN", {"WWW-Authenticate": 'Bearer realm="fxlrp"'}
    )


def make_answer(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Make an answer without results."""
    key = "status" if status < 400 else "error"
    text = message if len(message) <= MAX_ERROR_CHARACTERS else message[:MAX_ERROR_CHARACTERS] + " ..."
    return JSONResponse({key: text.encode(errors="replace").decode()}, status, headers)


async def on_gone(_: Request, error: Exception) -> Response:
    """Answer a client that left; nobody reads it, but it is counted."""
    return make_answer("the body is incomplete", 400, CLOSE_HEADER)


async def on_error(_: Request, error: Exception) -> Response:
    """Answer what could be done later, is too much to read, cannot be read, or does not fit the artefact."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return make_answer(str(error), status, RETRY_HEADER if status == 503 else None)


async def on_bug(_: Request, error: Exception) -> Response:
    """Answer what should not happen; the server writes the traceback to its log."""
    return make_answer(f"the service failed: {type(error).__name__}", 500)
