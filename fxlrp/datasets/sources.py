"""Data sets on disk, found by what is at a path: tables, or folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxlrp.datasets.samples import DataRow, DataSource
from fxlrp.datasets.tables import LinesSource, ParquetSource
from fxlrp.errors import SignatureError
from fxlrp.optional import require

PARQUET_ENDINGS = {".parquet", ".pq"}
LINES_ENDINGS = {".jsonl", ".ndjson"}
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg"}
IMAGE_COLUMN = "image"
"""The only column of a folder of images."""
MODE_BY_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
"""How images are read, by the number of channels."""
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes of images with at most 8 bits per channel, which alone convert without being cut off."""


@dataclass
class ImageSource(DataSource):
    """Files of one image each, channels first."""

    mode: str = "RGB"
    white: int = 1
    """The largest number: 1, or 255 for artefacts that take integers."""

    def find_types(self, columns: Sequence[str]) -> dict[str, Any]:
        """Refuse to keep columns, as there are none."""
        if columns:
            raise SignatureError("a folder of images has no columns to keep: each row of the results names its file")
        return {}

    def read_rows(self, first: int, stop: int, columns: Sequence[str]) -> Iterator[DataRow]:
        """Decode files."""
        image = require("PIL.Image", "ray")
        for number in range(first, stop):
            name, _ = self.files[number]
            place = f"row {number} ({self.find_path(name)})"
            try:
                with image.open(self.find_path(name)) as opened:
                    if opened.mode not in EIGHT_BIT_MODES:
                        raise SignatureError(f"{place}: images of mode {opened.mode} are not read; convert it to 8 bit")
                    pixels = np.asarray(opened.convert(self.mode), dtype=np.float64) / (255 / self.white)
            except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:  # of damaged files
                raise SignatureError(f"{place} cannot be read: {error}") from error
            pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
            yield DataRow(number, place, name, {IMAGE_COLUMN: pixels})


def open_source(root: Path, shard: int, channels: int | None, white: int) -> DataSource:
    """Open the data set at a path.

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
    if root.suffix.lower() in LINES_ENDINGS and root.is_file():
        return LinesSource.open(root, shard)
    tables, images = list_files(root, PARQUET_ENDINGS), list_files(root, IMAGE_ENDINGS)
    if bool(tables) == bool(images) or (images and not root.is_dir()):
        what = "holds both Parquet files and images" if tables else "is none of these"
        raise SignatureError(
            f"{root} {what}: give a .parquet or .jsonl file, or a folder of .parquet files or of .png and .jpg images"
        )
    if tables:
        return ParquetSource.open(root, tables)
    if channels not in MODE_BY_CHANNELS:
        taken = "no images" if channels is None else f"images of {channels} channels"
        raise SignatureError(f"{root} holds .png and .jpg files, of 1, 3 or 4 channels, but the artefact takes {taken}")
    return ImageSource(root, images, [IMAGE_COLUMN], len(images), MODE_BY_CHANNELS[channels], white)


def list_files(root: Path, endings: set[str]) -> list[tuple[str, int]]:
    """List names and sizes of the files of a kind, in order of their names, without hidden ones."""
    found = {root.name: root}
    if root.is_dir():
        names = {path: path.relative_to(root) for path in root.rglob("*")}
        found = {n.as_posix(): p for p, n in names.items() if not any(part[0] in "._" for part in n.parts)}
    chosen = {name: path for name, path in found.items() if path.suffix.lower() in endings and path.is_file()}
    return sorted((name, path.stat().st_size) for name, path in chosen.items())
