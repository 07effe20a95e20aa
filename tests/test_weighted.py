"""What the weighted rules cost, and what they know of signs, together."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from cases import WEIGHTED, OpCase
from test_rules import agree, result, seed, site
from torch import Tensor, nn

import fxlrp
from fxlrp.numerics import Relevance
from fxlrp.prepared import split
from fxlrp.registry import Facts
from fxlrp.rules import weighted

aten = torch.ops.aten
X = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Five convolutions, of which the last is explained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(4 if i else 2, 4, 3, padding=1), activation(), *([nn.MaxPool2d(2)] if i == 1 else [])]
    return nn.Sequential(*layers, nn.Conv2d(4, 3, 6), nn.Flatten()).eval()


def calls(rules: str | fxlrp.RuleSet, model: nn.Module) -> Counter[str]:
    """How often the program calls each op when its constants are prepared."""
    program = fxlrp.compile(model, rules=rules, args=(X,)).program
    return Counter(str(n.target).split(".")[1] for n in split(program.module)[0].graph.nodes if "aten" in str(n.target))


@pytest.mark.parametrize(
    ("rules", "forward", "adjoint"),
    [
        ("gradient", 5, 5),
        ("epsilon", 5, 5),
        ("epsilon_plus_flat", 5 + 4, 5),  # z+ of every layer but the first
        ("epsilon_alpha2_beta1_flat", 5 + 4, 5 + 4),  # z- is z - z+
        (
            "epsilon_gamma_box",
            5 + 4,
            5 + 1 + 1,
        ),  # one weight for outputs that feed a relu; the box and the last take two
    ],
)
def test_convolutions_are_as_few_as_there_are_unknowns(rules: str, forward: int, adjoint: int) -> None:
    found = calls(rules, network())
    assert (found["convolution"], found["convolution_backward"]) == (forward, adjoint)


@pytest.mark.parametrize(("rules", "forward", "adjoint"), [("gamma", 2, 2), ("alpha_beta", 3, 4), ("z_plus", 3, 2)])
def test_inputs_of_both_signs_take_little_more(rules: str, forward: int, adjoint: int) -> None:
    made = getattr(weighted, rules)()
    table = fxlrp.rule_set("attnlrp") | {aten.conv2d.default: made}
    found = calls(table.named(rules), network(nn.Tanh))
    assert (found["convolution"], found["convolution_backward"]) == (5 * forward, 5 * adjoint)


@pytest.mark.parametrize("rules", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"])
def test_layers_between_relus_need_no_mask(rules: str) -> None:
    found = calls(rules, network())
    assert found["threshold_backward"] == 0
    assert found["where"] <= 1  # infinite inputs have no relevance


@pytest.mark.parametrize("rules", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_single_precision_keeps_its_digits(rules: str) -> None:
    """In norm, though the rules divide by differences."""
    model = network()
    single = fxlrp.compile(model, rules=rules)(X, target=1).relevance
    double = fxlrp.compile(model.double(), rules=rules)(X.double(), target=1).relevance
    assert (single - double).norm() < 1e-5 * double.norm()


@pytest.mark.parametrize("case", [row for row in WEIGHTED if "alpha_beta" in str(row.chosen)], ids=str)
def test_no_difference_is_taken_of_a_coarse_output(case: OpCase) -> None:
    """The output of a model in half precision has few digits: it scales what comes in, and no more."""
    fine = site(case.call)
    coarse = site(case.call, out=fine.out.bfloat16().double())
    c = seed(fine.out)
    agree(result(case.chosen, coarse, c), result(case.chosen, fine, c * coarse.out / fine.out))


@pytest.mark.parametrize("case", [row for row in WEIGHTED if row.label.endswith("nonnegative")], ids=str)
def test_a_true_sign_and_a_true_dead_side_change_nothing_together(case: OpCase) -> None:
    at = site(case.call)
    c = torch.where(at.out < 0, 0.0, seed(at.out))
    known = site(case.call, Facts(nonnegative=True, dead_below=True))
    agree(result(case.chosen, known, c), result(case.chosen, at, c), 1e-12)


@pytest.mark.parametrize("make", [weighted.gamma, weighted.alpha_beta, weighted.epsilon, weighted.z_plus])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_a_stabiliser_nothing_is_infinite(make: type, dtype: torch.dtype) -> None:
    """Outputs that are 0, and contributions that cancel, as in 0.1 + 0.2 - 0.3."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=dtype)
    w = torch.tensor([[0.1, 0.2, -0.3], [0.5, 0.25, 1e-12], [0.5, 0.25, -1e-12]], dtype=dtype)

    def apply(x: Tensor, facts: Facts) -> Tensor:
        call = fxlrp.Site(aten.linear.default, (x, w), tree(x, w), (0,), x @ w.T, facts)
        (part,) = make(e=0.0)(call, torch.ones(3, 3, dtype=dtype))
        assert not isinstance(part, Relevance)
        return part

    for facts in (Facts(), Facts(nonnegative=True)):
        assert apply(x, facts).isfinite().all()


def tree(*args: Tensor) -> object:
    return torch.utils._pytree.tree_flatten((args, {}))[1]
