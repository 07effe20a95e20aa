"""PatternAttribution: patterns beside sums in loops, signals that are known, and relevance beside changed weights."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.ir.rule import Rule
from fxlrp.rules.published.patterns import active, estimate_patterns, patterned

aten = torch.ops.aten


def network() -> nn.Sequential:
    torch.manual_seed(0)
    front = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU()
    return nn.Sequential(*front, nn.Linear(5, 3)).double().eval()


X = torch.randn(40, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def find_pattern(rules: fxlrp.RuleSet, module: str, behind_relu: bool) -> Tensor:
    """The pattern that a layer in front of a ReLU has, or any other."""
    (made,) = (o.rule for o in rules.overrides if o.module == module and (o.predicate is not None) is behind_relu)
    return made.recipe[1][0]


@torch.no_grad()
def sum_by_hand(x: Tensor, w: Tensor, y: Tensor, regime: str) -> Tensor:
    """One neuron: rows are samples. ``E'`` is over the regime, ``E`` over all."""
    inside = [i for i in range(len(x)) if regime == "all" or y[i] > 0]
    xy = sum(x[i] * y[i] for i in inside) / len(inside)
    mean = sum(x[i] for i in inside) / len(inside)
    a = xy - mean * (sum(y) / len(y))
    return a / (w @ a)


@pytest.mark.parametrize("regime", ["all", "active"])
def test_patterns_are_those_of_the_paper(regime: str) -> None:
    model = network()
    rules = estimate_patterns(model, X.split(7))
    with torch.no_grad():
        rows = nn.functional.unfold(X, 3, padding=1).transpose(1, 2).reshape(-1, 18)
        for module, given in (("0", rows), ("4", model[:4](X))):
            layer = model[int(module)]
            found = find_pattern(rules, module, regime == "active").flatten(1)
            outs = given @ layer.weight.flatten(1).T + layer.bias
            for j, w in enumerate(layer.weight.flatten(1)):
                wanted = sum_by_hand(given, w, outs[:, j], regime)
                torch.testing.assert_close(found[j], wanted, rtol=1e-10, atol=1e-12)
                torch.testing.assert_close(w @ found[j], torch.ones(()).double())


@pytest.mark.parametrize("behind_relu", [False, True])
def test_the_signal_is_found_beside_a_distractor(behind_relu: bool) -> None:
    """A weight is orthogonal to the distractor, and so is not the signal; of a symmetric one both estimators agree."""
    signal, distractor = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    s, d = torch.cartesian_prod(torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([-3.0, 3.0])).double().T
    x = s[:, None] * signal + d[:, None] * distractor
    model = nn.Linear(2, 1, bias=False).double().eval()
    model.weight.data[:] = torch.tensor([1.0, -1.0])
    rules = estimate_patterns(model, [x])
    (made,) = (o.rule for o in rules.overrides if (o.predicate is not None) is behind_relu)
    torch.testing.assert_close(made.recipe[1][0], signal[None])
    relevance = fxlrp.compile(model, rules=rules)(x, target=0).relevance
    torch.testing.assert_close(relevance, s[:, None] * signal * model.weight.detach())


def test_relevance_is_the_gradient_of_the_changed_network() -> None:
    model = network()
    rules = estimate_patterns(model, X.split(20))
    x = X[:3].clone().requires_grad_()
    result = fxlrp.compile(model, rules=rules)(X[:3], target=1)
    with torch.no_grad():
        h = model[0](X[:3])
        z = model[:5](X[:3])
        r = (model[6].weight * find_pattern(rules, "6", False))[1] * result.output[:, 1:2] * (z > 0)
        r = r @ (model[4].weight * find_pattern(rules, "4", True))
    leaf = h.relu().requires_grad_()
    pooled = model[2](leaf)
    (r,) = torch.autograd.grad(pooled, leaf, r.reshape(pooled.shape))
    changed = (model[0].weight * find_pattern(rules, "0", True)).detach()
    y = nn.functional.conv2d(x, changed, padding=1)
    (wanted,) = torch.autograd.grad(y, x, r * (h > 0))
    torch.testing.assert_close(result.relevance, wanted, rtol=1e-10, atol=1e-12)


def test_dense_layers_conserve() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).double().eval()
    x = torch.randn(50, 4, dtype=torch.float64)
    result = fxlrp.compile(model, rules=estimate_patterns(model, x.split(9)))(x, target=0)
    torch.testing.assert_close(result.relevance.sum(1), result.output[:, 0], rtol=1e-10, atol=1e-12)


def test_a_neuron_that_never_fires_passes_nothing_on() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    model[0].bias.data[:] = torch.tensor([-100.0, 100.0])
    rules = estimate_patterns(model, [torch.randn(20, 3, dtype=torch.float64)])
    pattern = find_pattern(rules, "0", True)
    assert pattern[0].abs().max() == 0
    assert pattern.isfinite().all()


def test_the_model_is_left_as_it_was_and_rules_pickle() -> None:
    model = network()
    rules = estimate_patterns(model, [(X,)])
    assert not any(module._forward_hooks for module in model.modules())
    copied = pickle.loads(pickle.dumps(rules))
    found, wanted = (fxlrp.compile(model, rules=r)(X[:2], target=0).relevance for r in (copied, rules))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert isinstance(copied.table[aten.relu.default], Rule)
    assert copied.table[aten.relu.default] == active
    assert patterned(torch.ones(2, 3)).name == "patterned(2x3)"


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).eval(), [torch.ones(1, 2, 3, 3)], "fuse_conv_bn_eval"),
        (nn.Linear(2, 2).eval(), [], "no batch of it reached a layer"),
        (nn.Linear(2, 2), [torch.ones(1, 2)], "training mode"),
        (nn.ReLU().eval(), [torch.ones(1, 2)], "no dense layer"),
    ],
    ids=["batch norm", "no data", "training", "no layer"],
)
def test_what_has_no_patterns_is_refused(model: nn.Module, batches: list[Tensor], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        estimate_patterns(model, batches)
