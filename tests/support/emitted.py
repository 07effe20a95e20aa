"""What tests of packed weights ask of emitted programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

import fxlrp

DTYPES = [torch.float32, torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [torch.float32]
"""Types of weights that this processor packs."""


def module(model: nn.Module, *inputs: Tensor, **options: Any) -> fx.GraphModule:
    """The program that explains output 1 of a model by AttnLRP, whose rules use each weight as it is."""
    attributor = fxlrp.compile(model, rules="attnlrp", **options)
    attributor.compile(*inputs, target=1)
    return attributor.program.module


def count(graph: fx.Graph, *ops: Any) -> int:
    """How many nodes call one of the ops."""
    return len([node for node in graph.nodes if node.target in ops])
