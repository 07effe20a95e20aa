"""The formats of artefacts, and how a file of one comes to be where an old one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fxlrp.artifacts.export import Exported
from fxlrp.artifacts.onnx_format.writing import write_onnx
from fxlrp.artifacts.pt2.writing import write_aoti, write_pt2
from fxlrp.errors import SignatureError
from fxlrp.files import replace_file

WRITERS: dict[str, Callable[[Exported, Path], None]] = {"pt2": write_pt2, "aoti": write_aoti, "onnx": write_onnx}
"""What writes a file of each format."""
ENDINGS = {".pt2": "pt2", ".onnx": "onnx"}
"""Format by the ending of a file."""


def choose_format(path: Path, format: str | None) -> str:
    """Return the format of a file: the one that was asked for, or what the ending says.

    Raises:
        SignatureError: If there is no such format, or the ending belongs to another one.
    """
    wanted = format or ENDINGS.get(path.suffix)
    if wanted is None or wanted not in WRITERS:
        raise SignatureError(
            f"format={format!r} is none of {', '.join(map(repr, WRITERS))}"
            if format
            else f"{path.name}: an artefact ends in {' or '.join(ENDINGS)}"
        )
    ending = ".onnx" if wanted == "onnx" else ".pt2"
    if path.suffix != ending:
        raise SignatureError(f"{path.name}: an artefact of format {wanted!r} ends in {ending}")
    return wanted


@contextmanager
def write_artifact(exported: Exported, path: Path, format: str) -> Iterator[Path]:
    """Write an artefact to a file that takes the place of ``path`` when everything has gone well.

    Raises:
        ArtifactError: If the program cannot be written in this format, or the file cannot.
    """
    with replace_file(path) as new:
        WRITERS[format](replace(exported, manifest=replace(exported.manifest, format=format)), new)
        yield new
