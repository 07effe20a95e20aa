"""Who explains: every preset, and methods of captum and zennit at their usual settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tasks import Task
from torch import Tensor, nn

import fxlrp

import captum.attr  # isort: skip # these import torchvision, which tasks lets them
from zennit import canonizers, composites  # isort: skip

SAMPLES = 32
"""Noisy copies of SmoothGrad, steps of integrated gradients, and permutations of nothing else."""
NOISE = 0.15
"""Deviation of SmoothGrad's noise, in parts of an image's range (Smilkov et al. 2017)."""

Method = Callable[[Task], Tensor]
"""A task to relevance in the shape of its inputs, or without channels."""


def explain(task: Task, preset: str) -> Tensor:
    relevance: Tensor = fxlrp.compile(task.model, rules=preset)(task.inputs, target=task.target.tolist()).relevance
    return relevance


def by_rows(task: Task, attribute: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Explain one input at a time, as some methods make many copies of it."""
    pairs = zip(task.inputs.split(1), task.target.tolist(), strict=True)
    return torch.cat([attribute(x, target).detach() for x, target in pairs])


def smooth_grad(task: Task) -> Tensor:
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


def integrated_gradients(task: Task) -> Tensor:
    method = captum.attr.IntegratedGradients(task.model)
    return by_rows(task, lambda x, t: method.attribute(x, target=t, n_steps=SAMPLES, internal_batch_size=8))


def grad_cam(task: Task) -> Tensor:
    layer = task.model.get_submodule(task.last)
    found = captum.attr.LayerGradCam(task.model, layer).attribute(
        task.inputs.clone().requires_grad_(), task.target, relu_attributions=True
    )
    size = task.inputs.shape[2:]
    whole: Tensor = nn.functional.interpolate(found.detach(), size, mode="bilinear", align_corners=False)[:, 0]
    return whole


def occlusion(task: Task) -> Tensor:
    window = (task.inputs.shape[1], task.patch, task.patch)
    method = captum.attr.Occlusion(task.model)
    return by_rows(
        task,
        lambda x, t: method.attribute(
            x, window, strides=window, target=t, perturbations_per_eval=32, baselines=x.mean((2, 3), keepdim=True)
        ),
    )


def zennit(task: Task, name: str) -> Tensor:
    """A composite, with batch norms merged where they follow a convolution."""
    x = task.inputs.clone().requires_grad_()
    box = {"low": x.detach().min().expand_as(x), "high": x.detach().max().expand_as(x)}
    composite = composites.COMPOSITES[name](
        canonizers=[canonizers.SequentialMergeBatchNorm()], **(box if name.endswith("box") else {})
    )
    with composite.context(task.model) as modified:
        y = modified(x)
        (relevance,) = torch.autograd.grad(y, x, torch.eye(y.shape[1])[task.target])
    return relevance


def at_random(task: Task) -> Tensor:
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
