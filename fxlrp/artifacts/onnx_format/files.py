"""ONNX: programs written out in its ops, a manifest at the end of the file, and onnxruntime."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.keys import check_signature, sign_manifest
from fxlrp.artifacts.onnx_format.checks import check_model, drop_remarks
from fxlrp.artifacts.onnx_format.plain_ops import PLAIN_FORMS
from fxlrp.artifacts.onnx_format.sizes import check_sizes
from fxlrp.capture.decompositions import make_decompositions
from fxlrp.errors import ArtifactError, FxlrpError
from fxlrp.optional import require

Run = Callable[[Sequence[Tensor]], list[Tensor]]

METADATA_KEY = "fxlrp"
"""Of the manifest, among the model's metadata."""
TRAILER_MARK = b"\n\x05fxlrp\x12"
"""What comes in front of the manifest: the key as a field of a message, and the tag of the next one."""
CONTINUED_BYTES = bytes(range(128, 256))
"""All bytes of a number in protobuf but its last."""
MAX_FOLDED_BYTES = 2**26
"""Bytes of a constant that onnxruntime may compute when it loads a model."""
MAX_WEIGHT_BYTES = 2**31 - 2**24
"""Bytes that one message of protobuf can hold, less what the graph may take."""


def write_onnx(program: ExportedProgram, manifest: Manifest, path: Path, key: Any = None) -> None:
    """Write a program as one ONNX file, with the manifest behind it, signed if there is a key.

    Raises:
        ArtifactError: If an op has no ONNX form, or the weights are too large.
    """
    require("onnxscript", "onnx")
    size = sum(t.numel() * t.itemsize for t in program.state_dict.values())
    if size > MAX_WEIGHT_BYTES:
        raise ArtifactError(f"the weights have {size / 2**30:.1f} GiB, and one ONNX file holds 2: use the format 'pt2'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = program.run_decompositions({**make_decompositions(), **PLAIN_FORMS})
            made = torch.onnx.export(
                opened,
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in manifest.inputs],
                output_names=[spec.name for spec in manifest.outputs],
            )
            assert made is not None
            model = made.model_proto
            drop_remarks(model)
            content = model.SerializeToString()
    except FxlrpError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"the program has no ONNX form\n  {explain_failure(error)}\nThe format 'pt2' takes any program."
        ) from error
    parts = {"model": hashlib.sha256(content).hexdigest()}
    path.write_bytes(content + make_trailer(sign_manifest(replace(manifest, device="cpu", parts=parts), key)))


def explain_failure(error: BaseException) -> str:
    """What an error of the exporter says of the op, or else its first cause: it wraps errors several times."""
    text = str(error)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", text)
    if missing is not None:
        return f"there is no ONNX function for {missing[1]}.{missing[2]}"
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def make_trailer(manifest: Manifest) -> bytes:
    """The manifest as a message that a reader joins to the model in front of it."""
    onnx = require("onnx", "onnx")
    entry = onnx.StringStringEntryProto(key=METADATA_KEY, value=manifest.to_json())
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content


def read_onnx(path: Path, content: bytes, keys: Sequence[bytes] | None = None) -> tuple[Manifest, Run]:
    """The manifest of an ONNX file, and what runs it.

    Args:
        path: The file, for errors.
        content: All of it.
        keys: Public keys, one of which must have signed it; see `check_signature`.

    Raises:
        ArtifactError: If it is damaged, or holds what fxlrp does not write.
    """
    onnx = require("onnx", "onnx")
    manifest = read_trailer(content)
    check_signature(manifest, keys)
    if (manifest.format, manifest.device) != ("onnx", "cpu"):
        raise ArtifactError(f"{path} says that it is of format {manifest.format!r}, on {manifest.device}")
    behind = make_trailer(manifest)
    if not content.endswith(behind):
        raise ArtifactError(f"{path} goes on behind its manifest, or is cut off there")
    content = content[: -len(behind)]
    manifest.check_parts({"model": hashlib.sha256(content).hexdigest()})
    try:
        model = onnx.ModelProto.FromString(content)
        model.DiscardUnknownFields()  # what this package does not know, onnxruntime might
        check_model(model, manifest)
        check_sizes(model)
        content = model.SerializeToString()
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except Exception as error:
        raise ArtifactError(f"{path} is no ONNX file, or is damaged: {error}") from error
    del model
    return manifest, open_session(content, [spec.name for spec in manifest.inputs])


def read_trailer(content: bytes) -> Manifest:
    """The manifest at the end of a file; nothing in front of it is looked at.

    Raises:
        ArtifactError: If there is none.
    """
    start = content.rfind(TRAILER_MARK)
    if start < 0:
        raise ArtifactError("the file was not written by fxlrp, or is cut off: it has no manifest")
    behind = content[start + len(TRAILER_MARK) :]
    return Manifest.from_json(behind.lstrip(CONTINUED_BYTES)[1:])  # without its length


def open_session(content: bytes, names: Sequence[str]) -> Run:
    """What runs a model that was looked through.

    Raises:
        ArtifactError: If onnxruntime cannot.
    """
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the first bytes look like
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED_BYTES))
    once = {"enable_fallback": 0, "read_config_from_model": 0}
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"], **once)
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load the model\n  {error}") from error

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run
