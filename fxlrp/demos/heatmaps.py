"""Pictures of relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxlrp.optional import require

GreyImages = NDArray[np.floating[Any]]


def draw_heatmaps(
    path: Path, title: str, images: GreyImages, captions: Sequence[str], relevances: Mapping[str, GreyImages]
) -> None:
    """Draw images in a row and their relevance below, red for and blue against.

    The colours of a row share one scale, symmetric around zero.

    Args:
        path: Where to write; the suffix says the format.
        title: Above everything.
        images: Grey values from 0 to 1, one image per caption.
        captions: One above each image.
        relevances: By name of the row; shaped as the images.
    """
    size = (1.2 + 1.25 * len(images), 1.7 + 1.3 * len(relevances))
    figure = require("matplotlib.figure", "demo").Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(1 + len(relevances), len(images), squeeze=False)
    for ax, image, caption in zip(grid[0], images, captions, strict=True):
        ax.imshow(1 - image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(caption, fontsize=10)
    grid[0][0].set_ylabel("image", fontsize=10)
    for axes, (name, relevance) in zip(grid[1:], relevances.items(), strict=True):
        limit = float(np.quantile(np.abs(relevance), 0.99))
        for ax, image, r in zip(axes, images, relevance, strict=True):
            shown = ax.imshow(r, cmap="RdBu_r", vmin=-limit, vmax=limit)
            draw_outline(ax, image)
        axes[0].set_ylabel(name, fontsize=10)
        bar = figure.colorbar(shown, ax=list(axes), pad=0.01, fraction=0.05, aspect=10, extend="both")
        bar.set_label("relevance", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


def draw_outline(ax: Any, image: GreyImages) -> None:
    """Draw the line where an image is half dark."""
    height, width = image.shape
    columns, rows = np.arange(-1, width + 1), np.arange(-1, height + 1)
    ax.contour(columns, rows, np.pad(image, 1), levels=[0.5], colors="0.3", linewidths=0.8)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
