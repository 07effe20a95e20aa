"""What depends on weights alone is computed once, and again when they change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
from fxlrp._torch import make_fx
from fxlrp.backends.constants import Constants, ConstantStore, find_constant_nodes, split_constants

aten = torch.ops.aten


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(*layers).double().eval()


X = torch.randn(2, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explain(model: nn.Module) -> Tensor:
    """The relevance that a fresh attributor finds."""
    return fxlrp.compile(model, rules="epsilon_gamma_box")(X, target=1).relevance


def halves(model: nn.Module) -> tuple[fxlrp.Attributor, Constants]:
    attributor = fxlrp.compile(model, rules="epsilon_gamma_box", args=(X,))
    return attributor, split_constants(attributor.program.module)[1]


def test_the_program_itself_stays_whole() -> None:
    module = halves(network())[0].program.module
    rest, constants = split_constants(module)
    before = len(module.graph.nodes)
    together = rest(X, torch.tensor([1, 1]), *constants())
    torch.testing.assert_close(together, module(X, torch.tensor([1, 1])), rtol=0, atol=0)
    assert len(module.graph.nodes) == before


def test_what_takes_inputs_computes_nothing_of_weights_alone() -> None:
    rest, constants = split_constants(halves(network())[0].program.module)
    assert [
        n
        for n in find_constant_nodes(rest.graph)
        if n.op == "call_function" and n.target is not aten.scalar_tensor.default
    ] == []
    assert len(constants()) > 0
    constants.module.graph.lint()
    rest.graph.lint()


def test_constants_are_computed_once() -> None:
    _, constants = halves(network())
    assert all(one is two for one, two in zip(constants(), constants(), strict=True))


def scale(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[3].weight.mul_(-2)


def shift_statistics(model: nn.Sequential) -> None:
    model[1].running_mean.add_(1)


def load(model: nn.Sequential) -> None:
    model.load_state_dict({name: 0.5 + value for name, value in model.state_dict().items()})


def assign(model: nn.Sequential) -> None:
    model[3].weight.data = -2 * model[3].weight.data


def train(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [scale, shift_statistics, load, assign, train])
def test_changed_weights_are_seen(change: Callable[[nn.Sequential], None]) -> None:
    model = network()
    attributor = fxlrp.compile(model, rules="epsilon_gamma_box")
    old = attributor(X, target=1).relevance
    change(model)
    new = attributor(X, target=1).relevance
    torch.testing.assert_close(new, explain(model), rtol=0, atol=0)
    assert not torch.allclose(new, old)


def test_tensors_of_inference_mode_are_read_at_every_call() -> None:
    """They count no changes."""
    graph = fx.Graph()
    graph.output([graph.call_function(torch.mul, (graph.get_attr("w"), 2))])
    with torch.inference_mode():
        w = torch.ones(2)
        module = fx.GraphModule({"w": w}, graph)
        product = next(iter(graph.find_nodes(op="call_function", target=torch.mul)))
        constants = Constants(
            module, dict.fromkeys(n for n in graph.nodes if n.op != "output"), [product], ConstantStore()
        )
        assert constants()[0].tolist() == [2.0, 2.0]
        w.add_(1)
        assert constants()[0].tolist() == [4.0, 4.0]


class Table(nn.Module):
    """Returns a value that depends on a parameter alone, and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(6.0).reshape(2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        double = 2 * self.table
        return double, double.T, x @ double


def test_a_result_is_the_callers_own() -> None:
    model = Table().eval()
    attributor = fxlrp.compile(model, output=2)
    x = torch.ones(4, 2)
    for _ in range(2):
        result = attributor(x, target=1)
        torch.testing.assert_close(result.output, model(x), rtol=0, atol=0)
        for part in result.output:
            part.fill_(7)
    torch.testing.assert_close(attributor(x, target=1).output, model(x), rtol=0, atol=0)


def test_random_numbers_are_drawn_at_every_call() -> None:
    module = make_fx(lambda x: (x + torch.rand(8), torch.ones(8) + torch.ones(8)), tracing_mode="fake")(torch.ones(8))
    rest, constants = split_constants(module)
    one, two = (rest(torch.zeros(8), *constants()) for _ in range(2))
    assert not torch.equal(one[0], two[0])
    assert len(constants()) == 1
    assert one[1].tolist() == [2.0] * 8


def test_sizes_that_change_are_no_constants() -> None:
    batch = torch.export.Dim("batch", min=1)
    attributor = fxlrp.compile(network(), rules="epsilon_plus_flat", dynamic_shapes=({0: batch},))
    for n in (2, 5, 3):
        x = X.repeat(3, 1, 1, 1)[:n]
        fixed = fxlrp.compile(network(), rules="epsilon_plus_flat")(x, target=1)
        torch.testing.assert_close(attributor(x, target=1).relevance, fixed.relevance, rtol=1e-12, atol=1e-12)
