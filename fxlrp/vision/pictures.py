"""Sheets of images beside their relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxlrp.api import compile, rule_set
from fxlrp.errors import SignatureError
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import Target
from fxlrp.optional import require
from fxlrp.session.result import Result
from fxlrp.vision.images import Channels, restore_images, scale_relevance

PRESETS = ("auto", "attnlrp_gamma", "epsilon_plus_flat", "gradient")
"""What `compare` sets side by side."""
SIDE = 1.6
"""Of an image, in inches."""


def show(
    result: Result | Tensor,
    x: Tensor,
    *,
    mean: Channels = None,
    std: Channels = None,
    percentile: float = 99.5,
    captions: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Any:
    """Draw images beside their relevance: red speaks for what is explained, blue against.

    Args:
        result: What an attributor returned for the images, or relevance itself.
        x: The images as the model got them, ``(samples, 1 or 3, height, width)``.
        mean: What their preparation took off values between 0 and 1, a number or one per channel. Without ``mean``
            and ``std``, each image is shown from its darkest to its brightest value.
        std: What it divided them by then.
        percentile: Of the absolute relevance of an image, what gets the full colour.
        captions: One for each image; by default the explained value.
        path: Where to write the picture; the suffix says the format.

    Returns:
        A figure of matplotlib, which notebooks show.

    Raises:
        FxlrpError: If matplotlib is not installed.
        SignatureError: If these are no images, or relevance does not fit them.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2)).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> figure = fxlrp.vision.show(fxlrp.compile(model)(x, target=1), x, mean=0.0, std=1.0)
    """
    relevance = result if isinstance(result, Tensor) else result.relevance
    if not isinstance(relevance, Tensor):
        raise SignatureError(f"the result is of several inputs: give the relevance of one, {' or '.join(relevance)}")
    images, maps = restore_images(x, mean, std), {"relevance": scale_relevance(relevance, x, percentile)}
    own = [""] * len(x) if isinstance(result, Tensor) else write_values(result, len(x))
    return draw_sheet(images, own if captions is None else captions, maps, path)


def compare(
    model: nn.Module,
    x: Tensor,
    presets: Sequence[str] | Mapping[str, str | RuleSet] = PRESETS,
    *,
    target: Target = None,
    mean: Channels = None,
    std: Channels = None,
    percentile: float = 99.5,
    captions: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Any:
    """Draw images beside their relevance under several rule sets; see `show`.

    Every map has its own scale, as rule sets keep more or less of what is explained.

    Args:
        model: Images to what is explained, as `fxlrp.compile` takes it.
        x: The images as the model gets them.
        presets: Names, or rule sets by what they shall be called.
        target: As attributors take it.
        mean: As in `show`.
        std: As in `show`.
        percentile: As in `show`.
        captions: As in `show`.
        path: As in `show`.

    Raises:
        FxlrpError: If matplotlib is not installed.
        RuleError: If there is no preset of a name.
        SignatureError: If these are no images.
    """
    images = restore_images(x, mean, std)
    named = presets if isinstance(presets, Mapping) else {name: name for name in presets}
    if not named:
        raise SignatureError("presets is empty: name at least one rule set")
    results = {name: compile(model, rules=rule_set(rules))(x, target=target) for name, rules in named.items()}
    maps = {name: scale_relevance(result.relevance, x, percentile) for name, result in results.items()}
    own = write_values(next(iter(results.values())), len(x))
    return draw_sheet(images, own if captions is None else captions, maps, path)


def write_values(result: Result, count: int) -> list[str]:
    """Write the explained value of each sample, or nothing where there is none."""
    return [""] * count if result.explained is None else [f"{value:.4g}" for value in result.explained.tolist()]


def draw_sheet(images: Tensor, captions: Sequence[str], maps: Mapping[str, Tensor], path: str | Path | None) -> Any:
    """Draw a row for each image with its maps beside it; or a column, if there are more images than maps.

    Args:
        images: ``(samples, height, width, 3)``, from 0 to 1.
        captions: One for each image.
        maps: ``(samples, height, width)``, from -1 to 1, by name.
        path: Where to write, or None.
    """
    if len(captions) != len(images):
        raise SignatureError(f"there are {len(captions)} captions for {len(images)} images")
    rows = [[image, *of_image] for image, *of_image in zip(images, *maps.values(), strict=True)]
    down, across = list(captions), ["", *maps]
    if len(images) > 1 + len(maps):
        rows, down, across = [list(column) for column in zip(*rows, strict=True)], across, down
    size = (0.3 + SIDE * len(across), 0.3 + SIDE * len(down))
    figure = require("matplotlib.figure", "demo").Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(down), len(across), squeeze=False)
    for ax, value in zip(grid.flat, (value for row in rows for value in row), strict=True):
        ax.imshow(value.numpy(), **({} if value.ndim == 3 else {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_linewidth(0.4)
    for ax, name in zip(grid[0], across, strict=True):
        ax.set_title(name, fontsize=9)
    for ax, name in zip(grid[:, 0], down, strict=True):
        ax.set_ylabel(name, fontsize=9)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
