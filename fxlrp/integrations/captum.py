"""Attributors as attribution methods of captum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxlrp.attributor import Attributor
from fxlrp.errors import SignatureError
from fxlrp.optional import require

attr, log = require("captum.attr", "captum"), require("captum.log", "captum")


class Relevance(attr.Attribution):  # type: ignore[name-defined, misc]
    """Relevance as captum's tools call it: its noise tunnel, its metrics, its pictures.

    ``forward_func`` is the attributor's model, on which captum's own methods run: it was not changed.

    Example:
        >>> import torch, fxlrp
        >>> from captum.attr import NoiseTunnel
        >>> from fxlrp.integrations.captum import Relevance
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> tunnel = NoiseTunnel(Relevance(fxlrp.compile(model)))
        >>> tunnel.attribute(torch.ones(1, 4), nt_samples=8, target=1).shape
        torch.Size([1, 4])
    """

    def __init__(self, attributor: Attributor) -> None:
        super().__init__(attributor.model)
        self.attributor = attributor

    @property
    def multiplies_by_inputs(self) -> bool:
        """Say that relevance is a share of the output, and not a sensitivity."""
        return True

    @log.log_usage()  # type: ignore[untyped-decorator]  # captum's tools unwrap it
    def attribute(self, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> Any:
        """Return the relevance of the inputs.

        Args:
            inputs: A tensor, or a tuple of tensors.
            target: As in a call of the attributor, which takes all forms of captum's.
            additional_forward_args: Further positional arguments of the model, which get no relevance.

        Returns:
            Shaped as ``inputs``.

        Raises:
            SignatureError: If one of the inputs has no relevance.
        """
        given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        extra = additional_forward_args
        more = () if extra is None else tuple(extra) if isinstance(extra, tuple) else (extra,)
        found = self.attributor(*given, *more, target=target).relevance
        parts = list(found.values()) if isinstance(found, Mapping) else [found]
        if len(parts) < len(given) or any(r.shape != x.shape for r, x in zip(parts, given, strict=False)):
            raise SignatureError("an input of these has no relevance: give it as one of additional_forward_args")
        return parts[0] if isinstance(inputs, Tensor) else tuple(parts[: len(given)])
