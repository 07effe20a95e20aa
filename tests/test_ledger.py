import json

import pytest
import torch
from torch import nn
from zoo import ZOO

import fxlrp

RULES = ("attnlrp", "epsilon_gamma_box", "cp_lrp", "epsilon")
CASES = [(name, RULES[i % len(RULES)]) for i, name in enumerate(ZOO)]
CASES += [(name, rules) for name in ("vgg16", "vit_b_16", "bert") for rules in RULES if (name, rules) not in CASES]


def scale(ledger: fxlrp.Ledger) -> float:
    """The largest number that the account adds up."""
    return max(abs(ledger.explained), *(abs(e.received) for e in ledger.entries))


@pytest.mark.parametrize(("name", "rules"), CASES)
def test_closes(name: str, rules: str) -> None:
    model, args, kwargs = ZOO[name]()
    ledger = fxlrp.compile(model, rules=rules).ledger(*args, **kwargs)
    assert ledger.entries
    assert abs(ledger.gap) <= 1e-8 * max(abs(ledger.explained), max(map(abs, ledger.inputs.values())))


@pytest.mark.parametrize(
    ("name", "rules"), [("resnet50", "epsilon_gamma_box"), ("bert", "attnlrp"), ("lstm", "epsilon")]
)
def test_accounts_for_the_relevance_of_the_program(name: str, rules: str) -> None:
    model, args, kwargs = ZOO[name]()
    attributor = fxlrp.compile(model, rules=rules)
    ledger = attributor.ledger(*args, **kwargs)
    total = float(attributor(*args, **kwargs).relevance.sum())
    assert list(ledger.inputs.values()) == pytest.approx([total], abs=1e-12 * scale(ledger))


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit_b_16", "llama"])
def test_attnlrp_leaks_in_attention_only(name: str) -> None:
    model, args, kwargs = ZOO[name]()
    ledger = fxlrp.compile(model).ledger(*args, **kwargs)
    leaks = {e.op for e in ledger.entries if abs(e.leaked) > 1e-6 * scale(ledger)}
    assert leaks <= {"aten.scaled_dot_product_attention.default", "aten.softmax.int"}
    assert leaks
    attention = [e for e in ledger.entries if e.op in leaks]
    assert sum(e.leaked for e in attention) == pytest.approx(ledger.leaked, abs=1e-6 * scale(ledger))


def test_softmax_leak_is_that_of_its_taylor_expansion() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)
    ledger = fxlrp.compile(nn.Softmax(-1).eval()).ledger(x, target=2)
    s = x.softmax(-1)
    expected = s[:, 2] - s[:, 2] * (x[:, 2] - (s * x).sum(-1))  # Achtibat et al. 2024, prop. 3.1
    (softmax,) = ledger.entries
    assert softmax.leaked == pytest.approx(float(expected.sum()), rel=1e-12)


class Tokens(nn.Module):
    """A class token, a position table and a bias: three constants that absorb."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.cls.expand(len(x), 1, 4), x], 1) + self.positions
        return self.head(y.sum(1))


def test_absorbed_by_name() -> None:
    torch.manual_seed(0)
    model = Tokens().double().eval().requires_grad_(False)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    ledger = fxlrp.compile(model).ledger(x, target=1)
    weight = model.head.weight[1]
    expected = {
        "cls": 2 * float(weight @ model.cls.flatten()),
        "positions": 2 * float(weight @ model.positions.sum(0)),
        "head.bias": 2 * float(model.head.bias[1]),
    }
    assert ledger.by_constant() == pytest.approx(expected, rel=1e-12)
    assert ledger.inputs["x"] == pytest.approx(float((x.sum(1) @ weight).sum()), rel=1e-12)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "lstm", "gru"])
def test_without_biases_everything_arrives(name: str) -> None:
    model, args, kwargs = ZOO[name]()
    ledger = fxlrp.compile(model).ledger(*args, zero_bias=True, **kwargs)
    assert ledger.explained == pytest.approx(sum(ledger.inputs.values()), rel=1e-9)
    assert abs(ledger.absorbed) <= 1e-9 * scale(ledger)


def test_stabiliser_is_told_apart() -> None:
    model = nn.Linear(3, 2).double().eval().requires_grad_(False)
    x = torch.rand(2, 3, dtype=torch.float64)
    rules = fxlrp.rule_set("attnlrp") | {torch.ops.aten.linear.default: fxlrp.rules.weighted.epsilon(0.5)}
    ledger = fxlrp.compile(model, rules=rules).ledger(x, target=0)
    z = model(x)[:, 0]
    kept = (z - model.bias[0]) * (1 - z / (z + 0.5 * torch.where(z < 0, -1.0, 1.0)))
    assert ledger.stabiliser == pytest.approx(float(kept.sum()), rel=1e-9)
    assert ledger.absorbed == pytest.approx(2 * float(model.bias[0]), rel=1e-9)


class Cancels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1e4 * x + 1.0) - (1e4 * x)


def test_warns_of_amplification_and_of_the_first_token() -> None:
    x = torch.rand(1, 3, dtype=torch.float64)
    (warning,) = fxlrp.compile(Cancels().eval()).ledger(x).warnings
    assert "times the explained value" in warning
    assert "test_ledger.py" in warning
    torch.manual_seed(0)
    bag = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double().eval()
    with torch.no_grad():
        bag[2].weight[:, 3:] *= 1e-3
    ledger = fxlrp.compile(bag).ledger(torch.tensor([[1, 2]]), target=0)
    assert any("first token" in text for text in ledger.warnings)


def test_rolls_up_and_serialises() -> None:
    model, args, kwargs = ZOO["bert"]()
    ledger = fxlrp.compile(model).ledger(*args, **kwargs)
    modules = ledger.by_module(2)
    for column in ("absorbed", "leaked", "stabiliser"):
        assert sum(row[column] for row in modules.values()) == pytest.approx(getattr(ledger, column), abs=1e-12)
    data = json.loads(ledger.to_json())
    assert len(data["entries"]) == len(ledger.entries) == len(ledger.to_rows())
    assert data["gap"] == ledger.gap
    assert "bert.encoder" in str(ledger)
