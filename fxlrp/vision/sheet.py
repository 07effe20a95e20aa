"""Sheets of pictures: photographs, and maps of relevance beside or under them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from fxlrp.optional import require
from fxlrp.vision.images import Pixels, find_limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = require("matplotlib.figure", "vision").Figure

COLOURS = "RdBu_r"
"""Blue, white, red: colours that also those tell apart who do not see red or green."""
SHADE = 0.25
"""How much darker a map is where the photograph is black, so that one sees where one is."""
WIDTH, LARGEST_CELL = 10.0, 2.4
"""Inches: of a sheet of many columns, and of a picture in a sheet of few."""
LETTERS_PER_INCH = 14
"""Of the note."""


class Picture(Figure):
    """A figure that notebooks show, also where nobody asked for matplotlib's own way of doing so."""

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        data = BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()


@dataclass(frozen=True)
class Sheet:
    """What is to be drawn.

    Attributes:
        photographs: Of shape (samples, height, width, 3), with values from 0 to 1.
        maps: Of shape (samples, maps, height, width); coarser or finer than the photographs if need be.
        names: One for each of a sample's maps.
        captions: One for each photograph.
        notes: Sentences for the foot of the sheet.
        percentile: Of a map's absolute relevance, where its colours end.
        under: Put maps under their photographs, and not beside them.
    """

    photographs: Pixels
    maps: Pixels
    names: Sequence[str]
    captions: Sequence[str]
    notes: Sequence[str] = ()
    percentile: float = 99.5
    under: bool = False


def draw_sheet(sheet: Sheet, title: str = "") -> Picture:
    """Draw a sheet; every map has a scale of its own, symmetric around zero, and says where it ends."""
    samples, height, width = sheet.photographs.shape[:3]
    rows, columns = samples, 1 + len(sheet.names)
    rows, columns = (columns, rows) if sheet.under else (rows, columns)
    cell = min(LARGEST_CELL, WIDTH / columns)
    lines = max(caption.count("\n") for caption in sheet.captions)
    size = 0.9 + cell * columns, 0.8 + (0.45 + 0.2 * lines + cell * height / width) * rows
    figure = Picture(figsize=size, layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
    for n, axes in enumerate(grid.T if sheet.under else grid):
        draw_sample(axes, sheet, n)
    for ax, name in zip(grid[1:, 0] if sheet.under else grid[0, 1:], sheet.names, strict=True):
        (ax.set_ylabel if sheet.under else ax.set_title)(name, fontsize=11)
    draw_scale(figure, grid)
    note = f"± is where a map's colours end: at percentile {sheet.percentile:g} of its absolute relevance."
    texts = [textwrap.fill(text, int(size[0] * LETTERS_PER_INCH)) for text in (note, *sheet.notes)]
    figure.supxlabel("\n".join(texts), fontsize=8, x=0.01, ha="left")
    figure.suptitle(title, fontsize=12)
    return figure


def draw_sample(axes: Any, sheet: Sheet, n: int) -> None:
    """Draw a photograph and its maps."""
    photograph = sheet.photographs[n]
    height, width = photograph.shape[:2]
    place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    axes[0].imshow(photograph, **place)
    axes[0].set_title(sheet.captions[n], fontsize=11)
    dark = 1 - photograph.mean(-1)
    for ax, values in zip(axes[1:], sheet.maps[n], strict=True):
        limit = find_limit(values, sheet.percentile)
        ax.set_facecolor("0.5")  # what is not finite
        ax.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, **place)
        ax.imshow(np.zeros_like(dark), cmap="gray", alpha=SHADE * dark, **place)
        ax.set_xlabel(f"±{limit:.2g}", fontsize=8, labelpad=2)


def draw_scale(figure: Figure, grid: Any) -> None:
    """Draw what the colours mean."""
    colours = require("matplotlib.cm", "vision").ScalarMappable(cmap=COLOURS)
    colours.set_clim(-1, 1)
    bar = figure.colorbar(colours, ax=grid.ravel().tolist(), aspect=30, fraction=0.03, pad=0.01, extend="both")
    bar.set_ticks([-1, 0, 1], labels=["against", "0", "for"], fontsize=9)
