"""The manifest of an ONNX file: a message behind the model, which readers of protobuf join to it."""

from __future__ import annotations

from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.description.manifest_json import read_manifest, write_manifest
from fxlrp.errors import ArtifactError
from fxlrp.optional import require

METADATA_KEY = "fxlrp"
"""Of the manifest, among the model's metadata."""
TRAILER_MARK = b"\n\x05fxlrp\x12"
"""What comes in front of the manifest: the key as a field of a message, and the tag of the next one."""
CONTINUED_BYTES = bytes(range(128, 256))
"""All bytes of a number in protobuf but its last."""


def make_trailer(manifest: Manifest) -> bytes:
    """Write a manifest as a message that a reader joins to the model in front of it."""
    onnx = require("onnx", "onnx")
    entry = onnx.StringStringEntryProto(key=METADATA_KEY, value=write_manifest(manifest))
    content: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content


def read_trailer(content: bytes) -> Manifest:
    """Read the manifest at the end of a file; nothing in front of it is looked at.

    Raises:
        ArtifactError: If there is none.
    """
    start = content.rfind(TRAILER_MARK)
    if start < 0:
        raise ArtifactError("the file was not written by fxlrp, or is cut off: it has no manifest")
    behind = content[start + len(TRAILER_MARK) :]
    return read_manifest(behind.lstrip(CONTINUED_BYTES)[1:])  # without its length
