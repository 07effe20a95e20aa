"""From an ONNX file, looked through, to what onnxruntime makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxlrp.artifacts.artifact import TensorFunction
from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.keys import check_signature
from fxlrp.artifacts.onnx_format.checks import check_model
from fxlrp.artifacts.onnx_format.sizes import check_sizes
from fxlrp.artifacts.onnx_format.trailer import make_trailer, read_trailer
from fxlrp.errors import ArtifactError
from fxlrp.optional import require

MAX_FOLDED_BYTES = 2**26
"""Of a constant that onnxruntime may compute when it loads a model."""


def read_onnx(path: Path, content: bytes, keys: Sequence[bytes] | None = None) -> tuple[Manifest, TensorFunction]:
    """Read an ONNX file: its manifest, and what runs it.

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


def open_session(content: bytes, names: Sequence[str]) -> TensorFunction:
    """Return what runs a model that was looked through.

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
