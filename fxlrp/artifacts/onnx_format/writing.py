"""Programs written out in ops of ONNX, with a manifest at the end of the file."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from fxlrp._torch import decompose
from fxlrp.artifacts.export import Exported
from fxlrp.artifacts.keys import sign_manifest
from fxlrp.artifacts.onnx_format.checks import drop_remarks
from fxlrp.artifacts.onnx_format.plain_ops import PLAIN_FORMS
from fxlrp.artifacts.onnx_format.trailer import make_trailer
from fxlrp.capture.decompositions import make_decompositions
from fxlrp.errors import ArtifactError, FxlrpError
from fxlrp.optional import require

MAX_WEIGHT_BYTES = 2**31 - 2**24
"""What one message of protobuf can hold, less what the graph may take."""


def write_onnx(exported: Exported, path: Path) -> None:
    """Write a program as one ONNX file, with the manifest behind it, signed if there is a key.

    It runs on the processor wherever it was made.

    Raises:
        ArtifactError: If an op has no ONNX form, or the weights are too large.
    """
    require("onnxscript", "onnx")
    program, manifest = exported.program, exported.manifest
    size = sum(t.numel() * t.itemsize for t in program.state_dict.values())
    if size > MAX_WEIGHT_BYTES:
        raise ArtifactError(f"the weights have {size / 2**30:.1f} GiB, and one ONNX file holds 2: use the format 'pt2'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = decompose(program, {**make_decompositions(), **PLAIN_FORMS})
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
    manifest = sign_manifest(replace(manifest, device="cpu", parts=parts), exported.key)
    path.write_bytes(content + make_trailer(manifest))


def explain_failure(error: BaseException) -> str:
    """Say what an error of the exporter says of the op, or else its first cause: it wraps errors several times."""
    text = str(error)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", text)
    if missing is not None:
        return f"there is no ONNX function for {missing[1]}.{missing[2]}"
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
