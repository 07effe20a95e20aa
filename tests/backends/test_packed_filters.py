"""Convolutions with packed filters: which, the same numbers, and how images are laid out."""

from __future__ import annotations

import pytest
import torch
from emitted import DTYPES, count, module
from torch import Tensor, nn

import fxlrp
from fxlrp._torch import FakeTensorMode
from fxlrp.backends import inductor
from fxlrp.backends.inductor import SegmentKind
from fxlrp.backends.packed_filters import ADJOINT, CONVOLUTION, PACK, PACK_ADJOINT, pack_convolutions
from fxlrp.backends.segments import make_segment

aten = torch.ops.aten
PLAIN = (aten.convolution.default, aten.convolution_backward.default)
X = torch.linspace(-1, 2, 2 * 3 * 15 * 14).view(2, 3, 15, 14)

# size of the filters; stride, padding, dilation and groups
LAYOUTS: dict[str, tuple[tuple[int, int], tuple[list[int], list[int], list[int], int]]] = {
    "three by three": ((3, 3), ([1, 1], [1, 1], [1, 1], 1)),
    "strided": ((3, 2), ([2, 3], [0, 1], [1, 1], 1)),
    "strided with pixels left over": ((1, 1), ([2, 2], [0, 0], [1, 1], 1)),
    "strides beyond the filters": ((2, 2), ([3, 3], [0, 0], [1, 1], 1)),
    "patches": ((4, 4), ([4, 4], [0, 0], [1, 1], 1)),
    "dilated": ((3, 3), ([1, 1], [2, 2], [2, 2], 1)),
    "wide padding": ((1, 1), ([1, 1], [2, 2], [1, 1], 1)),
    "groups": ((3, 3), ([2, 1], [1, 1], [1, 1], 2)),
    "depthwise": ((3, 3), ([1, 1], [1, 1], [1, 1], 4)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("bias", [None, torch.ones(8), torch.arange(16.0)[::2], torch.ones(1).expand(8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ops_themselves(name: str, bias: Tensor | None, dtype: torch.dtype) -> None:
    size, layout = LAYOUTS[name]
    stride, padding, dilation, groups = layout
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 9, 10).to(dtype), torch.randn(8, 4 // groups, *size).to(dtype)
    added = None if bias is None else bias.to(dtype)
    y = CONVOLUTION(x, PACK(weight, x.shape, *layout), added, *layout)
    torch.testing.assert_close(y, torch.conv2d(x, weight, added, stride, padding, dilation, groups))
    c = torch.randn_like(y)
    found = ADJOINT(c, x, PACK_ADJOINT(weight, c.shape, *layout), *layout)
    mask = [True, False, False]
    rest = stride, padding, dilation, False, [0, 0], groups
    torch.testing.assert_close(found, aten.convolution_backward(c, x, weight, None, *rest, mask)[0])
    with FakeTensorMode() as mode:
        x_, weight_, c_ = (mode.from_tensor(t) for t in (x, weight, c))
        fakes = CONVOLUTION(x_, weight_, None, *layout), ADJOINT(c_, x_, weight_, *layout)
    for fake, real in zip(fakes, (y, found), strict=True):
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def network() -> nn.Module:
    """Its last two convolutions share their filters."""
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1)
    first = nn.Conv2d(3, 4, 3, stride=2, bias=False)
    return nn.Sequential(first, nn.ReLU(), shared, nn.MaxPool2d(2), shared, nn.Flatten(), nn.Linear(36, 3)).eval()


def test_every_convolution_by_a_weight_is_packed() -> None:
    program = module(network(), X, read=("0",))
    given = X, torch.ones(2, 1, dtype=torch.int64)
    with torch.no_grad():
        expected = program(*given)
        assert count(program.graph, *PLAIN) == 6
        assert pack_convolutions(program.graph) == 6
        assert count(program.graph, *PLAIN) == 0
        assert count(program.graph, PACK, PACK_ADJOINT) == 6  # the shared filters see images of two sizes
        program.graph.lint()
        program.recompile()
        for found, known in zip(program(*given), expected, strict=True):
            torch.testing.assert_close(found, known)
            assert found.stride() == known.stride()
    assert pack_convolutions(program.graph) == 0


def test_filters_are_packed_once_for_each_size() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    program = module(nn.Sequential(shared, nn.Tanh(), shared).eval().append(nn.Flatten()), X)
    assert pack_convolutions(program.graph) == 4
    assert count(program.graph, PACK, PACK_ADJOINT) == 2


class Correlation(nn.Module):
    """An image as the filters of another."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.conv2d(x, y).flatten(1)


def test_other_convolutions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack_convolutions(module(network().double(), X.double()).graph) == 0
    assert pack_convolutions(module(network(), X, dynamic_shapes=({0: torch.export.Dim("batch")},)).graph) == 0
    assert pack_convolutions(module(nn.Sequential(nn.Conv1d(15, 2, 3), nn.Flatten()).eval(), X[:, 0]).graph) == 0
    assert pack_convolutions(module(nn.Sequential(nn.ConvTranspose2d(3, 2, 3), nn.Flatten()).eval(), X).graph) == 0
    assert pack_convolutions(module(Correlation().eval(), X, X[:, :, :4, :4].contiguous()).graph) == 0
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack_convolutions(module(network(), X).graph) == 0


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_backends_follow_the_weights(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(inductor, "compile_graph", lambda module, _: module)
    own, exact = network(), network().double()
    attributor, reference = fxlrp.compile(own, backend=backend), fxlrp.compile(exact)
    for _ in range(2):
        found, expected = attributor(X, target=1), reference(X.double(), target=1)
        torch.testing.assert_close(found.relevance, expected.relevance.float())
        torch.testing.assert_close(found.output, expected.output.float())
        with torch.no_grad():
            own[0].weight.mul_(-3)
            exact[0].weight.mul_(-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
def test_inductor_compiles_packed_convolutions() -> None:
    own = network()
    found = fxlrp.compile(own, backend="inductor")(X, target=1)
    torch.testing.assert_close(found.relevance, fxlrp.compile(own)(X, target=1).relevance)


def test_segments_are_compiled_for_each_order_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(inductor, "compile_graph", lambda module, values: compiled.append(values) or module)
    program = module(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()).eval(), X)
    relu = next(node for node in program.graph.nodes if node.target is aten.relu.default)
    kind = SegmentKind(make_segment([relu]), dynamic=False)
    images = X, X.contiguous(memory_format=torch.channels_last), X + 1
    for x in images:
        torch.testing.assert_close(kind(x), (x.relu(),))
    assert len(compiled) == 2
