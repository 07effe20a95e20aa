"""Products with packed weights: which, the same numbers, and what becomes of changed weights."""

from __future__ import annotations

import pytest
import torch
from emitted import DTYPES, count, module
from torch import Tensor, nn

import fxlrp
from fxlrp.backends import inductor
from fxlrp.backends.packed_weights import PACK, PRODUCT, pack_weights

aten = torch.ops.aten
X = torch.linspace(-1, 2, 20).view(5, 4)


def layers() -> nn.Module:
    """The first has no bias, the last two share a weight."""
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), shared, nn.Tanh(), shared).eval()


def test_every_product_with_a_weight_is_packed_and_each_weight_once() -> None:
    program = module(layers(), X)
    products = count(program.graph, aten.mm.default, aten.addmm.default)
    given = X, torch.ones(5, 1, dtype=torch.int64)
    with torch.no_grad():
        expected = program(*given)
        assert pack_weights(program.graph) == products == 6
        assert count(program.graph, aten.mm.default, aten.addmm.default) == 0
        assert (count(program.graph, PRODUCT), count(program.graph, PACK)) == (6, 4)  # two weights, two ways
        program.graph.lint()
        program.recompile()
        for found, known in zip(program(*given), expected, strict=True):
            torch.testing.assert_close(found, known)
    assert pack_weights(program.graph) == 0


@pytest.mark.parametrize("bias", [None, torch.ones(7), torch.arange(14.0)[::2], torch.ones(1).expand(7)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_itself(bias: Tensor | None, transposed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.rand(7, 3).to(dtype).t() if transposed else torch.rand(3, 7).to(dtype)
    added = [] if bias is None else [bias.to(dtype)]
    x = torch.rand(3, 5).to(dtype).t()
    packed = PACK(weight, 5)
    found = PRODUCT(x, packed, *added)
    torch.testing.assert_close(found, x @ weight + sum(added))
    meta = PRODUCT(*(torch.empty(t.shape, device="meta", dtype=dtype) for t in (x, packed, *added)))
    assert (meta.shape, meta.dtype) == (found.shape, found.dtype)


def test_other_types_and_single_rows_are_left_alone() -> None:
    assert pack_weights(module(layers().double(), X.double()).graph) == 0
    assert pack_weights(module(layers(), X[:1]).graph) == 0
    dynamic = ({0: torch.export.Dim("batch")},)
    assert pack_weights(module(layers(), X, dynamic_shapes=dynamic).graph) == 0


class Pair(nn.Module):
    """A product of two inputs, and one of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.rand(4, 4)), nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, x.t()) * torch.mm(self.one, self.two).sum()


def test_products_of_inputs_or_of_weights_are_left_alone() -> None:
    assert pack_weights(module(Pair().eval(), X).graph) == 0


def test_without_the_library_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack_weights(module(layers(), X).graph) == 0


def test_inductor_packs_a_copy_and_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "compile_graph", lambda module, _: module)
    own = layers()
    attributor = fxlrp.compile(own, backend="inductor")
    for _ in range(2):
        found = attributor(X, target=1)
        expected = fxlrp.compile(own)(X, target=1)
        torch.testing.assert_close(found.relevance, expected.relevance)
        torch.testing.assert_close(found.output, expected.output)
        with torch.no_grad():
            own[0].weight.mul_(-3)
    assert count(attributor.program.module.graph, PACK, PRODUCT) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
def test_inductor_compiles_packed_products() -> None:
    own = layers()
    found = fxlrp.compile(own, backend="inductor")(X, target=1)
    torch.testing.assert_close(found.relevance, fxlrp.compile(own)(X, target=1).relevance)
