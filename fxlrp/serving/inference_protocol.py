"""The Open Inference Protocol, version 2, with its extension for binary tensors.

Clients of Triton, KServe and others speak it. The target is an input like others, called ``target``; without it the
largest output is explained.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

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
from fxlrp.serving.request_handling import ARTIFACT_VERSION, RequestHandler

OCTET_STREAM = "application/octet-stream"
HealthCheck = Callable[[Request], Awaitable[Response]]


def make_routes(handler: RequestHandler, health: HealthCheck, ready: HealthCheck) -> list[Route]:
    """Make the routes of the protocol.

    Args:
        handler: Takes requests in.
        health: Says whether the service lives.
        ready: Says whether it would take a request.
    """
    protocol = InferenceProtocol(handler)
    model, versioned = "/v2/models/{name}", "/versions/{version}"
    return [
        Route("/v2", describe_server),
        Route("/v2/health/live", health),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", protocol.index, methods=["POST"]),
        *(Route(path, protocol.model) for path in (model, model + versioned)),
        *(Route(f"{path}/ready", handler.answer_ready) for path in (model, model + versioned)),
        *(Route(f"{path}/infer", protocol.infer, methods=["POST"]) for path in (model, model + versioned)),
    ]


async def describe_server(_: Request) -> Response:
    """Describe the server."""
    return JSONResponse({"name": "fxlrp", "version": version("fxlrp"), "extensions": ["binary_tensor_data"]})


class InferenceProtocol:
    """Answers about artefacts, and runs them."""

    def __init__(self, handler: RequestHandler) -> None:
        self.handler = handler

    async def index(self, _: Request) -> Response:
        """List the artefacts."""
        known = {"version": ARTIFACT_VERSION, "state": "READY", "reason": ""}
        return JSONResponse([{"name": name, **known} for name in self.handler.artifacts])

    async def model(self, request: Request) -> Response:
        """Describe what an artefact takes and returns; a size that may change is -1."""
        hosted = self.handler.find_artifact(request)
        about = hosted.about
        return JSONResponse(
            {
                "name": hosted.name,
                "versions": [ARTIFACT_VERSION],
                "platform": f"fxlrp_{about.format}",
                "inputs": [describe_tensor(spec) for spec in about.inputs],
                "outputs": [describe_tensor(spec) for spec in about.outputs],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Run an artefact."""
        hosted = self.handler.find_artifact(request)
        read_content_type(request, JSON, OCTET_STREAM, "")  # Triton's client says none
        async with self.handler.take_in(request) as body:
            length = read_head_length(request.headers.get(HEADER_LENGTH), len(body))
            document = await self.handler.parse_body(body[:length], hosted)
            asked = InferRequest.of(document, hosted.about)
            read = partial(read_tensors, asked.inputs, body[length:], hosted.about)
            found = await self.handler.explain(request, hosted, len(body), read)
            return await self.write_answer(hosted.name, asked, found)

    async def write_answer(self, name: str, asked: InferRequest, found: Mapping[str, Tensor]) -> Response:
        """Write the answer."""
        wanted = asked.outputs or dict.fromkeys(found, asked.binary)
        outputs, blobs = await run_aside(count_bytes(found), describe_outputs, wanted, found)
        plain = {output: found[output] for output, binary in wanted.items() if not binary}
        document = {"model_name": name, "model_version": ARTIFACT_VERSION, **asked.id, "outputs": outputs}
        head = await self.handler.write_json(document, plain)
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
