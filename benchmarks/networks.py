"""The models that are timed, seeded, with one input and one target each; nothing here needs fxlrp."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from torchvision_ops import import_torchvision

import_torchvision()

import torchvision  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()

LOW, HIGH = -3.0, 3.0
"""The range of the images."""


@dataclass(frozen=True)
class Sizes:
    """How large a model and its input are.

    Attributes:
        tiny: Whether the model is narrow and shallow.
        layers: Blocks of a transformer, if not as published.
        tokens: Length of a text.
        batch: Number of samples.
        width: Numbers in a hidden state of a transformer of text, if not as published.
    """

    tiny: bool = False
    layers: int | None = None
    tokens: int = 128
    batch: int = 1
    width: int | None = None


@dataclass(frozen=True)
class Network:
    """A model with an input and a target.

    Attributes:
        model: The model, in evaluation mode, with parameters that do not require gradients.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        target: Index of the explained number in the output of each sample.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: tuple[int, ...]

    def forward(self) -> Tensor:
        """The output."""
        with torch.no_grad():
            return logits(self.model(*self.args, **self.kwargs))

    def leaf(self) -> Tensor:
        """A fresh input that requires gradients: the image, or the embedded tokens."""
        if self.args:
            return self.args[0].detach().clone().requires_grad_()
        return self.model.get_input_embeddings()(self.kwargs["input_ids"]).detach().requires_grad_()

    def run(self, leaf: Tensor) -> Tensor:
        """The output for such an input."""
        if self.args:
            return logits(self.model(leaf))
        rest = {name: value for name, value in self.kwargs.items() if name != "input_ids"}
        return logits(self.model(inputs_embeds=leaf, **rest))

    def chosen(self, output: Tensor) -> Tensor:
        """The sum of the explained numbers."""
        return output[(slice(None), *self.target)].sum()

    def relevance(self, leaf: Tensor, gradient: Tensor) -> Tensor:
        """Input times gradient: for tokens one number each."""
        product = leaf.detach() * gradient
        return product if self.args else product.sum(-1)

    def gradient_x_input(self) -> Tensor:
        """One forward and one backward pass of autograd."""
        leaf = self.leaf()
        (gradient,) = torch.autograd.grad(self.chosen(self.run(leaf)), leaf)
        return self.relevance(leaf, gradient)

    @property
    def text(self) -> bool:
        """Whether the input is tokens."""
        return not self.args

    @property
    def call(self) -> Any:
        """The target as the attributor takes it."""
        return self.target[0] if len(self.target) == 1 else self.target


Builder = Callable[[Sizes], tuple[nn.Module, tuple[int, ...]]]
IMAGES: dict[str, Builder] = {}
TEXTS: dict[str, Builder] = {}


def image(function: Builder) -> Builder:
    IMAGES[function.__name__] = function
    return function


def text(function: Builder) -> Builder:
    TEXTS[function.__name__] = function
    return function


def logits(output: Any) -> Tensor:
    """The explained tensor of a model's output."""
    return output if isinstance(output, Tensor) else output.logits


def build(name: str, sizes: Sizes | None = None, device: str = "cpu") -> Network:
    """A model by its name, with weights and inputs drawn from seed 0."""
    sizes = sizes or Sizes()
    torch.manual_seed(0)
    model, target = (IMAGES | TEXTS)[name](sizes)
    model = model.eval().requires_grad_(False).to(device)
    if name in IMAGES:
        side = 32 if sizes.tiny else 224
        return Network(model, (torch.randn(sizes.batch, 3, side, side).clamp(LOW, HIGH).to(device),), {}, target)
    ids = torch.randint(3, model.config.vocab_size, (sizes.batch, sizes.tokens)).to(device)
    return Network(model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, target)


@image
def vgg16(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    if not sizes.tiny:
        return torchvision.models.vgg16(), (5,)
    layers = [c if c == "M" else c // 16 for c in torchvision.models.vgg.cfgs["D"]]
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers), num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(32, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return model, (5,)


@image
def resnet50(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    """Its statistics are drawn, and it has no constant beside the variance, which zennit would count twice."""
    block = torchvision.models.resnet.Bottleneck
    if sizes.tiny:
        model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10, width_per_group=8)
    else:
        model = torchvision.models.resnet50()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(1, 3)
    return model, (5,)


@image
def vit_b_16(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    if sizes.tiny:
        model = torchvision.models.VisionTransformer(32, 8, sizes.layers or 2, 4, 32, 48, num_classes=10)
    elif sizes.layers:
        model = torchvision.models.VisionTransformer(224, 16, sizes.layers, 12, 768, 3072)
    else:
        model = torchvision.models.vit_b_16()
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model, (5,)


def shape(sizes: Sizes, width: int, layers: int, heads: int) -> dict[str, int]:
    """Width, depth and heads of a transformer of text."""
    width, layers, heads = (32, 2, 4) if sizes.tiny else (width, layers, heads)
    width = sizes.width or width
    return {"width": width, "layers": sizes.layers or layers, "heads": max(width // 64, 1) if sizes.width else heads}


@text
def llama(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    """Llama's blocks, 8 of them and 512 wide."""
    s = shape(sizes, 512, 8, 8)
    config = transformers.LlamaConfig(
        vocab_size=100 if sizes.tiny else 32000,
        hidden_size=s["width"],
        intermediate_size=43 * s["width"] // 16,
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["heads"],
        max_position_embeddings=max(2048, sizes.tokens),
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), (-1, 5)


@text
def gpt2(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    s = shape(sizes, 768, 12, 12)
    config = transformers.GPT2Config(
        **({"vocab_size": 100} if sizes.tiny else {}),
        n_embd=s["width"],
        n_layer=s["layers"],
        n_head=s["heads"],
        n_positions=max(1024, sizes.tokens),
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config), (-1, 5)


@text
def bert(sizes: Sizes) -> tuple[nn.Module, tuple[int, ...]]:
    s = shape(sizes, 768, 12, 12)
    config = transformers.BertConfig(
        **({"vocab_size": 100} if sizes.tiny else {}),
        hidden_size=s["width"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        intermediate_size=4 * s["width"],
        max_position_embeddings=max(512, sizes.tokens),
    )
    return transformers.BertForSequenceClassification(config), (1,)
