"""Relevance as Quantus' metrics ask for it; Quantus itself is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from fxlrp.session.result import Result


class Explain:
    """Explain whatever model a metric of Quantus hands over: the user's own, or one that it has randomised.

    What was made for the last model is kept; attributors see parameters that were changed in place.

    Args:
        prepare: From a model, what explains it: `fxlrp.compile`, with the rules that are wanted.
        channels: Whether relevance keeps the channels of inputs; otherwise it is summed over dimension 1, which stays
            with the size 1.

    Example:
        >>> import functools, numpy, torch, fxlrp
        >>> from fxlrp.integrations.quantus import Explain
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> explain = Explain(functools.partial(fxlrp.compile, rules="epsilon"))
        >>> explain(model, numpy.ones((2, 4)), numpy.array([0, 1])).shape  # quantus.MPRT()(..., explain_func=explain)
        (2, 4)
    """

    def __init__(self, prepare: Callable[[nn.Module], Callable[..., Result]], *, channels: bool = True) -> None:
        self.prepare = prepare
        self.channels = channels
        self._last: tuple[nn.Module, Callable[..., Result]] | None = None

    def __call__(
        self, model: nn.Module, inputs: Any, targets: Any, *, device: str | torch.device | None = None
    ) -> np.ndarray[Any, Any]:
        """Return the relevance of inputs to their classes, as an array in their shape, or with one channel.

        Args:
            model: In evaluation mode.
            inputs: Array of the samples, which is converted to the type of the model's first parameter.
            targets: Array of the class of each sample.
            device: Where the model is; by default where its first parameter is.
        """
        if self._last is None or self._last[0] is not model:
            self._last = model, self.prepare(model)
        first = next(model.parameters(), torch.empty(0))
        x = torch.as_tensor(inputs).to(first.device if device is None else device)
        x = x.to(first.dtype) if x.is_floating_point() else x
        relevance = self._last[1](x, target=torch.as_tensor(targets).flatten().tolist()).relevance
        found = relevance if self.channels else relevance.sum(1, keepdim=True)
        return np.asarray(found.detach().cpu())
