"""From a file to what runs it, by checks that come before anything is done."""

from __future__ import annotations

import functools
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fxlrp._torch import load_package
from fxlrp.artifacts.artifact import Artifact, TensorFunction
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER, Manifest
from fxlrp.artifacts.description.manifest_json import read_manifest
from fxlrp.artifacts.keys import check_signature, read_public_keys
from fxlrp.artifacts.onnx_format.reading import read_onnx
from fxlrp.artifacts.pt2 import archive
from fxlrp.artifacts.pt2.reading import build_module
from fxlrp.artifacts.pt2.untrusted import check_program
from fxlrp.artifacts.pt2.weight_files import read_weights
from fxlrp.errors import ArtifactError

COMMON_MEMBERS = [
    re.escape(MANIFEST_MEMBER),
    "archive_format",
    "archive_version",
    "byteorder",
    r"\.data/version",
    r"\.data/serialization_id",
]
PT2_MEMBERS = [
    *COMMON_MEMBERS,
    r"models/model\.json",
    r"data/sample_inputs/model\.pt",
    r"data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)",
]
AOTI_MEMBERS = [*COMMON_MEMBERS, r"data/aotinductor/model/[\w.\-]+", r"data/(weights|constants)/[\w.\-]+"]


def load(path: str | Path, *, allow_native_code: bool = False, key: Any = None) -> Artifact:
    """Load an artefact that `Attributor.save` wrote.

    A ``.pt2`` file is data: what runs are the ops of its graph that are on fxlrp's own list, on tensors whose places
    in the file were checked. It is read once, and nothing of it is unpickled, imported or evaluated.

    Args:
        path: The file.
        allow_native_code: Whether to load a package of AOTInductor, whose machine code runs with your rights.
        key: A public key of Ed25519 (the path of a PEM file, its content, or a key of ``cryptography``), or a list of
            them: the file must be signed by one. Without, a signature is not looked at.

    Raises:
        ArtifactError: If the file is missing, damaged, changed, not signed by a key, or not what fxlrp writes.
    """
    path = Path(path)
    keys = None if key is None else read_public_keys(key)
    content = archive.read_file(path)
    if path.suffix == ".onnx":
        return Artifact(*read_onnx(path, content, keys))
    with archive.open_archive(content, path) as members:
        manifest = read_manifest(archive.read_member(members, MANIFEST_MEMBER))
        check_signature(manifest, keys)
        if manifest.format not in FORMATS:
            raise ArtifactError(f"{path} is of format {manifest.format!r}, which is none of {', '.join(FORMATS)}")
        allowed, reader = FORMATS[manifest.format]
        archive.check_members(members, allowed, path)
        manifest.check_parts(archive.hash_members(members, without=MANIFEST_MEMBER))
        if manifest.format == "aoti" and not allow_native_code:
            raise ArtifactError(
                f"{path} holds machine code, which would run with your rights. "
                "If you trust its origin: fxlrp.load(path, allow_native_code=True)"
            )
        check_runnable(manifest)
        return Artifact(manifest, reader(members, manifest))


def check_runnable(manifest: Manifest) -> None:
    """Refuse what cannot run here.

    Raises:
        ArtifactError: If another minor version of torch has written it, as neither format is stable across them, or if
            there is no such device.
    """
    if manifest.torch.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ArtifactError(
            f"the artefact was written by torch {manifest.torch}, and this is torch {torch.__version__}: save it again "
            "with this one, or as 'onnx'"
        )
    try:
        there = not torch.empty(0, device=manifest.device).is_meta
    except (RuntimeError, AssertionError, TypeError):  # of devices that torch was not built for, and of no device
        there = False
    if not there:
        raise ArtifactError(
            f"the artefact runs on the device {manifest.device!r}, which is not here: move the model to one that is, "
            "and save it again"
        )


def read_pt2(members: zipfile.ZipFile, manifest: Manifest) -> TensorFunction:
    """Return what runs an archive of torch.export: its graph and its weights, looked through."""
    read = functools.partial(archive.read_member, members)
    if read("data/sample_inputs/model.pt"):
        raise ArtifactError("the artefact has sample inputs, which are pickled and not read")
    model = check_program(read("models/model.json"), manifest)["graph_module"]
    weights = {k: w for kind in ("weights", "constants") for k, w in read_weights(kind, read, manifest.device).items()}
    module = build_module(model["graph"], model["signature"], weights)
    if len(module.graph.find_nodes(op="placeholder")) != len(manifest.inputs):
        raise ArtifactError("the graph takes other inputs than the manifest says")
    return lambda tensors: module(*tensors)


def read_aoti(members: zipfile.ZipFile, manifest: Manifest) -> TensorFunction:
    """Return what runs a package of AOTInductor, from a copy that has the members that were checked and no others."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.pt2"
        copy.write_bytes(archive.copy_members(members))
        try:
            module = load_package(str(copy))
        except Exception as error:
            raise ArtifactError(f"the machine code cannot be loaded\n  {type(error).__name__}: {error}") from error
    return lambda tensors: list(module(*tensors).values())


FORMATS: dict[str, tuple[Sequence[str], Callable[[zipfile.ZipFile, Manifest], TensorFunction]]] = {
    "pt2": (PT2_MEMBERS, read_pt2),
    "aoti": (AOTI_MEMBERS, read_aoti),
}
"""What each format has for members, and what reads them."""
