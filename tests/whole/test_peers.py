"""Other implementations of LRP on the same networks: zennit's composites and captum's rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision_ops import import_torchvision
from zoo import enliven, noise

import_torchvision()

import captum.attr  # noqa: E402
import captum.attr._utils.lrp_rules as captum_rules  # noqa: E402
import torchvision  # noqa: E402
import zennit.composites  # noqa: E402
import zennit.torchvision  # noqa: E402

import fxlrp  # noqa: E402
from fxlrp.rules.presets import epsilon_gamma_box  # noqa: E402
from fxlrp.rules.weighted import epsilon, gamma, z_plus  # noqa: E402

pytestmark = pytest.mark.slow

aten = torch.ops.aten
LOW, HIGH = -2.0, 2.5
CLASSES = [3, 7]


def vgg(batch_norm: bool) -> nn.Module:
    """VGG16 at an eighth of its width."""
    layers = [c if c == "M" else c // 8 for c in torchvision.models.vgg.cfgs["D"]]
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers, batch_norm), num_classes=10)
    model.classifier[0], model.classifier[3] = nn.Linear(64 * 49, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    return model


def resnet(width: int, *layers: int) -> nn.Module:
    """Return bottlenecks like those of ResNet-50, which are 64 wide."""
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, list(layers), num_classes=10, width_per_group=width)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "vgg16": (lambda: vgg(False), zennit.torchvision.VGGCanonizer),
    "vgg16_bn": (lambda: vgg(True), zennit.torchvision.VGGCanonizer),
    "resnet": (lambda: resnet(8, 2, 2, 2, 2), zennit.torchvision.ResNetCanonizer),
    "resnet50": (lambda: resnet(64, 3, 4, 6, 3), zennit.torchvision.ResNetCanonizer),
}
RULES = {
    "epsilon_plus": "epsilon_plus",
    "epsilon_plus_flat": "epsilon_plus_flat",
    "epsilon_alpha2_beta1": "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat": "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box": epsilon_gamma_box(LOW, HIGH),
}


@pytest.mark.parametrize(
    ("network", "name"),
    [
        *((network, name) for network in ("vgg16", "vgg16_bn", "resnet") for name in RULES),
        ("resnet50", "epsilon_gamma_box"),
    ],
)
def test_v24_zennit(network: str, name: str) -> None:
    """With norms merged. Our seed is the coefficient 1 at the logit, theirs is its relevance, the logit."""
    build, canonizer = NETWORKS[network]
    torch.manual_seed(0)
    model = enliven(build()).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # zennit 0.5.1 counts it twice when it merges
    x = noise(2, 3, 64, 64).clamp(LOW, HIGH)
    ours = fxlrp.compile(model, rules=RULES[name])(x, target=CLASSES)

    box = {"low": LOW + 0 * x, "high": HIGH + 0 * x} if name == "epsilon_gamma_box" else {}
    composite = zennit.composites.COMPOSITES[name](canonizers=[canonizer()], **box)
    x.requires_grad_()
    with composite.context(model) as modified:
        y = modified(x)
        seed = nn.functional.one_hot(torch.tensor(CLASSES), 10) * y.detach()
        (theirs,) = torch.autograd.grad(y, x, seed)
    assert (ours.output - y).abs().max() < 1e-10 * y.abs().max()
    assert (ours.relevance - theirs).abs().max() < 1e-6 * theirs.abs().max()


class Plain(nn.Module):
    """A plain convolutional network without biases in its convolutions, where captum's rules are the published ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.dense, self.head = nn.Linear(12 * 9, 16), nn.Linear(16, 10)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relus[0](self.first(x)))
        x = self.average(self.relus[1](self.second(x)))
        return self.head(self.relus[2](self.dense(x.flatten(1))))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (epsilon(1e-9), captum_rules.EpsilonRule),
        (gamma(0.25, 1e-9), captum_rules.GammaRule),
        (z_plus(1e-9), captum_rules.Alpha1_Beta0_Rule),
    ],
    ids=["epsilon", "gamma", "z_plus"],
)
def test_captum(ours: fxlrp.Rule, theirs: Callable[[], object]) -> None:
    torch.manual_seed(0)
    model = enliven(Plain()).double().eval()
    x = noise(2, 3, 14, 14).abs()
    dense = dict.fromkeys([aten.linear.default, aten.avg_pool2d.default], epsilon(1e-9))
    found = fxlrp.compile(model, rules=fxlrp.rule_set("epsilon") | dense | {aten.conv2d.default: ours})
    relevance = found(x, target=CLASSES).relevance
    model.first.rule, model.second.rule = theirs(), theirs()
    expected = captum.attr.LRP(model).attribute(x.requires_grad_(), target=torch.tensor(CLASSES))
    assert (relevance - expected).abs().max() < 1e-6 * expected.abs().max()
