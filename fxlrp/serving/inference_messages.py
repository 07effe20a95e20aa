"""Requests of the Open Inference Protocol: JSON that describes tensors, and their bytes after it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Spec
from fxlrp.errors import RequestError, SignatureError
from fxlrp.serving.json_numbers import Numbers, pack_lists
from fxlrp.serving.messages import Call, check_booleans, convert_numbers

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "BF16",
}
"""The protocol's names of torch's types."""


def describe_tensor(spec: Spec) -> dict[str, Any]:
    """Describe a tensor as the protocol does."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def name_datatype(tensor: Tensor) -> str:
    """Return the protocol's name of a tensor's type."""
    return DATATYPES[str(tensor.dtype).removeprefix("torch.")]


def read_head_length(header: str | None, size: int) -> int:
    """Return how many bytes of a body are JSON.

    Raises:
        RequestError: If the body has fewer.
    """
    if header is None:
        return size
    if not header.isascii() or not header.isdecimal() or len(header) > 12 or int(header) > size:
        raise RequestError(f"{HEADER_LENGTH} must be at most the {size} bytes of the body, not {header!r}")
    return int(header)


@dataclass(frozen=True)
class InferRequest:
    """A request without its tensors.

    Attributes:
        inputs: Descriptions of the inputs.
        outputs: Whether each wanted output shall be binary; empty if all are wanted.
        binary: Whether they shall be if nothing is said.
        id: The name of the request, if it has one.
    """

    inputs: Sequence[Mapping[str, Any]]
    outputs: Mapping[str, bool]
    binary: bool
    id: Mapping[str, str]

    @classmethod
    def of(cls, document: Any, about: Manifest) -> InferRequest:
        """Read the JSON of a request.

        Raises:
            RequestError: If it is not as the protocol says, or an unknown output is wanted.
        """
        expect_type(document, dict, "the body")
        binary = read_flag(document, "binary_data_output", False, ())
        names = [spec.name for spec in about.outputs]
        outputs = {}
        for entry in expect_type(document.get("outputs", []), list, "outputs"):
            name = expect_type(expect_type(entry, dict, "an output").get("name"), str, "the name of an output")
            if name not in names:
                raise RequestError(f"there is no output {name!r}, but {', '.join(names)}")
            outputs[name] = read_flag(entry, "binary_data", binary, {"binary_data"})
        inputs = [expect_type(entry, dict, "an input") for entry in expect_type(document.get("inputs"), list, "inputs")]
        known = {"id": expect_type(document["id"], str, "id")} if "id" in document else {}
        return cls(inputs, outputs, binary, known)


def expect_type(value: Any, kind: type, what: str) -> Any:
    """Return the value, which must be of a type.

    Raises:
        RequestError: If it is not.
    """
    if type(value) is not kind:
        words = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a number"}
        raise RequestError(f"{what} must be {words[kind]}, as the Open Inference Protocol says")
    return value


def read_flag(entry: Mapping[str, Any], name: str, default: bool, known: Collection[str]) -> bool:
    """Read a parameter that is true or false; a tensor must have no other, which would change what is meant."""
    parameters = expect_type(entry.get("parameters", {}), dict, "parameters")
    if known and (unknown := parameters.keys() - set(known)):
        raise RequestError(f"the parameter {min(unknown)!r} is not supported here")
    return bool(expect_type(parameters.get(name, default), bool, name))


def read_tensors(inputs: Sequence[Mapping[str, Any]], rest: bytes, about: Manifest) -> Call:
    """Read the tensors of a request.

    Args:
        inputs: Their descriptions.
        rest: What follows the JSON.
        about: Says of which types they must be.

    Raises:
        RequestError: If they are not as they are described.
        SignatureError: If one is unknown or of another type.
    """
    specs = {spec.name: spec for spec in about.inputs}
    tensors: dict[str, Tensor] = {}
    start = 0
    for entry in inputs:
        name = expect_type(entry.get("name"), str, "the name of an input")
        if name not in specs:
            raise SignatureError(f"there is no input {name!r}\n{about.signature()}")
        if name in tensors:
            raise RequestError(f"the input {name!r} comes twice")
        shape = read_shape(entry, specs[name])
        parameters = expect_type(entry.get("parameters", {}), dict, "parameters")
        if "binary_data_size" not in parameters:
            tensors[name] = read_tensor_lists(entry.get("data"), shape, specs[name])
            continue
        if parameters.keys() != {"binary_data_size"} or "data" in entry:
            raise RequestError(f"the input {name!r} has data and other parameters besides its binary_data_size")
        size = expect_type(parameters["binary_data_size"], int, "binary_data_size")
        tensors[name] = read_tensor_bytes(rest[start : start + size] if size >= 0 else b"", shape, specs[name])
        start += size
    if start != len(rest):
        raise RequestError(f"{len(rest)} bytes follow the JSON, and the inputs are of {start}")
    return Call({name: t for name, t in tensors.items() if name != TARGET}, tensors.get(TARGET))


def read_shape(entry: Mapping[str, Any], spec: Spec) -> list[int]:
    """Read the shape of an input, whose type must be that of the artefact."""
    if (found := entry.get("datatype")) != (wanted := DATATYPES[spec.dtype]):
        raise SignatureError(f"'{spec.name}' must have the datatype {wanted}, not {found!r}")
    shape: list[int] = expect_type(entry.get("shape"), list, "shape")
    if not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise RequestError(f"the shape of '{spec.name}' must be a list of numbers, none of them 0")
    return shape


def read_tensor_bytes(data: bytes, shape: Sequence[int], spec: Spec) -> Tensor:
    """Read a tensor from bytes, the lowest of each number first."""
    dtype = getattr(torch, spec.dtype)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise RequestError(f"'{spec.name}' of shape {shape} has {len(data)} bytes")
    return check_booleans(torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape), spec.name)


def read_tensor_lists(data: Any, shape: Sequence[int], spec: Spec) -> Tensor:
    """Read a tensor from lists, nested or not."""
    numbers = data if isinstance(data, Numbers) else pack_lists(data)
    if math.prod(numbers.shape) != math.prod(shape) or not numbers.shape:
        raise RequestError(f"the data of '{spec.name}' must be a list, or lists nested evenly, of shape {shape}")
    return convert_numbers(numbers, spec).reshape(list(shape))
