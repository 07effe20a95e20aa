"""What goes over the network: bodies of requests and answers, as JSON or as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Spec
from fxlrp.errors import RequestError, SignatureError, TargetError
from fxlrp.serving.json_numbers import Numbers, nest_numbers, pack_lists

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
BODY_FORM = (
    '{"inputs": {NAME: nested lists, the batch dimension too}, '
    '"target": null (the largest), a class, or a list with a class or an index per sample}'
)
INPUTS = "inputs"
MAX_HEADER_BYTES = 2**16
"""Bytes of the header of safetensors, which is JSON."""
PYTHON_TYPES = {"bool": {"bool"}, "int": {"int"}, "float": {"int", "float"}}
"""Python's types for the entries of a tensor. A truth value is no number, and 3.0 is no index."""


@dataclass(frozen=True)
class Call:
    """A call of an artefact, its numbers not yet checked against the manifest.

    Attributes:
        inputs: Tensors by name, the target not among them.
        target: As `fxlrp.artifacts.artifact.Artifact` takes it.
    """

    inputs: Mapping[str, Tensor]
    target: Any


def read_safetensors(body: bytes) -> Call:
    """Read tensors by name; ``target`` is one of them, and may be left out.

    Raises:
        RequestError: If the body is not safetensors.
    """
    if int.from_bytes(body[:8], "little") > MAX_HEADER_BYTES:
        raise RequestError(f"the body is not safetensors: its header has more than {MAX_HEADER_BYTES} bytes")
    try:
        tensors = load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RequestError(f"the body is not safetensors: {error}") from error
    checked = {name: check_booleans(tensor, name) for name, tensor in tensors.items()}
    target = checked.pop(TARGET, None)
    return Call(checked, target)


def check_booleans(tensor: Tensor, name: str) -> Tensor:
    """Return the tensor, if no byte of a truth value is other than 0 and 1: ops differ in what they make of those.

    Raises:
        SignatureError: If there is one.
    """
    if tensor.dtype is torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise SignatureError(f"'{name}' has bytes that are neither 0 nor 1")
    return tensor


def read_document(document: Any, about: Manifest) -> Call:
    """Read ``{"inputs": {NAME: nested lists}, "target": ...}``.

    Args:
        document: What `fxlrp.serving.json_numbers.parse_json` read.
        about: Says of which type each input is.

    Raises:
        RequestError: If it is of another structure.
        SignatureError: If an input is unknown, or has entries that its type cannot hold.
        TargetError: If the target is no index and no list of them.
    """
    if (
        not isinstance(document, dict)
        or not isinstance(document.get(INPUTS), dict)
        or document.keys() - {INPUTS, TARGET}
    ):
        raise RequestError(f"the body must be {BODY_FORM}")
    return make_call(document[INPUTS], document.get(TARGET), about)


def make_call(values: Mapping[str, Any], target: Any, about: Manifest) -> Call:
    """Make the call for nested lists by name and a target.

    Raises:
        SignatureError: If an input is unknown, or has entries that its type cannot hold.
        TargetError: If the target is no index and no list of them.
    """
    specs = {spec.name: spec for spec in about.model_inputs}
    if unknown := values.keys() - specs.keys():
        raise SignatureError(f"there is no input {min(unknown)!r}\n{about.signature()}")
    return Call({name: read_tensor(value, specs[name]) for name, value in values.items()}, read_target(target, about))


def read_target(target: Any, about: Manifest) -> Any:
    """Read the target of JSON, as `fxlrp.artifacts.artifact.Artifact` takes it."""
    if about.target == "seed" and target is not None:
        return read_tensor(target, about.inputs[-1])
    return read_index(target)


def read_tensor(value: Any, spec: Spec) -> Tensor:
    """Read a tensor from nested lists; whether its shape fits is checked elsewhere, once for all kinds of bodies.

    Raises:
        SignatureError: If the lists are not nested evenly, or hold what the type of the input cannot.
    """
    numbers = value if isinstance(value, Numbers) else pack_lists(value)
    depth = len(spec.shape)
    if 0 in numbers.shape[:depth]:
        raise SignatureError(f"'{spec.name}' has an empty list in it: {spec}")
    if len(numbers.shape) < depth:
        raise SignatureError(f"'{spec.name}' must be lists nested evenly, {depth} deep: {spec}")
    return convert_numbers(numbers if len(numbers.shape) == depth else replace(numbers, types=("list",)), spec)


