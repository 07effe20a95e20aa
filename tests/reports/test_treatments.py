"""What reports say of gates, routers, scans, divisors and initial states is what the plan does there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO

import fxlrp
from fxlrp.attributor import Attributor

ZERO = "constant, takes no relevance"
ARRAS = "held fixed, the signal takes all (Arras et al. 2017)"
EVEN = "shares evenly (Achtibat et al. 2024)"
TAYLOR = "first Taylor order, which leaks (Achtibat et al. 2024)"
ADJOINT = "takes relevance by the rule adjoint"
NORMALISED = "held fixed, the weights take all"
EXPERT = "held fixed, the expert takes all (Ali et al. 2022)"
SELECTED = "constant, the signal takes all (Rezaei Jafari et al. 2024)"

CASES = {
    ("gru", "attnlrp"): {"initial state": ZERO, "gate": ARRAS},
    ("gru", "gradient"): {"initial state": ZERO, "gate": ADJOINT},
    ("lstm", "attnlrp"): {"initial state": ZERO, "gate": ARRAS},
    ("lstm", "arras_lstm"): {"initial state": ZERO, "gate": ARRAS},
    ("mixtral", "attnlrp"): {
        "router's softmax": TAYLOR, "router's normaliser": NORMALISED, "router's weight": EVEN,
    },
    ("mixtral", "cp_lrp"): {"router's softmax": ZERO, "router's weight": EXPERT},
    ("mixtral", "gradient"): {
        "router's softmax": ADJOINT, "router's normaliser": ADJOINT, "router's weight": ADJOINT,
    },
    ("mamba", "attnlrp"): {
        "selection of a state space": "takes relevance by the rule affine", "gate": ARRAS, "initial state": ZERO,
    },
    ("mamba", "mamba_lrp"): {"selection of a state space": SELECTED, "gate": ARRAS, "initial state": ZERO},
    ("vit_b_16", "attnlrp"): {},
}  # fmt: skip


def list_treatments(attributor: Attributor) -> dict[str, str]:
    found = attributor.coverage().treatments
    assert len({treated.part for treated in found}) == len(found)
    return {treated.part: treated.treatment for treated in found}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rules"), CASES)
def test_a_model_of_the_zoo(name: str, rules: str) -> None:
    model, args, kwargs = ZOO[name]()
    assert list_treatments(fxlrp.compile(model, args, kwargs, rules=rules)) == CASES[name, rules]


class Stepwise(nn.Module):
    """A recurrent layer that begins with a state of its own, or with one that it is given."""

    def __init__(self, learned: bool = False, kind: type[nn.RNNBase] = nn.RNN) -> None:
        super().__init__()
        self.cell = kind(3, 4, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 4)) if learned else None

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        own = None if self.start is None else self.start.expand(1, len(x), 4)
        return self.cell(x, own if state is None else state)[0][:, -1]


X, STATE = torch.randn(2, 3, 3).double(), torch.randn(1, 2, 4).double()


@pytest.mark.parametrize(
    ("learned", "given", "expected"),
    [(False, False, ZERO), (True, False, ZERO), (False, True, "an input, takes relevance of its own")],
    ids=["zeros", "a parameter", "an input"],
)
def test_initial_states(learned: bool, given: bool, expected: str) -> None:
    model, args = Stepwise(learned).double().eval(), (X, STATE) if given else (X,)
    attributor = fxlrp.compile(model, args, dynamic_shapes=None)
    assert list_treatments(attributor) == {"initial state": expected}
    relevance = attributor(*args, target=1).relevance
    assert isinstance(relevance, dict) is given
    if given:
        assert relevance["state"].abs().min() > 0


def test_every_report_says_the_same(tmp_path: Path) -> None:
    attributor = fxlrp.compile(Stepwise(kind=nn.GRU).double().eval(), (X,))
    report = attributor.coverage()
    (gate,) = (treated for treated in report.treatments if treated.part == "gate")
    assert json.loads(report.to_json())["treatments"][1] == {"part": "gate", "treatment": ARRAS, "count": gate.count}
    assert f"gate: {ARRAS} ({gate.count})" in " ".join(str(report).split())
    assert attributor.graph(tmp_path / "a.html").read_text().count(f"gate: {ARRAS}") >= 1


class LinearAttention(nn.Module):
    """Attention with a feature map in place of the softmax, as a scan over positions."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.maps, self.offset = nn.Linear(3, 9), offset

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.maps(x).chunk(3, -1)
        q, k = (nn.functional.elu(part) + self.offset for part in (q, k))
        total = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(1)
        y = (q.unsqueeze(-2) @ total).squeeze(-2) / (q * k.cumsum(1)).sum(-1, keepdim=True)
        return y[:, -1]


@pytest.mark.parametrize(
    ("rules", "expected"), [("attnlrp", "held fixed, the numerator takes all"), ("gradient", ADJOINT)]
)
def test_the_divisor_of_linear_attention(rules: str, expected: str) -> None:
    attributor = fxlrp.compile(LinearAttention(1.0).double().eval(), (X,), rules=rules)
    assert list_treatments(attributor) == {"divisor": expected}


class Siamese(nn.Module):
    """One layer at two inputs is no recurrence; a gate of a parameter has no signal."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return (self.layer(x) + self.layer(other))[:, 0] + torch.sigmoid(x[:, 0]) * self.scale


def test_nothing_is_said_of_what_is_none_of_them() -> None:
    attributor = fxlrp.compile(Siamese().double().eval(), (X, X))
    assert list_treatments(attributor) == {}
