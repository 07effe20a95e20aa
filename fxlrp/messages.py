"""What goes over the network: bodies of requests and answers, as JSON or as safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fxlrp.errors import RequestError, SignatureError, TargetError
from fxlrp.manifest import TARGET, Manifest
from fxlrp.specs import Spec

JSON = "application/json"
BINARY = "application/x-safetensors"
FORM = (
    '{"inputs": {NAME: nested lists, the batch dimension too}, '
    '"target": null (the largest), a class, or a list with a class or an index per sample}'
)
INPUTS = "inputs"
LIKE_JSON: dict[str, set[type]] = {"bool": {bool}, "int": {int}, "float": {int, float}}
"""Python's types for the entries of a tensor. A truth value is no number, and 3.0 is no index."""


@dataclass(frozen=True)
class Call:
    """A call of an artefact, its numbers not yet checked against the manifest.

    Attributes:
        inputs: Tensors by name, the target not among them.
        target: As `fxlrp.loading.Artifact` takes it.
    """

    inputs: Mapping[str, Tensor]
    target: Any


def decode(body: bytes, kind: str, about: Manifest) -> Call:
    """Read the body of a request.

    Args:
        body: The bytes.
        kind: `JSON` or `BINARY`.
        about: Says of which type each input is.

    Raises:
        RequestError: If it is not JSON or safetensors, or of another structure.
        SignatureError: If an input is unknown, or has entries that its type cannot hold.
        TargetError: If the target is no index and no list of them.
    """
    return decode_json(body, about) if kind == JSON else decode_binary(body)


def decode_binary(body: bytes) -> Call:
    """Tensors by name; ``target`` is one of them, and may be left out."""
    try:
        tensors = load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RequestError(f"the body is not safetensors: {error}") from error
    return Call({name: tensor for name, tensor in tensors.items() if name != TARGET}, tensors.get(TARGET))


def decode_json(body: bytes, about: Manifest) -> Call:
    """``{"inputs": {NAME: nested lists}, "target": ...}``."""
    try:
        content = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get(INPUTS), dict) or content.keys() - {INPUTS, TARGET}:
        raise RequestError(f"the body must be {FORM}")
    takes = {spec.name: spec for spec in about.inputs}
    specs = {name: spec for name, spec in takes.items() if name != TARGET}
    if unknown := content[INPUTS].keys() - specs.keys():
        raise SignatureError(f"there is no input {min(unknown)!r}\n{about.signature()}")
    inputs = {name: tensor_of(value, specs[name]) for name, value in content[INPUTS].items()}
    target = content.get(TARGET)
    if about.target == "seed" and target is not None:
        return Call(inputs, tensor_of(target, takes[TARGET]))
    return Call(inputs, index_of(target))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name may come twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def refuse(constant: str) -> Any:
    """Of NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{constant} is no number of JSON")


def tensor_of(value: Any, spec: Spec) -> Tensor:
    """The tensor of nested lists; whether its shape fits is checked elsewhere, once for all kinds of bodies.

    Raises:
        SignatureError: If the lists are not nested evenly, or hold what the type of the input cannot.
    """
    shape: list[int] = []
    level = [value]
    for _ in spec.shape:
        if {type(part) for part in level} != {list} or len({len(part) for part in level}) != 1:
            raise SignatureError(f"'{spec.name}' must be lists nested evenly, {len(spec.shape)} deep: {spec}")
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
        if not level:
            raise SignatureError(f"'{spec.name}' has an empty list in it: {spec}")
    dtype = getattr(torch, spec.dtype)
    kind = "float" if dtype.is_floating_point else "bool" if dtype is torch.bool else "int"
    if wrong := {type(entry) for entry in level} - LIKE_JSON[kind]:
        names = ", ".join(sorted(t.__name__ for t in wrong))
        raise SignatureError(f"'{spec.name}' has entries of type {names}, and takes {kind}: {spec}")
    if (tensor := flat_tensor(level, dtype)) is None:
        raise SignatureError(f"'{spec.name}' has a number that {spec.dtype} cannot hold")
    return tensor.reshape(shape)


def flat_tensor(numbers: Sequence[Any], dtype: torch.dtype) -> Tensor | None:
    """The tensor of numbers, or None if one is beyond its type."""
    try:
        if dtype is torch.bool:
            return torch.tensor(numbers, dtype=dtype)
        if not dtype.is_floating_point:
            kept = torch.iinfo(dtype).min <= min(numbers) and max(numbers) <= torch.iinfo(dtype).max
            return torch.tensor(numbers, dtype=dtype) if kept else None  # which would take -1 for 255
        tensor = torch.from_numpy(np.array(numbers, np.float64)).to(dtype)  # three times as fast as torch.tensor
    except (OverflowError, RuntimeError):
        return None
    return tensor if finite(tensor) else None


def index_of(target: Any) -> Any:
    """A target as Python writes it: an index of several dimensions is a tuple there, and JSON has lists only.

    Raises:
        TargetError: If it is none of null, an index, and a list of one per sample.
    """
    entries = target if isinstance(target, list) else [target]
    flat = chain.from_iterable(entry if isinstance(entry, list) else [entry] for entry in entries)
    if {type(part) for part in flat} - {int, type(None)}:
        raise TargetError(
            "a target is null (the largest), a class, or a list with one entry per sample: a class, or a list of "
            "one index per dimension, with null for the largest"
        )
    if not isinstance(target, list):
        return target
    return [tuple(entry) if isinstance(entry, list) else entry for entry in target]


def encode(results: Mapping[str, Tensor], kind: str) -> bytes:
    """The body of an answer: every result by its name; numbers in JSON have all digits that tell them apart."""
    if kind == BINARY:
        return save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in results.items()})
    content = {
        name: tensor.tolist() if finite(tensor) else spelled(tensor.tolist()) for name, tensor in results.items()
    }
    return json.dumps({"results": content}, allow_nan=False, separators=(",", ":")).encode()


def finite(tensor: Tensor) -> bool:
    """Whether all of it is."""
    return bool(tensor.isfinite().all())


def spelled(value: Any) -> Any:
    """With "NaN", "Infinity" and "-Infinity" where a number is not finite, as Protocol Buffers write it in JSON."""
    if isinstance(value, list):
        return [spelled(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def describe(about: Manifest, most: int) -> dict[str, Any]:
    """What an artefact is and how it is asked, as JSON."""
    takes = [spec for spec in about.inputs if spec.name != TARGET]
    return {
        "model": about.model,
        "rules": about.rules,
        "versions": {"fxlrp": about.fxlrp, "torch": about.torch},
        "inputs": [asdict(spec) for spec in takes],
        "target": about.target,
        "explained": asdict(about.explained),
        "outputs": [asdict(spec) for spec in about.outputs],
        "sizes": {name: asdict(limits) for name, limits in about.sizes.items()},
        "fixed": about.fixed,
        "fingerprint": about.fingerprint,
        "bytes": most,
        "usage": f"POST /explain with {JSON} as {FORM}, or {BINARY} with tensors of the same names",
    }
