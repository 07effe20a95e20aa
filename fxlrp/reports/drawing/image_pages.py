"""Images beside the relevance of their pixels, and the page that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxlrp.files import replace_file
from fxlrp.optional import require
from fxlrp.reports.drawing.words import BLUE, RED

FOLDER = "_pictures"
"""Inside that of the results; readers of Parquet leave such names out."""
MIN_SIDE = 224
"""Smaller images are enlarged to about so many pixels."""
COLOURED_SHARE = 0.99
"""Share of the pixels whose relevance has a colour of its own; what is beyond has the full one."""

Numbers = NDArray[np.floating[Any]]


def find_picture_path(out: Path, row: int) -> Path:
    """Say where the picture of a row is."""
    return out / FOLDER / f"{row:08}.png"


def find_page_path(out: Path) -> Path:
    """Say where the page is."""
    return out / FOLDER / "index.html"


def write_image(path: Path, pixels: Numbers, relevance: Numbers) -> None:
    """Write an image and the relevance of its pixels side by side.

    Args:
        path: Where to.
        pixels: Numbers from 0 to 1, channels first: grey, colours, or colours with opacity, which is left out.
        relevance: Of the same shape; channels are summed.
    """
    _, height, width = pixels.shape
    left = np.broadcast_to(np.moveaxis(pixels[:3], 0, 2), (height, width, 3))
    gap = np.ones((height, -(-width // 16), 3))
    both = np.concatenate([left, gap, colour_relevance(relevance.sum(0))], 1)
    factor = max(1, MIN_SIDE // max(height, width))
    content = (255 * both).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    path.parent.mkdir(exist_ok=True)
    require("PIL.Image", "ray").fromarray(content).save(path)


def colour_relevance(relevance: Numbers) -> Numbers:
    """Colour relevance: white for 0, red for and blue against, on a scale of its own."""
    size = np.nan_to_num(np.abs(relevance), posinf=0.0)
    limit = float(np.quantile(size, COLOURED_SHARE)) or float(size.max()) or 1.0
    share = np.clip(size / limit, 0, 1)[..., None]
    full = np.where(relevance[..., None] > 0, RED, BLUE) / 255
    return np.asarray(1 - share * (1 - full))


def write_page(out: Path, title: str, explained: str) -> None:
    """Write the page of all pictures.

    Args:
        out: Folder of the results.
        title: Above them.
        explained: Name of the result that targets select from, which may not be among them.
    """
    template = Template((files("fxlrp.reports.drawing") / "assets" / "pictures.html").read_text(encoding="utf-8"))
    figures = "\n".join(figure for part in sorted(out.glob("*.parquet")) for figure in write_figures(part, explained))
    find_page_path(out).parent.mkdir(exist_ok=True)
    with replace_file(find_page_path(out)) as new:
        new.write_text(template.substitute(title=escape(title), figures=figures), encoding="utf-8")


def write_figures(part: Path, explained: str) -> Iterator[str]:
    """Write the figures of a shard."""
    parquet = require("pyarrow.parquet", "ray")
    wanted = ["row", "file", "target", explained, f"{explained}.shape"]
    there = set(parquet.read_schema(part).names)
    for row in parquet.read_table(part, columns=[name for name in wanted if name in there]).to_pylist():
        source = find_picture_path(part.parent, row["row"]).name
        what = write_caption(row.get("target"), row.get(explained), row.get(f"{explained}.shape"))
        yield (
            f'<figure><a href="{source}"><img src="{source}" loading="lazy" alt="{escape(row["file"])} and its '
            f'relevance"></a><figcaption>{escape(row["file"])}<small>{what}</small></figcaption></figure>'
        )


def write_caption(target: Any, output: Any, shape: Any) -> str:
    """Say what was explained, and its value, as far as results have them."""
    index = tuple(target) if isinstance(target, list) else (target,)
    index = () if None in index else index
    words = [f"explains {', '.join(map(str, index))}"] if index else []
    value = np.reshape(output, shape)[index] if output is not None else np.empty(0)
    return ": ".join([*words, *([f"{value:+.4g}"] if np.ndim(value) == 0 else [])])
