"""Pictures of what a model sees: one explanation, or several presets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp.api import compile, rule_set
from fxlrp.errors import SignatureError
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import Target
from fxlrp.session.result import Result
from fxlrp.vision.captions import Classes, describe_targets
from fxlrp.vision.images import Numbers, restore_images, sum_channels
from fxlrp.vision.sheet import Picture, Sheet, draw_sheet

PRESETS = "auto", "attnlrp_gamma", "epsilon_plus_flat", "gradient"
"""What `compare` shows: the default, two presets for networks of convolutions, and gradient x input."""
DOUBTFUL = "(!): something speaks against this explanation; result.warnings says what."


def show(
    result: Result | Tensor,
    x: Tensor,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    percentile: float = 99.5,
    classes: Classes | None = None,
    under: bool = False,
    path: str | Path | None = None,
) -> Picture:
    """Draw images beside their relevance, summed over channels; each map has a scale of its own.

    Args:
        result: What an attributor returned, or relevance alone: of the images, shaped as these, or of a layer, shaped
            (samples, channels, height, width). Several targets or conditions become several maps.
        x: The images as the model took them, of shape (samples, 1 or 3 channels, height, width).
        mean: What was subtracted from values between 0 and 1, a number or one per channel.
        std: What they were divided by then. Without both, each image is scaled to its own range.
        percentile: Of each map's absolute relevance, where its colours end.
        classes: Names of the classes, for the captions.
        under: Put relevance under the images, and not beside them.
        path: A file to write, whose ending says the format.

    Returns:
        A figure of matplotlib: a notebook shows it, and ``figure.savefig(path)`` writes it. At its foot is what speaks
        against the explanation, if anything does.

    Raises:
        SignatureError: If these are no images, or relevance is not shaped as they are.
    """
    photographs = restore_images(x, mean, std)
    relevance = result.relevance if isinstance(result, Result) else result
    maps = sum_channels(relevance, len(photographs))
    texts = describe_targets(result, classes) if isinstance(result, Result) else []
    captions = ["\n".join(lines) for lines in zip(*texts, strict=True)] or [""] * len(photographs)
    count = maps.shape[1]
    names = ["relevance"] if count == 1 else [f"relevance {k + 1}" for k in range(count)]
    notes = [f"Doubt: {text}." for text in result.warnings] if isinstance(result, Result) else []
    return finish(draw_sheet(Sheet(photographs, maps, names, captions, notes, percentile, under)), path)


def compare(
    model: nn.Module | ExportedProgram,
    x: Tensor,
    presets: Sequence[str | RuleSet] = PRESETS,
    *,
    target: Target = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    percentile: float = 99.5,
    classes: Classes | None = None,
    under: bool = False,
    path: str | Path | None = None,
) -> Picture:
    """Draw images beside what several presets say of them: a row per image, a column per preset.

    Args:
        model: A model of one input, in evaluation mode, or a program exported by torch.export.
        x: Images for it, of shape (samples, 1 or 3 channels, height, width).
        presets: Names of presets, or rule sets.
        target: As in a call of an attributor.
        mean: As in `show`.
        std: As in `show`.
        percentile: As in `show`.
        classes: As in `show`.
        under: As in `show`.
        path: As in `show`.

    Returns:
        A figure of matplotlib, as `show` does. A preset whose explanation has doubts is marked.

    Raises:
        SignatureError: If these are no images, or no presets are given.
    """
    photographs = restore_images(x, mean, std)
    if isinstance(presets, str) or not presets:
        raise SignatureError(f"presets is a list of names or rule sets, such as {list(PRESETS)}, not {presets!r}")
    attributor = compile(model, rules=presets[0])
    results = [attributor(x, target=target)]  # captures the model for all
    results += [attributor.with_rules(rule_set(rules))(x, target=target) for rules in presets[1:]]
    maps = np.concatenate([sum_channels(result.relevance, len(x)) for result in results], 1)
    names = [rules if isinstance(rules, str) else rules.name for rules in presets]
    names = [f"{name} (!)" if result.warnings else name for name, result in zip(names, results, strict=True)]
    captions = (describe_targets(results[0], classes) or [[""] * len(x)])[0]
    notes = [DOUBTFUL] if any(result.warnings for result in results) else []
    return finish(draw_sheet(Sheet(photographs, maps, names, captions, notes, percentile, under)), path)


def finish(figure: Picture, path: str | Path | None) -> Picture:
    """Write a figure if that is asked for, and return it."""
    if path is not None:
        figure.savefig(path)
    return figure
