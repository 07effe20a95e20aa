"""Our own side of the benchmarks: rule sets by name, backends, and a model compiled with both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from networks import HIGH, LOW, Network
from torch import Tensor

import fxlrp
from fxlrp.backends.choice import BACKENDS
from fxlrp.rules.presets import epsilon_gamma_box
from fxlrp.rules.weighted import epsilon, gamma

aten = torch.ops.aten

CONVOLUTIONAL = ("epsilon", "epsilon_gamma_box", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")
ATTENTIVE = ("attnlrp", "cp_lrp")


def rules(name: str) -> str | fxlrp.RuleSet:
    """A preset, with the range of the images, or the rules that a peer uses on every layer."""
    if name == "epsilon_gamma_box":
        return epsilon_gamma_box(LOW, HIGH)
    if name == "gamma":
        return fxlrp.rule_set("epsilon") | {aten.conv2d.default: gamma(100.0), aten.linear.default: gamma(1.0)}
    if name == "captum":
        dense = [aten.linear.default, aten.conv2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default]
        return (fxlrp.rule_set("epsilon") | dict.fromkeys(dense, epsilon(1e-9))).optional()
    return name


def compiled(network: Network, name: str, backend: str, **options: Any) -> Callable[[], Tensor]:
    """The relevance of a network's input, by rules and backend; the first call compiles."""
    attributor = fxlrp.compile(network.model, rules=rules(name), backend=backend, **options)
    return lambda: attributor(*network.args, target=network.call, **network.kwargs).relevance


def backends(device: str) -> list[str]:
    """Those that make sense on a device."""
    return [name for name in BACKENDS if name != "cudagraphs" or device != "cpu"]


def presets(model: str) -> tuple[str, ...]:
    """The rules that are used for such a model."""
    return CONVOLUTIONAL if model in ("vgg16", "resnet50") else ATTENTIVE
