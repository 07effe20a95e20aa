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
from torch import Tensor

from fxlrp.artifacts.artifact import Artifact
from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.serving.batching import Batcher, is_joinable
from fxlrp.serving.bodies import CLOSE_HEADER, RETRY_HEADER, Bodies
from fxlrp.serving.json_workers import JsonWorkers, run_aside
from fxlrp.serving.messages import Call
from fxlrp.serving.metrics import Metrics

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
        self.batcher = Batcher(artifact.run, most, limits.wait, partial(metrics.called, name))

    @property
    def about(self) -> Manifest:
        """What it says about itself."""
        return self.artifact.manifest

    def asked(self, read: Callable[[], Call]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read the inputs and the target of a call, and check them against the manifest."""
        call = read()
        given = self.artifact.bound((), call.inputs)
        return given, self.artifact.chosen(given, call.target)


class RequestHandler:
    """What all requests share: artefacts, room for bodies, a queue, and processes for JSON."""

    def __init__(self, artifacts: Mapping[str, Artifact], limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.bodies = Bodies(limits.body, MAX_BODIES * limits.body, limits.seconds)
        self.workers = JsonWorkers(JSON_PROCESSES, max(2**28, MEMORY_FACTOR * limits.body))
        self.metrics = Metrics(lambda: self.in_flight, lambda: len(self.bodies.arriving))
        self.hosts = {
            name: HostedArtifact(name, artifact, limits, self.metrics) for name, artifact in artifacts.items()
        }

    def host(self, request: Request) -> HostedArtifact:
        """Find the artefact that a request names in its path; one that is alone needs no name.

        Raises:
            HTTPException: If there is no such artefact.
        """
        name = request.path_params.get("name", next(iter(self.hosts)) if len(self.hosts) == 1 else None)
        if name is None:
            raise HTTPException(404, f"name the artefact: /models/NAME/explain with one of {', '.join(self.hosts)}")
        if name not in self.hosts:
            raise HTTPException(404, f"there is no artefact of this name, but {', '.join(self.hosts)}")
        request.state.model = name
        return self.hosts[name]

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[bytes]:
        """Take in a request: wait for its whole body, and give it a place in the queue.

        Raises:
            HTTPException: If the body does not come, or the queue is full, or the service ends.
        """
        async with self.bodies.whole(request) as body:
            if self.in_flight >= self.limits.queue:
                raise HTTPException(503, f"{self.in_flight} requests are being answered: try again later", RETRY_HEADER)
            self.in_flight += 1
            try:
                yield body
            except asyncio.CancelledError:
                raise HTTPException(503, "the service stops", CLOSE_HEADER) from None
            finally:
                self.in_flight -= 1

    async def explained(
        self, request: Request, host: HostedArtifact, size: int, read: Callable[[], Call]
    ) -> dict[str, Tensor]:
        """Compute the results for a request.

        Args:
            request: The request.
            host: The artefact.
            size: Bytes of the body.
            read: Makes tensors of it.

        Raises:
            FxlrpError: If they do not fit the artefact.
        """
        given, chosen = await run_aside(size, host.asked, read)
        tensors = {**given, **chosen}
        request.state.samples = next((len(tensor) for tensor in tensors.values() if tensor.ndim), 1)
        results = dict(await host.batcher.submit(tensors))
        host.artifact.check_reached(chosen, results)
        return results

    async def document(self, body: bytes, host: HostedArtifact) -> Any:
        """Parse a body of JSON; of lists with more numbers than the artefact can take, the numbers are not kept."""
        most = host.about.most_entries()
        return await self.workers.parse(body, len(body) if most is None else most)

    async def text(self, document: Any, results: Mapping[str, Tensor]) -> bytes:
        """Write a document with results in it as JSON."""
        return await self.workers.write(document, sum(math.prod(tensor.shape) for tensor in results.values()))
