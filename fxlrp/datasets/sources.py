"""Data sets on disk, found by what is at a path: tables, or folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxlrp.datasets.samples import Row, Source
from fxlrp.datasets.tables import Lines, Parquet
from fxlrp.errors import SignatureError
from fxlrp.optional import require

PARQUET = {".parquet", ".pq"}
LINES = {".jsonl", ".ndjson"}
IMAGES = {".png", ".jpg", ".jpeg"}
IMAGE = "image"
"""The only column of a folder of images."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""How images are read, by the number of channels."""
BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes of images with at most 8 bits per channel, which alone convert without being cut off."""


@dataclass
class Images(Source):
    """Files of one image each, channels first."""

    mode: str = "RGB"
    white: int = 1
    """The largest number: 1, or 255 for artefacts that take integers."""

    def types(self, columns: Sequence[str]) -> dict[str, Any]:
        """There are none."""
        if columns:
            raise SignatureError("a folder of images has no columns to keep: each row of the results names its file")
        return {}

    def rows(self, first: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Decode files."""
        image = require("PIL.Image", "ray")
        for number in range(first, stop):
            name, _ = self.files[number]
            place = f"row {number} ({self.path(name)})"
            try:
                with image.open(self.path(name)) as opened:
                    if opened.mode not in BITS:
                        raise SignatureError(f"{place}: images of mode {opened.mode} are not read; convert it to 8 bit")
                    pixels = np.asarray(opened.convert(self.mode), dtype=np.float64) / (255 / self.white)
            except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:  # of damaged files
                raise SignatureError(f"{place} cannot be read: {error}") from error
            pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
            yield Row(number, place, name, {IMAGE: pixels})


def find(root: Path, shard: int, channels: int | None, white: int) -> Source:
    """What there is at a path.

    Args:
        root: A Parquet or JSON lines file, or a folder of Parquet files or images, in folders of their own or not.
        shard: Rows per shard.
        channels: Of images, which are numbers from 0 to ``white``; None if the artefact does not take images.
        white: See there.

    Raises:
        SignatureError: If it is none of these.
    """
    if not root.exists():
        raise SignatureError(f"there is no file or folder {root}")
    if root.suffix.lower() in LINES and root.is_file():
        return Lines.open(root, shard)
    tables, images = files(root, PARQUET), files(root, IMAGES)
    if bool(tables) == bool(images) or (images and not root.is_dir()):
        what = "holds both Parquet files and images" if tables else "is none of these"
        raise SignatureError(
            f"{root} {what}: give a .parquet or .jsonl file, or a folder of .parquet files or of .png and .jpg images"
        )
    if tables:
        return Parquet.open(root, tables)
    if channels not in MODES:
        taken = "no images" if channels is None else f"images of {channels} channels"
        raise SignatureError(f"{root} holds .png and .jpg files, of 1, 3 or 4 channels, but the artefact takes {taken}")
    return Images(root, images, [IMAGE], len(images), MODES[channels], white)


def files(root: Path, endings: set[str]) -> list[tuple[str, int]]:
    """Names and sizes of the files of a kind, in order of their names; those that are hidden do not count."""
    found = {root.name: root}
    if root.is_dir():
        names = {path: path.relative_to(root) for path in root.rglob("*")}
        found = {n.as_posix(): p for p, n in names.items() if not any(part[0] in "._" for part in n.parts)}
    chosen = {name: path for name, path in found.items() if path.suffix.lower() in endings and path.is_file()}
    return sorted((name, path.stat().st_size) for name, path in chosen.items())
