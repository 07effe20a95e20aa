"""KServe's older protocol, which has a path for explanations: instances go in, one explanation of each comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Spec
from fxlrp.errors import RequestError, SignatureError
from fxlrp.serving.batching import is_batched
from fxlrp.serving.bodies import read_content_type
from fxlrp.serving.json_numbers import Numbers
from fxlrp.serving.messages import JSON, Call, make_call, pack_tensor, read_target, read_tensor
from fxlrp.serving.request_handling import RequestHandler

INSTANCES_FORM = (
    '{"instances": [nested lists of the only input, or {NAME: nested lists}, ...], '
    '"target": null (the largest), a class, or a list with one per instance}'
)


def make_routes(handler: RequestHandler) -> list[Route]:
    """Make the routes of the protocol."""
    protocol = KServeProtocol(handler)
    return [
        Route("/v1/models", protocol.index),
        Route("/v1/models/{name}:explain", protocol.explain, methods=["POST"]),
        Route("/v1/models/{name}", handler.answer_ready),
    ]


class KServeProtocol:
    """Answers about artefacts, and runs them."""

    def __init__(self, handler: RequestHandler) -> None:
        self.handler = handler

    async def index(self, _: Request) -> Response:
        """List the artefacts."""
        return JSONResponse({"models": list(self.handler.artifacts)})

    async def explain(self, request: Request) -> Response:
        """Run an artefact, and give each instance its part of the results.

        Raises:
            SignatureError: If the artefact does not tell its samples apart.
        """
        hosted = self.handler.find_artifact(request)
        read_content_type(request, JSON)
        if not is_batched(hosted.about):
            raise SignatureError("not everything that this artefact takes or returns is per sample: use /explain")
        async with self.handler.take_in(request) as body:
            return await self.handler.explain_json(request, hosted, body, read_instances, split_results)


def read_instances(document: Any, about: Manifest) -> Call:
    """Read the call for a list of instances.

    Raises:
        RequestError: If the document is of another structure.
        SignatureError: If an input is unknown, or has entries that its type cannot hold.
    """
    if not isinstance(document, dict) or document.keys() - {"instances", TARGET}:
        raise RequestError(f"the body must be {INSTANCES_FORM}")
    found, target = document.get("instances"), document.get(TARGET)
    specs = {spec.name: spec for spec in about.model_inputs}
    if isinstance(found, list) and found and all(isinstance(part, dict) for part in found):
        if any(part.keys() != found[0].keys() for part in found):
            raise RequestError("every instance must have the same names in it")
        if unknown := found[0].keys() - specs.keys():
            raise SignatureError(f"there is no input {min(unknown)!r}\n{about.signature()}")
        return Call(
            {name: stack_instances([part[name] for part in found], specs[name]) for name in found[0]},
            read_target(target, about),
        )
    if len(specs) != 1 or not isinstance(found, (list, Numbers)):
        raise RequestError(f"the body must be {INSTANCES_FORM}\n{about.signature()}")
    return make_call(dict.fromkeys(specs, found), target, about)


def stack_instances(values: Sequence[Any], spec: Spec) -> Tensor:
    """Stack the values of all instances to one tensor."""
    if not any(isinstance(value, Numbers) for value in values):
        return read_tensor(list(values), spec)
    tensors = [read_tensor(value, replace(spec, shape=spec.shape[1:])) for value in values]
    if len({tensor.shape for tensor in tensors}) > 1:
        raise SignatureError(f"'{spec.name}' must have the same shape in every instance: {spec}")
    return torch.stack(tensors)


def split_results(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Split results by sample: the model's outputs, and what explains them."""
    kinds = {"predictions": False, "explanations": True}
    return {
        kind: list_samples({name: t for name, t in found.items() if name.startswith(("relevance", "read")) is explains})
        for kind, explains in kinds.items()
    }


def list_samples(found: Mapping[str, Tensor]) -> list[dict[str, Numbers]]:
    """List the results of each sample."""
    return [
        {name: pack_tensor(tensor) for name, tensor in zip(found, sample, strict=True)}
        for sample in zip(*found.values(), strict=True)
    ]
