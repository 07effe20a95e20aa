"""The Open Inference Protocol, version 2, with its extension for binary tensors.

Clients of Triton, KServe and others speak it. The target is an input like others, called ``target``; without it the
largest output is explained.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from fxlrp.serving.bodies import read_content_type
from fxlrp.serving.inference_messages import (
    HEADER_LENGTH,
    InferRequest,
    describe_tensor,
    name_datatype,
    read_head_length,
    read_tensors,
)
from fxlrp.serving.json_workers import run_aside
from fxlrp.serving.messages import JSON, count_bytes, pack_tensor, view_bytes
from fxlrp.serving.request_handling import HostedArtifact, RequestHandler

ARTIFACT_VERSION = "1"
"""Of every artefact; another one is another file."""
OCTET_STREAM = "application/octet-stream"
HealthCheck = Callable[[Request], Awaitable[Response]]


def make_routes(desk: RequestHandler, health: HealthCheck, ready: HealthCheck) -> list[Route]:
    """Make the routes of the protocol.

    Args:
        desk: Takes requests in.
        health: Says whether the service lives.
        ready: Says whether it would take a request.
    """
    protocol = InferenceProtocol(desk)
    model, versioned = "/v2/models/{name}", "/versions/{version}"
    return [
        Route("/v2", describe_server),
        Route("/v2/health/live", health),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", protocol.index, methods=["POST"]),
        *(Route(path, protocol.model) for path in (model, model + versioned)),
        *(Route(f"{path}/ready", protocol.ready) for path in (model, model + versioned)),
        *(Route(f"{path}/infer", protocol.infer, methods=["POST"]) for path in (model, model + versioned)),
    ]


async def describe_server(_: Request) -> Response:
    """Describe the server."""
    return JSONResponse({"name": "fxlrp", "version": version("fxlrp"), "extensions": ["binary_tensor_data"]})


class InferenceProtocol:
    """Answers about artefacts, and runs them."""

    def __init__(self, desk: RequestHandler) -> None:
        self.desk = desk

    def host(self, request: Request) -> HostedArtifact:
        """Find the artefact that a path names, with its only version."""
        if (given := request.path_params.get("version", ARTIFACT_VERSION)) != ARTIFACT_VERSION:
            raise HTTPException(404, f"there is no version {given!r}, but {ARTIFACT_VERSION}")
        return self.desk.host(request)

    async def index(self, _: Request) -> Response:
        """List the artefacts."""
        return JSONResponse(
            [{"name": name, "version": ARTIFACT_VERSION, "state": "READY", "reason": ""} for name in self.desk.hosts]
        )

    async def model(self, request: Request) -> Response:
        """Describe what an artefact takes and returns; a size that may change is -1."""
        host = self.host(request)
        about = host.about
        return JSONResponse(
            {
                "name": host.name,
                "versions": [ARTIFACT_VERSION],
                "platform": f"fxlrp_{about.format}",
                "inputs": [describe_tensor(spec) for spec in about.inputs],
                "outputs": [describe_tensor(spec) for spec in about.outputs],
            }
        )

    async def ready(self, request: Request) -> Response:
        """Say that an artefact can be run: all of them are loaded before the service begins."""
        return JSONResponse({"name": self.host(request).name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Run an artefact."""
        host = self.host(request)
        read_content_type(request, JSON, OCTET_STREAM, "")  # Triton's client says none
        async with self.desk.taken(request) as body:
            length = read_head_length(request.headers.get(HEADER_LENGTH), len(body))
            document = await self.desk.document(body[:length], host)
            asked = InferRequest.of(document, host.about)
            read = partial(read_tensors, asked.inputs, body[length:], host.about)
            found = await self.desk.explained(request, host, len(body), read)
            return await self.written(host.name, asked, found)

    async def written(self, name: str, asked: InferRequest, found: Mapping[str, Tensor]) -> Response:
        """Write the answer."""
        wanted = asked.outputs or dict.fromkeys(found, asked.binary)
        outputs, blobs = await run_aside(count_bytes(found), describe_outputs, wanted, found)
        plain = {output: found[output] for output, binary in wanted.items() if not binary}
        document = {"model_name": name, "model_version": ARTIFACT_VERSION, **asked.id, "outputs": outputs}
        head = await self.desk.text(document, plain)
        if not blobs:
            return Response(head, media_type=JSON)
        whole = await run_aside(count_bytes(found), b"".join, [head, *blobs])
        return Response(whole, media_type=OCTET_STREAM, headers={HEADER_LENGTH: str(len(head))})


def describe_outputs(wanted: Mapping[str, bool], found: Mapping[str, Tensor]) -> tuple[list[Any], list[memoryview]]:
    """Describe the outputs for JSON, and return the bytes of those that shall be binary."""
    outputs, blobs = [], []
    for output, binary in wanted.items():
        tensor = found[output]
        entry: dict[str, Any] = {"name": output, "datatype": name_datatype(tensor), "shape": list(tensor.shape)}
        if binary:
            blobs.append(view_bytes(tensor))
            entry["parameters"] = {"binary_data_size": tensor.nbytes}
        else:
            entry["data"] = pack_tensor(tensor.flatten())
        outputs.append(entry)
    return outputs, blobs
