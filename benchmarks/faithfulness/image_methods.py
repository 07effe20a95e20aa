"""Who explains a classifier of images: every preset, and methods of captum and zennit at their usual settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import fxlrp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from torchvision_ops import import_torchvision

import_torchvision()  # what follows needs it

import captum.attr  # noqa: E402
from zennit import canonizers, composites  # noqa: E402

SAMPLES = 32
"""Noisy copies of SmoothGrad, and steps of integrated gradients."""
NOISE = 0.15
"""Deviation of SmoothGrad's noise, in parts of an image's range (Smilkov et al. 2017)."""


@dataclass(frozen=True)
class Classifier:
    """A model of images, and what is explained.

    Attributes:
        model: Images to logits.
        inputs: ``(samples, channels, height, width)``, or of volumes ``(samples, channels, depth, height, width)``.
        target: The predicted classes, which are explained.
        patch: Side in pixels of what occlusion takes away.
        last: Name of the last module that returns the dimensions of the inputs, for GradCAM, or None.
    """

    model: nn.Module
    inputs: Tensor
    target: Tensor
    patch: int
    last: str | None

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, patch: int, last: str | None) -> Classifier:
        """Explain what the model predicts."""
        model = model.eval().requires_grad_(False)
        with torch.no_grad():
            target = model(inputs).argmax(1)
        return cls(model, inputs, target, patch, last)


Method = Callable[[Classifier], Tensor]
"""A classifier to relevance in the shape of its inputs, or without channels."""


def explain(task: Classifier, preset: str) -> Tensor:
    relevance: Tensor = fxlrp.compile(task.model, rules=preset)(task.inputs, target=task.target.tolist()).relevance
    return relevance


def by_rows(task: Classifier, attribute: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Explain one input at a time, as some methods make many copies of it."""
    pairs = zip(task.inputs.split(1), task.target.tolist(), strict=True)
    return torch.cat([attribute(x, target).detach() for x, target in pairs])


def smooth_grad(task: Classifier) -> Tensor:
    method = captum.attr.NoiseTunnel(captum.attr.Saliency(task.model))

    def attribute(x: Tensor, target: int) -> Tensor:
        torch.manual_seed(0)
        width = NOISE * float(x.max() - x.min())
        return method.attribute(
            x.clone().requires_grad_(),
            target=target,
            nt_type="smoothgrad",
            nt_samples=SAMPLES,
            nt_samples_batch_size=8,
            stdevs=width,
        )

    return by_rows(task, attribute)


def integrated_gradients(task: Classifier, start: float = 0.0) -> Tensor:
    """Integrate gradients from an image of one number."""
    method = captum.attr.IntegratedGradients(task.model)
    return by_rows(task, lambda x, t: method.attribute(x, start, target=t, n_steps=SAMPLES, internal_batch_size=8))


def grad_cam(task: Classifier) -> Tensor:
    assert task.last is not None
    layer = task.model.get_submodule(task.last)
    found = captum.attr.LayerGradCam(task.model, layer).attribute(
        task.inputs.clone().requires_grad_(), task.target, relu_attributions=True
    )
    size = task.inputs.shape[2:]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    whole: Tensor = nn.functional.interpolate(found.detach(), size, mode=mode, align_corners=False)[:, 0]
    return whole


def occlusion(task: Classifier) -> Tensor:
    channels, *sizes = task.inputs.shape[1:]
    window = (channels, *(task.patch for _ in sizes))
    places = tuple(range(2, task.inputs.ndim))
    method = captum.attr.Occlusion(task.model)
    return by_rows(
        task,
        lambda x, t: method.attribute(
            x, window, strides=window, target=t, perturbations_per_eval=32, baselines=x.mean(places, keepdim=True)
        ),
    )


def zennit(task: Classifier, name: str) -> Tensor:
    """A composite, with batch norms merged where they follow a convolution."""
    x = task.inputs.clone().requires_grad_()
    box = {"low": x.detach().min(), "high": x.detach().max()}
    composite = composites.COMPOSITES[name](
        canonizers=[canonizers.SequentialMergeBatchNorm()], **(box if name.endswith("box") else {})
    )
    with composite.context(task.model) as modified:
        y = modified(x)
        (relevance,) = torch.autograd.grad(y, x, y.detach() * torch.eye(y.shape[1])[task.target])
    return relevance


def at_random(task: Classifier) -> Tensor:
    size = (len(task.inputs), *task.inputs.shape[2:])
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


ZENNIT = ("epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box")
METHODS: dict[str, Method] = {
    **{name: partial(explain, preset=name) for name in fxlrp.presets()},
    **{f"zennit {name}": partial(zennit, name=name) for name in ZENNIT},
    "SmoothGrad": smooth_grad,
    "integrated gradients": integrated_gradients,
    "GradCAM": grad_cam,
    "occlusion": occlusion,
    "random": at_random,
}


def list_methods(task: Classifier, further: Mapping[str, Method] | None = None) -> dict[str, Callable[[], Tensor]]:
    """Bind the methods that can explain a classifier to it, and further ones."""
    methods = {**METHODS, **(further or {})}
    return {name: partial(method, task) for name, method in methods.items() if name != "GradCAM" or task.last}
