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
SHADE = 0.2
"""How much darker a map is where the photograph is black, so that one sees where one is."""
WIDTH, LARGEST_CELL = 10.0, 2.4
"""Inches: of a sheet of many columns, and of a picture in a sheet of few."""
LINE, MARGIN, BAR = 0.2, 0.9, 0.14
"""Inches: height of a line, room for the scale of colours and what is written there, and how wide that scale is."""
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
    inside = cell * height / width * rows
    across = cell * columns + MARGIN
    note = write_note(sheet, int(across * LETTERS_PER_INCH))
    heads = LINE * (1.3 + max(caption.count("\n") for caption in sheet.captions)) * (1 if sheet.under else rows)
    down = inside + heads + LINE * (1.2 * rows + 0.7 * note.count("\n") + 1 + 1.5 * bool(title))
    figure = Picture(figsize=(across, down), layout="compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
    for n, axes in enumerate(grid.T if sheet.under else grid):
        draw_sample(axes, sheet, n)
    for ax, name in zip(grid[1:, 0] if sheet.under else grid[0, 1:], sheet.names, strict=True):
        (ax.set_ylabel if sheet.under else ax.set_title)(name, fontsize=11)
    draw_scale(figure, grid, inside)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def write_note(sheet: Sheet, letters: int) -> str:
    """Write what stands at the foot of a sheet, in lines of so many letters."""
    ends = f"± is where a map's colours end: at percentile {sheet.percentile:g} of its absolute relevance."
    return "\n".join(textwrap.fill(text, letters) for text in (ends, *sheet.notes))


def draw_sample(axes: Any, sheet: Sheet, n: int) -> None:
    """Draw a photograph and its maps."""
    photograph = sheet.photographs[n]
    height, width = photograph.shape[:2]
    place = 0, width, height, 0
    axes[0].imshow(photograph, extent=place)
    axes[0].set_title(sheet.captions[n], fontsize=11)
    dark = 1 - photograph.mean(-1)
    for ax, values in zip(axes[1:], sheet.maps[n], strict=True):
        limit = find_limit(values, sheet.percentile)
        ax.set_facecolor("0.5")  # what is not finite
        ax.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, extent=place)
        ax.imshow(np.zeros_like(dark), cmap="gray", alpha=SHADE * dark, extent=place)
        ax.set_xlabel(f"±{limit:.2g}", fontsize=8, labelpad=2)


def draw_scale(figure: Figure, grid: Any, height: float) -> None:
    """Draw what the colours mean, in a bar of about this height in inches."""
    colours = require("matplotlib.cm", "vision").ScalarMappable(cmap=COLOURS)
    colours.set_clim(-1, 1)
    place = {"ax": grid.ravel().tolist(), "aspect": height / BAR, "pad": 0.01}
    bar = figure.colorbar(colours, extend="both", extendfrac=BAR / height, **place)
    bar.set_ticks([-1, 0, 1], labels=["against", "0", "for"], fontsize=9)
