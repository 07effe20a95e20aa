"""Curves of what a model says while parts of its input are replaced, most or least relevant first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import Baseline, blur
from fxlrp.evaluate.segments import (
    Model,
    call_without,
    divide_grid,
    list_rows,
    rank_segments,
    read_variants,
    sum_segments,
)
from fxlrp.optional import require


@dataclass(frozen=True)
class Curves:
    """What a model says of the explained classes, step by step.

    Attributes:
        fractions: Part of the segments that is replaced at each step, from 0 to 1.
        most: ``(samples, steps)``, the most relevant replaced first (MoRF).
        least: The same, the least relevant first (LeRF).
    """

    fractions: Tensor
    most: Tensor
    least: Tensor

    @property
    def morf(self) -> Tensor:
        """Mean over the steps for each sample, the most relevant first; smaller is better."""
        return self.most.mean(1)

    @property
    def lerf(self) -> Tensor:
        """Mean over the steps for each sample, the least relevant first."""
        return self.least.mean(1)

    @property
    def comprehensiveness(self) -> Tensor:
        """What is lost on the mean when the most relevant goes first."""
        return self.most[:, 0] - self.morf

    @property
    def sufficiency(self) -> Tensor:
        """What is lost on the mean when the least relevant goes first; smaller is better."""
        return self.least[:, 0] - self.lerf

    @property
    def abpc(self) -> Tensor:
        """Area between the two curves for each sample: ``lerf - morf``, the mean over the steps, step 0 included.

        Source: Schulz et al. 2020, the integral between the curves.
        """
        return self.lerf - self.morf

    @property
    def srg(self) -> Tensor:
        """Symmetric relevance gain of each sample: the integral between the curves over the part that is replaced.

        With equal steps it is ``abpc * steps / (steps - 1)``, whatever their number.

        Source: Bluecher et al. 2024, the curve of the least influential first less that of the most.
        """
        return torch.trapezoid(self.least - self.most, self.fractions.to(self.most), dim=1)

    def scale_as_dynamiclrp(self, per_step: int = 4) -> dict[str, float]:
        """Return means over samples on the scale of DynamicLRP's tables: ``per_step`` times the integrals.

        Their abscissa counts segments, and their divisor steps; published figures are up to ``per_step``, not 1.

        Args:
            per_step: Segments that are replaced at each step; theirs is 4, also where they flip pixels.

        Source: Lee and Arias 2025, as their code computes it, where curves are read as ``"accuracy"``.
        """
        fractions = self.fractions.to(self.most)
        most, least = (per_step * float(torch.trapezoid(c, fractions, dim=1).mean()) for c in (self.most, self.least))
        whole = per_step * float(self.most[:, 0].mean())
        return {"abpc": least - most, "comprehensiveness": whole - most, "sufficiency": whole - least}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per sample and step, ready for ``pandas.DataFrame``."""
        return list_rows("fraction", self.fractions.tolist(), most=self.most, least=self.least)

    def plot(self, path: str | Path) -> Path:
        """Draw the mean curves, with their quartiles, to a file.

        Raises:
            FxlrpError: If matplotlib is not installed.
        """
        figure = require("matplotlib.figure", "vision").Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.subplots()
        for name, curve in (("most relevant first", self.most), ("least relevant first", self.least)):
            low, high = curve.quantile(torch.tensor([0.25, 0.75]).to(curve), 0)
            (line,) = axes.plot(self.fractions, curve.mean(0), label=name)
            axes.fill_between(self.fractions, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        axes.set(xlabel="part of the input replaced", ylabel="what the model says", xlim=(0, 1))
        axes.legend(frameon=False)
        figure.savefig(path)
        return Path(path)


def flip_patches(
    model: Model,
    x: Tensor,
    relevance: Tensor,
    target: Tensor,
    *,
    patch: int = 16,
    per_step: int = 1,
    baseline: Baseline | None = None,
    read: str = "logit",
    batch: int = 32,
) -> Curves:
    """Replace square patches of images, ranked by their summed relevance; see `flip`.

    Args:
        model: Images to logits.
        x: ``(samples, channels, height, width)``.
        relevance: In the shape of the images, or without channels.
        target: Class of each sample.
        patch: Side of a patch in pixels; 1 flips pixels.
        per_step: Patches that are replaced at each step.
        baseline: What replaces them; by default a blur of 15 pixels.
        read: ``"logit"``, ``"probability"`` or ``"accuracy"``.
        batch: Images in each forward pass.

    Source: Samek et al. 2017, region perturbation.
    """
    if x.ndim != 4:
        raise SignatureError(f"images have four dimensions, (samples, channels, height, width), not {tuple(x.shape)}")
    segments = divide_grid(x.shape[2], x.shape[3], patch)
    given = blur() if baseline is None else baseline
    return flip(model, x, relevance, target, segments, given, per_step=per_step, read=read, batch=batch)


@torch.no_grad()
def flip(
    model: Model,
    x: Tensor,
    relevance: Tensor,
    target: Tensor,
    segments: Tensor,
    baseline: Baseline,
    *,
    per_step: int = 1,
    read: str = "logit",
    batch: int = 32,
) -> Curves:
    """Replace segments of inputs step by step, the most relevant first and the least relevant first.

    Every forward pass has ``batch`` inputs, the last one filled up, so that one compiled program serves all.

    Args:
        model: Inputs to ``(samples, classes)``.
        x: ``(samples, *places)`` or ``(samples, channels, *places)``: images, or ids of tokens.
        relevance: In the shape of ``x``, or without channels.
        target: Class of each sample.
        segments: Number of the segment of each place, such as superpixels; ``torch.arange(length)`` for tokens.
        baseline: What replaces them.
        per_step: Segments that are replaced at each step.
        read: ``"logit"`` of the class, its ``"probability"``, or ``"accuracy"``: 1 where it is the largest.
        batch: Inputs in each forward pass.

    Raises:
        SignatureError: If shapes do not fit, relevance is not finite, or a choice is none.
        TargetError: If a class is out of range.
    """
    if per_step < 1 or batch < 1:
        raise SignatureError(f"per_step={per_step} and batch={batch} have to be 1 or more")
    scores, count = sum_segments(relevance, segments).to(x.device), int(segments.max()) + 1
    kept = [*range(0, count, per_step), count]
    cut, curves = torch.tensor(kept, device=x.device), []
    for most in (True, False):
        ranks = rank_segments(scores, most=most)

        def replace(step: Tensor, sample: Tensor, ranks: Tensor = ranks) -> Tensor:
            return ranks[sample] < cut[step, None]

        logits = call_without(model, x, replace, len(kept), segments, baseline, batch)
        curves.append(read_variants(logits, target, read).T)
    return Curves(torch.tensor(kept) / count, *curves)