def convert_numbers(numbers: Numbers, spec: Spec) -> Tensor:
    """Convert an array to a tensor of its shape.

    Raises:
        SignatureError: If it holds what the type of the input cannot.
    """
    dtype = getattr(torch, spec.dtype)
    kind = "float" if dtype.is_floating_point else "bool" if dtype is torch.bool else "int"
    if wrong := set(numbers.types) - PYTHON_TYPES[kind]:
        names = ", ".join(sorted(wrong))
        raise SignatureError(f"'{spec.name}' has entries of type {names}, and takes {kind}: {spec}")
    if (tensor := convert_entries(numbers, dtype)) is None:
        raise SignatureError(f"'{spec.name}' has more numbers than fit, or one that {spec.dtype} cannot hold: {spec}")
    return tensor.reshape(numbers.shape)


def convert_entries(numbers: Numbers, dtype: torch.dtype) -> Tensor | None:
    """Convert an array's entries to a flat tensor, or return None if one is beyond its type."""
    if not numbers.code:
        return None
    entries = np.frombuffer(numbers.data, numbers.code)
    if dtype.is_floating_point:
        tensor = torch.from_numpy(entries.astype(np.float64)).to(dtype)
        return tensor if is_finite(tensor) else None
    if dtype is torch.bool:
        return torch.from_numpy(entries.astype(np.bool_))
    limits = torch.iinfo(dtype)
    if (
        numbers.code == "d" or int(entries.min()) < limits.min or int(entries.max()) > limits.max
    ):  # torch would take -1 for 255
        return None
    return torch.from_numpy(entries.astype(str(dtype).removeprefix("torch.")))


def read_index(target: Any) -> Any:
    """Read a target as Python writes it: an index of several dimensions is a tuple there, and JSON has lists only.

    Raises:
        TargetError: If it is none of null, an index, and a list of one per sample.
    """
    if isinstance(target, Numbers):
        target = nest_numbers(target) if target.code else [""]
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


def write_safetensors(results: Mapping[str, Tensor]) -> bytes:
    """Write every result by its name, as safetensors."""
    return save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in results.items()})


def count_bytes(results: Mapping[str, Tensor]) -> int:
    """Count the bytes of all results."""
    return sum(tensor.nbytes for tensor in results.values())


def pack_results(results: Mapping[str, Tensor]) -> dict[str, dict[str, Numbers]]:
    """Return ``{"results": {NAME: array}}``."""
    return {"results": {name: pack_tensor(tensor) for name, tensor in results.items()}}


def pack_tensor(tensor: Tensor) -> Numbers:
    """Copy a tensor into an array."""
    if tensor.is_floating_point():
        return Numbers(tuple(tensor.shape), ("float",), "d", view_bytes(tensor.double()))
    if tensor.dtype is torch.bool:
        return Numbers(tuple(tensor.shape), ("bool",), "b", view_bytes(tensor))
    code, wide = ("Q", tensor) if tensor.dtype is torch.uint64 else ("q", tensor.to(torch.int64))
    return Numbers(tuple(tensor.shape), ("int",), code, view_bytes(wide))


def view_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, in order."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def is_finite(tensor: Tensor) -> bool:
    """Return whether no entry is infinite or NaN."""
    return bool(tensor.isfinite().all())


def describe_artifact(name: str, about: Manifest, most: int) -> dict[str, Any]:
    """Describe an artefact and how it is asked, for JSON."""
    return {
        "name": name,
        "model": about.model,
        "rules": about.rules,
        "versions": {"fxlrp": about.fxlrp, "torch": about.torch},
        "inputs": [asdict(spec) for spec in about.model_inputs],
        "target": about.target,
        "explained": asdict(about.explained),
        "outputs": [asdict(spec) for spec in about.outputs],
        "sizes": {name: asdict(limits) for name, limits in about.sizes.items()},
        "fixed": about.fixed,
        "fingerprint": about.fingerprint,
        "bytes": most,
        "usage": f"POST /models/{name}/explain with {JSON} as {BODY_FORM}, "
        f"or {SAFETENSORS} with tensors of the same names",
    }
