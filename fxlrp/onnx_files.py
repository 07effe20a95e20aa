"""ONNX: programs written out in its ops, a manifest at the end of the file, and onnxruntime."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxlrp.decompositions import decompositions
from fxlrp.errors import ArtifactError, FxlrpError
from fxlrp.extras import require
from fxlrp.manifest import Manifest
from fxlrp.opened import OPENED

KEY = "fxlrp"
"""Of the manifest, among the model's metadata."""
LIMIT = 2**31 - 2**24
"""Bytes that one message of protobuf can hold, less what the graph may take."""


def write_onnx(program: ExportedProgram, manifest: Manifest, path: Path) -> None:
    """Write a program as one ONNX file, with the manifest behind it.

    Raises:
        ArtifactError: If an op has no ONNX form, or the weights are too large.
    """
    require("onnxscript", "onnx")
    size = sum(t.numel() * t.itemsize for t in program.state_dict.values())
    if size > LIMIT:
        raise ArtifactError(f"the weights have {size / 2**30:.1f} GiB, and one ONNX file holds 2: use the format 'pt2'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = program.run_decompositions({**decompositions(), **OPENED})
            made = torch.onnx.export(
                opened,
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in manifest.inputs],
                output_names=[spec.name for spec in manifest.outputs],
            )
            assert made is not None
            content = made.model_proto.SerializeToString()
    except FxlrpError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"the program has no ONNX form\n  {reason(error)}\nThe format 'pt2' takes any program."
        ) from error
    parts = {"model": hashlib.sha256(content).hexdigest()}
    path.write_bytes(content + trailer(replace(manifest, parts=parts)))


def reason(error: BaseException) -> str:
    """What an error of the exporter says of the op, or else its first cause: it wraps errors several times."""
    text = str(error)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", text)
    if missing is not None:
        return f"there is no ONNX function for {missing[1]}.{missing[2]}"
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def trailer(manifest: Manifest) -> bytes:
    """The manifest as a message that a reader joins to the model in front of it."""
    onnx = require("onnx", "onnx")
    entry = onnx.StringStringEntryProto(key=KEY, value=manifest.to_json())
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content


def read_onnx(path: Path, content: bytes) -> tuple[Manifest, Callable[[Sequence[Tensor]], list[Tensor]]]:
    """The manifest of an ONNX file, and what runs it.

    Raises:
        ArtifactError: If it is damaged, or reads other files.
    """
    onnx = require("onnx", "onnx")
    runtime = require("onnxruntime", "onnx")
    try:
        model = onnx.ModelProto.FromString(content)
        described = {entry.key: entry.value for entry in model.metadata_props}
    except Exception as error:
        raise ArtifactError(f"{path} is no ONNX file, or is damaged: {error}") from error
    if KEY not in described:
        raise ArtifactError(f"{path} was not written by fxlrp, or is cut off: it has no manifest")
    manifest = Manifest.from_json(described[KEY])
    behind = trailer(manifest)
    if not content.endswith(behind):
        raise ArtifactError(f"{path} goes on behind its manifest")
    manifest.check_parts({"model": hashlib.sha256(content[: -len(behind)]).hexdigest()})
    if any(tensor.external_data for tensor in tensors_of(model.graph)):
        raise ArtifactError(f"{path} reads weights from other files, which fxlrp does not write")
    try:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load {path}\n  {error}") from error
    names = [spec.name for spec in manifest.inputs]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return manifest, run


def tensors_of(graph: Any) -> Iterator[Any]:
    """Every tensor stored in a graph and in the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from tensors_of(inner)
