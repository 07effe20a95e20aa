"""What happens to every request: it gets an id, is let in, counted and logged."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fxlrp.errors import FxlrpError

REQUEST_LOG = logging.getLogger("fxlrp.requests")
PLAIN_ID = re.compile(r"[\w.:\-]{1,64}", re.ASCII)
REQUEST_ID = "X-Request-Id"


class WatchMiddleware:
    """Middleware that counts and logs answers, and names the request in them."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[Route],
        answered: Callable[[str, str, int, float], None],
        ending: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            app: What answers.
            routes: Its routes, whose patterns stand for paths.
            answered: Told of the path, model, status and seconds of every answer.
            ending: Says whether the service ends, so that clients should ask elsewhere next time.
        """
        self.app, self.routes, self.answered, self.ending = app, routes, answered, ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count and log its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, sizes = time.perf_counter(), 500, [0, 0]
        name = given if PLAIN_ID.fullmatch(given := Headers(scope=scope).get(REQUEST_ID, "")) else uuid.uuid4().hex
        notes = scope.setdefault("state", {})

        async def received() -> Message:
            message = await receive()
            sizes[0] += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = name
                if self.ending():
                    headers["Connection"] = "close"
            sizes[1] += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, received, sent)
        finally:
            seconds = time.perf_counter() - start
            self.answered(self.pattern(scope["path"]), notes.get("model", ""), status, seconds)
            if REQUEST_LOG.isEnabledFor(logging.INFO):
                line = {
                    "id": name,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(seconds, 6),
                    "bytes_in": sizes[0],
                    "bytes_out": sizes[1],
                    "samples": notes.get("samples", 0),
                }
                REQUEST_LOG.info("answered", extra={"line": line})

    def pattern(self, path: str) -> str:
        """Find the route of a path."""
        return next((route.path for route in self.routes if route.path_regex.match(path)), "other")


class TokenMiddleware:
    """Middleware that lets in who has a token."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Collection[bytes],
        open: Collection[str],
        refused: Callable[[Request], Awaitable[Response]],
    ) -> None:
        """Prepare.

        Args:
            app: What answers.
            tokens: Digests of the tokens.
            open: Paths that need none.
            refused: Answers who has none.
        """
        self.app, self.tokens, self.open, self.refused = app, tokens, open, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self.open or self.admits(Headers(scope=scope)):
            await self.app(scope, receive, send)
        else:
            response = await self.refused(Request(scope, receive))
            await response(scope, receive, send)

    def admits(self, headers: Headers) -> bool:
        """Return whether there is one of the tokens, in a time that says nothing about them."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found = [hmac.compare_digest(digest_token(token.strip()), known) for known in self.tokens]
        return scheme.lower() == "bearer" and any(found)


class JsonFormatter(logging.Formatter):
    """Every record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the time and what is known of the request; of other records their text."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content = getattr(record, "line", None) or {"level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            content = {**content, "traceback": self.formatException(record.exc_info)}
        return json.dumps({"time": f"{moment}.{int(record.msecs):03d}Z", **content})


def log_requests() -> None:
    """Write a line for every request to stderr, and what goes wrong in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (REQUEST_LOG.name, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    REQUEST_LOG.setLevel(logging.INFO)


def read_tokens(path: Path) -> frozenset[bytes]:
    """Digests of the tokens in a file, one per line.

    Raises:
        FxlrpError: If it has none, or one that no header can hold.
    """
    try:
        tokens = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise FxlrpError(f"{path} cannot be read: {error}") from error
    if not tokens or not all(re.fullmatch(r"[\x21-\x7e]+", token) for token in tokens):
        raise FxlrpError(f"{path} must have a token of plain characters on each line")
    return frozenset(digest_token(token) for token in tokens)


def digest_token(token: str) -> bytes:
    """Hash a token, so that all have one length and comparing them says nothing about one."""
    return hashlib.sha256(token.encode()).digest()
