"""Archives as torch writes them, with a manifest in them."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxlrp._torch import compile_ahead, package_pt2
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER
from fxlrp.artifacts.description.manifest_json import write_manifest
from fxlrp.artifacts.export import Exported
from fxlrp.artifacts.keys import sign_manifest
from fxlrp.artifacts.pt2 import archive
from fxlrp.errors import ArtifactError
from fxlrp.files import defer_errors


def write_pt2(exported: Exported, path: Path) -> None:
    """Write an archive of torch.export."""
    write_package(exported, path, exported_programs={"model": exported.program})


def write_aoti(exported: Exported, path: Path) -> None:
    """Write a package of AOTInductor: a library of machine code, and the weights."""
    module = exported.program.module(check_guards=False)
    values = [node.meta["val"] for node in exported.program.graph.find_nodes(op="placeholder")]
    given = values[len(values) - len(exported.manifest.inputs) :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about torch
            files = compile_ahead(module, tuple(given), {"aot_inductor.package": True})
    except Exception as error:
        raise ArtifactError(
            f"AOTInductor cannot compile the relevance program\n  {type(error).__name__}: {error}\n"
            "It needs a C++ compiler. The format 'pt2' needs none."
        ) from error
    write_package(exported, path, aoti_files={"model": [file for file in files if not str(file).endswith(".cpp")]})


def write_package(exported: Exported, path: Path, **content: Any) -> None:
    """Write an archive of torch, and into it the manifest with digests of the rest, signed if there is a key."""
    with path.open("w+b") as file:
        with defer_errors(file) as held:
            package_pt2(held, **content)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as members:
            parts = archive.hash_members(members, without=MANIFEST_MEMBER)
            manifest = sign_manifest(replace(exported.manifest, parts=parts), exported.key)
            members.writestr(archive.find_full_name(members, MANIFEST_MEMBER), write_manifest(manifest))
