"""Where requests of every protocol are taken in and answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from fxlrp.artifacts.artifact import Artifact
from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.serving.batching import Batcher, is_joinable
from fxlrp.serving.bodies import CLOSE_HEADER, RETRY_HEADER, Bodies
from fxlrp.serving.json_workers import JsonWorkers, run_aside
from fxlrp.serving.messages import JSON, Call, count_bytes
from fxlrp.serving.metrics import Metrics

ARTIFACT_VERSION = "1"
"""The only version of every artefact: another one is another file."""
MAX_BODIES = 16
"""Bodies of the largest size that there is room for at a time."""
JSON_PROCESSES = 2
"""Processes that read and write large JSON."""
MEMORY_FACTOR = 32
"""Times the largest body that such a process may have: a number of two characters is an object of 32 bytes to it."""


@dataclass(frozen=True)
class Limits:
    """What a service takes.

    Attributes:
        body: Bytes of one request.
        queue: Requests that wait or run at a time.
        samples: Samples in one call of an artefact.
        wait: Seconds that a request waits for others to run with.
        seconds: Until a request's body must have arrived.
    """

    body: int
    queue: int
    samples: int
    wait: float
    seconds: float = 30.0


class HostedArtifact:
    """An artefact under its name."""

    def __init__(self, name: str, artifact: Artifact, limits: Limits, metrics: Metrics) -> None:
        self.name, self.artifact = name, artifact
        most = limits.samples if is_joinable(artifact.manifest) else 1
        self.batcher = Batcher(artifact.run, most, limits.wait, partial(metrics.count_call, name))

    @property
    def about(self) -> Manifest:
        """What it says about itself."""
        return self.artifact.manifest

    def read_call(self, read: Callable[[], Call]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read the inputs and the target of a call, and check them against the manifest."""
        call = read()
        given = self.artifact.bind_inputs((), call.inputs)
        return given, self.artifact.make_target(given, call.target)


class RequestHandler:
    """What all requests share: artefacts, room for bodies, a queue, and processes for JSON."""

    def __init__(self, artifacts: Mapping[str, Artifact], limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.bodies = Bodies(limits.body, MAX_BODIES * limits.body, limits.seconds)
        self.json = JsonWorkers(JSON_PROCESSES, max(2**28, MEMORY_FACTOR * limits.body))
        self.metrics = Metrics(lambda: self.in_flight, lambda: len(self.bodies.arriving))
        self.artifacts = {
            name: HostedArtifact(name, artifact, limits, self.metrics) for name, artifact in artifacts.items()
        }

    def find_artifact(self, request: Request) -> HostedArtifact:
        """Find the artefact that a request names in its path; one that is alone needs no name.

        Raises:
            HTTPException: If there is no such artefact, or not in this version.
        """
        if (version := request.path_params.get("version", ARTIFACT_VERSION)) != ARTIFACT_VERSION:
            raise HTTPException(404, f"there is no version {version!r}, but {ARTIFACT_VERSION}")
        name = request.path_params.get("name", next(iter(self.artifacts)) if len(self.artifacts) == 1 else None)
        if name is None:
            raise HTTPException(404, f"name the artefact: /models/NAME/explain with one of {', '.join(self.artifacts)}")
        if name not in self.artifacts:
            raise HTTPException(404, f"there is no artefact of this name, but {', '.join(self.artifacts)}")
        request.state.model = name
        return self.artifacts[name]

    @asynccontextmanager
    async def take_in(self, request: Request) -> AsyncIterator[bytes]:
        """Take in a request: wait for its whole body, and give it a place in the queue.

        Raises:
            HTTPException: If the body does not come, or the queue is full, or the service ends.
        """
        async with self.bodies.read_whole(request) as body:
            if self.in_flight >= self.limits.queue:
                raise HTTPException(503, f"{self.in_flight} requests are being answered: try again later", RETRY_HEADER)
            self.in_flight += 1
            try:
                yield body
            except asyncio.CancelledError:
                raise HTTPException(503, "the service stops", CLOSE_HEADER) from None
            finally:
                self.in_flight -= 1

    async def explain(
        self, request: Request, hosted: HostedArtifact, size: int, read: Callable[[], Call]
    ) -> dict[str, Tensor]:
        """Compute the results for a request.

        Args:
            request: The request.
            hosted: The artefact.
            size: Bytes of the body.
            read: Makes tensors of it.

        Raises:
            FxlrpError: If they do not fit the artefact.
        """
        given, chosen = await run_aside(size, hosted.read_call, read)
        tensors = {**given, **chosen}
        request.state.samples = next((len(tensor) for tensor in tensors.values() if tensor.ndim), 1)
        results = dict(await hosted.batcher.submit(tensors))
        hosted.artifact.check_reached(chosen, results)
        return results

    async def explain_json(
        self,
        request: Request,
        hosted: HostedArtifact,
        body: bytes,
        read: Callable[[Any, Manifest], Call],
        write: Callable[[Mapping[str, Tensor]], Any],
    ) -> Response:
        """Answer a body of JSON with JSON.

        Args:
            request: The request.
            hosted: The artefact.
            body: The body.
            read: Makes tensors of its document.
            write: Makes a document of the results.

        Raises:
            FxlrpError: If the body cannot be read or does not fit the artefact.
        """
        document = await self.parse_body(body, hosted)
        found = await self.explain(request, hosted, len(body), partial(read, document, hosted.about))
        answer = await run_aside(count_bytes(found), write, found)
        return Response(await self.write_json(answer, found), media_type=JSON)

    async def answer_ready(self, request: Request) -> Response:
        """Say that an artefact can be run: all of them are loaded before the service begins."""
        return JSONResponse({"name": self.find_artifact(request).name, "ready": True})

    async def parse_body(self, body: bytes, hosted: HostedArtifact) -> Any:
        """Parse a body of JSON; of lists with more numbers than the artefact can take, the numbers are not kept."""
        most = hosted.about.count_most_entries()
        return await self.json.parse(body, len(body) if most is None else most)

    async def write_json(self, document: Any, results: Mapping[str, Tensor]) -> bytes:
        """Write a document with results in it as JSON."""
        return await self.json.write(document, sum(math.prod(tensor.shape) for tensor in results.values()))
