"""Which convolutions and products are packed."""

from __future__ import annotations

import pytest
import torch
from emitted import count, module
from torch import Tensor, nn

import fxlrp
from fxlrp.backends.geometry import has_several_rows, is_ordinary
from fxlrp.backends.packed_filters import ADJOINT, CONVOLUTION
from fxlrp.backends.packed_weights import PRODUCT, pack_weights

# layer, size of its images
ORDINARY: dict[str, tuple[nn.Conv2d, tuple[int, ...]]] = {
    "of VGG": (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 14, 14)),
    "stem of ResNet": (nn.Conv2d(3, 64, 7, 2, 3), (1, 3, 64, 64)),
    "bottleneck": (nn.Conv2d(64, 16, 1), (1, 64, 7, 7)),
    "shortcut": (nn.Conv2d(64, 128, 1, 2), (1, 64, 8, 8)),
    "last stage of ResNet": (nn.Conv2d(32, 32, 3, padding=1), (1, 32, 7, 7)),
    "depthwise": (nn.Conv2d(16, 16, 5, 2, 2, groups=16), (2, 16, 14, 14)),
    "ResNeXt": (nn.Conv2d(32, 32, 3, padding=1, groups=4), (2, 32, 14, 14)),
    "patches": (nn.Conv2d(3, 32, 8, 8), (1, 3, 32, 32)),
    "dilated": (nn.Conv2d(8, 8, 3, padding=6, dilation=6), (1, 8, 28, 28)),
    "uneven": (nn.Conv2d(8, 8, (1, 7), padding=(0, 3)), (1, 8, 17, 17)),
}
OTHERS: dict[str, tuple[nn.Conv2d, tuple[int, ...]]] = {
    "one channel before": (nn.Conv2d(1, 8, 3), (1, 1, 9, 9)),
    "one channel behind": (nn.Conv2d(8, 1, 3), (1, 8, 9, 9)),
    "one row before": (nn.Conv2d(4, 4, (1, 3)), (1, 4, 1, 9)),
    "one column before": (nn.Conv2d(4, 4, (3, 1)), (1, 4, 9, 1)),
    "one column behind": (nn.Conv2d(4, 4, 3, (1, 2)), (1, 4, 9, 4)),
    "one row behind": (nn.Conv2d(4, 4, 3), (1, 4, 3, 9)),
    "no image": (nn.Conv2d(4, 4, 3), (0, 4, 9, 9)),
    "padding beyond the reach": (nn.Conv2d(4, 4, 3, padding=3), (1, 4, 9, 9)),
    "padding beyond the reach on one side": (nn.Conv2d(4, 4, (3, 1), padding=1), (1, 4, 9, 9)),
    "beyond the image": (nn.Conv2d(4, 4, 3, padding=4, dilation=4), (1, 4, 8, 8)),
    "dilated points": (nn.Conv2d(4, 4, 1, dilation=2), (1, 4, 8, 8)),
    "strides beyond the filters": (nn.Conv2d(4, 4, 2, 4), (1, 4, 9, 9)),
    # these gave other numbers than torch, or none
    "garbage": (nn.Conv2d(1, 8, 3, (1, 2)), (2, 1, 20, 3)),
    "garbage of several channels": (nn.Conv2d(8, 8, (3, 5), (1, 2)), (2, 8, 20, 5)),
    "end of the process": (nn.Conv2d(16, 16, (5, 1), (4, 2), (5, 1), (1, 2)), (2, 16, 9, 1)),
    "no such memory": (nn.Conv2d(8, 8, (5, 3), (4, 1), (3, 0)), (2, 8, 1, 15)),
}


def judged(layer: nn.Conv2d, size: tuple[int, ...]) -> bool:
    x = torch.zeros(size)
    assert isinstance(layer.padding, tuple)
    return is_ordinary(x, layer(x), layer.weight, layer.stride, layer.padding, layer.dilation)


@pytest.mark.parametrize("name", ORDINARY)
def test_convolutions_of_ordinary_networks(name: str) -> None:
    assert judged(*ORDINARY[name])


@pytest.mark.parametrize("name", OTHERS)
def test_others(name: str) -> None:
    assert not judged(*OTHERS[name])


def test_only_images_of_known_size() -> None:
    weight = torch.zeros(4, 4, 3)
    signal = torch.zeros(2, 4, 9)
    assert not is_ordinary(signal, signal[..., :7], weight, [1], [0], [1])
    image, filters = torch.zeros(2, 4, 9, 9), torch.zeros(4, 4, 3, 3)
    assert is_ordinary(image, image[..., :7, :7], filters, [1, 1], [0, 0], [1, 1])
    assert not is_ordinary(
        image, image[..., :7, :7], filters, [1, 1], [0], [1, 1]
    )  # as a padding of "valid" is written
    assert not has_several_rows(1, torch.zeros(3, 4))
    assert not has_several_rows(2, torch.zeros(1, 4))
    assert not has_several_rows(2, torch.zeros(4, 0))
    assert has_several_rows(2, torch.zeros(3, 4))


@pytest.mark.parametrize("name", [name for name, (_, size) in OTHERS.items() if size[0] > 0])
def test_others_are_as_right_as_torch(name: str) -> None:
    layer, size = OTHERS[name]
    torch.manual_seed(0)
    x = torch.randn(size)
    model = nn.Sequential(layer, nn.Flatten()).eval()
    program = module(model, x)
    y = model(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y[:, 1].sum(), x)
    found = fxlrp.compile(model, rules="gradient")(x.detach(), target=1)
    torch.testing.assert_close(found.output, y.detach())
    torch.testing.assert_close(found.relevance, (x * gradient).detach())
    assert count(program.graph, CONVOLUTION, ADJOINT) == 0


def test_products_with_one_column_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 4)).eval()
    graph = module(model, torch.rand(3, 4)).graph
    assert pack_weights(graph) == 0
    assert count(graph, PRODUCT) == 0


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 30), (2, 2, 5, 6)])
def test_results_have_the_order_of_the_models(shape: tuple[int, ...]) -> None:
    """A view of packed channels that is returned."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.layer(x)
            return y.view(2, *shape), y.sum((2, 3))

    model, x = Views().eval(), torch.rand(2, 3, 7, 8)
    found = fxlrp.compile(model, output=1)(x, target=1)
    for one, other in zip(found.output, model(x), strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other.detach())
    assert found.relevance.stride() == x.stride()
