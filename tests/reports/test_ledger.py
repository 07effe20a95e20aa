import json
from functools import lru_cache, partial

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from zoo import ZOO, Sample

import fxlrp
import fxlrp.session.programs
from fxlrp.capture.functional_graph import capture
from fxlrp.ir.program import Captured
from fxlrp.session.signature import bind_arguments

PRESETS = tuple(fxlrp.presets())


# the scope makes the tests of a model follow each other, so that they share what is kept
models = partial(pytest.mark.parametrize, "name", scope="module")


@lru_cache(2)
def sample(name: str) -> Sample:
    return ZOO[name]()


@lru_cache(2)
def captured(name: str) -> Captured:
    """A model captured once for several rule sets, which leave the capture as it is."""
    model, args, kwargs = sample(name)
    return capture(model, *bind_arguments(model, args, kwargs), output=None, objective=None, dynamic_shapes=None)


@lru_cache(4)
def accounted(name: str, rules: str) -> tuple[fxlrp.Attributor, fxlrp.Ledger]:
    model, args, kwargs = sample(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fxlrp.session.programs, "capture", lambda *_, **__: captured(name))
        attributor = fxlrp.compile(model, rules=rules)
        return attributor, attributor.ledger(*args, **kwargs)


def scale(ledger: fxlrp.Ledger) -> float:
    """The largest number that the account adds up."""
    return max(abs(ledger.explained), *(abs(e.received) for e in ledger.entries))


@pytest.mark.parametrize(
    ("name", "rules"),
    leave_to_slow(
        [
            (name, rules)
            for i, name in enumerate(ZOO)
            for rules in dict.fromkeys(("attnlrp", PRESETS[i % len(PRESETS)]))
        ],
        but={"bert"},
    ),
    scope="module",
)
def test_v07_closes(name: str, rules: str) -> None:
    _, ledger = accounted(name, rules)
    assert ledger.entries
    assert abs(ledger.gap) <= 1e-8 * max(abs(ledger.explained), max(map(abs, ledger.inputs.values())))


@pytest.mark.parametrize(
    ("name", "rules"),
    leave_to_slow([("resnet50", "epsilon_gamma_box"), ("bert", "attnlrp"), ("lstm", "epsilon")], but={"bert"}),
    scope="module",
)
def test_accounts_for_the_relevance_of_the_program(name: str, rules: str) -> None:
    _, args, kwargs = sample(name)
    attributor, ledger = accounted(name, rules)
    total = float(attributor(*args, **kwargs).relevance.sum())
    assert list(ledger.inputs.values()) == pytest.approx([total], abs=1e-12 * scale(ledger))


@models(leave_to_slow(["bert", "gpt2", "vit_b_16", "llama"], but={"bert"}))
def test_attnlrp_leaks_in_attention_only(name: str) -> None:
    _, ledger = accounted(name, "attnlrp")
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


def opened(name: str) -> Sample:
    """A model whose attention is written out as products and a softmax."""
    model, args, kwargs = ZOO[name]()
    model.set_attn_implementation("eager")
    return model, args, kwargs


@models(leave_to_slow(["bert", "gpt2", "whisper"], but={"bert"}))
def test_every_softmax_is_charged_with_its_own_leak(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, args, kwargs = opened(name)
    logits: list[Tensor] = []
    with monkeypatch.context() as patch:
        plain = nn.functional.softmax
        patch.setattr(nn.functional, "softmax", lambda x, *a, **k: logits.append(x) or plain(x, *a, **k))
        with torch.no_grad():
            model(*args, **kwargs)
    attributor = fxlrp.compile(model, read="softmax*")
    read = attributor(*args, **kwargs).read
    charged = {e.node: e.leaked for e in attributor.ledger(*args, **kwargs).entries if e.op == "aten.softmax.int"}
    assert list(charged) == list(read)
    for (node, r), x in zip(read.items(), logits, strict=True):
        passed = x * (r - x.softmax(-1) * r.sum(-1, keepdim=True))  # Achtibat et al. 2024, prop. 3.1
        size = float(r.abs().sum() + passed.abs().sum())
        assert size > 0
        assert charged[node] == pytest.approx(float(r.sum() - passed.sum()), abs=1e-11 * size), node


@models(leave_to_slow(["bert", "gpt2", "llama"], but=()))
def test_fused_attention_leaks_what_its_softmax_would(name: str) -> None:
    # Llama's written-out softmax is float32, whatever the model is
    dtype, tolerance = (torch.float32, 1e-5) if name == "llama" else (torch.float64, 1e-10)
    leaks = []
    for op, (model, args, kwargs) in (("scaled_dot_product_attention", ZOO[name]()), ("softmax", opened(name))):
        ledger = fxlrp.compile(model.to(dtype), rules="attnlrp").ledger(*args, **kwargs)
        leaks.append({e.module: e.leaked for e in ledger.entries if op in e.op})
    fused, written = leaks
    assert fused == pytest.approx(written, rel=tolerance)
    assert sum(leak != 0 for leak in fused.values()) == len(fused) > 1


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


@models(leave_to_slow(["vgg16", "resnet50", "lstm", "gru"], but=()))
def test_without_biases_everything_arrives(name: str) -> None:
    model, args, kwargs = ZOO[name]()
    ledger = fxlrp.compile(model, rules="attnlrp").ledger(*args, zero_bias=True, **kwargs)
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


def test_is_sorted_by_size_with_shares_of_the_explained_value() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))).double().eval().requires_grad_(False)
    for layer, scale in zip(model, (1, 100, 0.01, 10), strict=True):
        layer.bias *= scale
    ledger = fxlrp.compile(model).ledger(torch.randn(2, 4, dtype=torch.float64), target=1)
    kept = [sum(map(abs, row.values())) for row in ledger.by_module().values()]
    assert kept == sorted(kept, reverse=True)
    assert sum(ledger.shares.values()) == pytest.approx(100, rel=1e-9)
    assert ledger.shares["absorbed"] == pytest.approx(100 * ledger.absorbed / ledger.explained)
    assert json.loads(ledger.to_json())["shares"] == pytest.approx(ledger.shares)
    lines = str(ledger).splitlines()
    modules = [line.split()[1] for line in lines if line.startswith(("│ 0", "│ 1", "│ 2", "│ 3"))]
    assert modules == list(ledger.by_module())
    assert f"{ledger.shares['absorbed']:.2f} %" in next(line for line in lines if "all modules" in line)


def test_a_value_of_0_has_no_shares() -> None:
    ledger = fxlrp.compile(nn.Linear(2, 1, bias=False).double().eval()).ledger(torch.zeros(1, 2).double())
    assert set(ledger.shares.values()) == {None}
    assert "%" not in str(ledger)
    assert ledger.warnings == ()


def test_warns_of_what_does_not_arrive() -> None:
    model = nn.Linear(2, 1).double().eval().requires_grad_(False)
    model.bias += 1e3
    (warning,) = fxlrp.compile(model).ledger(torch.ones(1, 2).double()).warnings
    assert "constants keep 99.9" in warning or "constants keep 100." in warning


class Cancels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1e4 * x + 1.0) - (1e4 * x)


def test_warns_of_amplification_and_of_the_first_token() -> None:
    x = torch.rand(1, 3, dtype=torch.float64)
    absorbed, warning = fxlrp.compile(Cancels().eval()).ledger(x).warnings
    assert "100.00 % of the explained value does not reach the inputs" in absorbed
    assert "times the explained value" in warning
    assert "test_ledger.py" in warning
    torch.manual_seed(0)
    bag = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double().eval()
    with torch.no_grad():
        bag[2].weight[:, 3:] *= 1e-3
    ledger = fxlrp.compile(bag).ledger(torch.tensor([[1, 2]]), target=0)
    assert any("first token" in text for text in ledger.warnings)


@models(["bert"])
def test_rolls_up_and_serialises(name: str) -> None:
    _, ledger = accounted(name, "attnlrp")
    modules = ledger.by_module(2)
    for column in ("absorbed", "leaked", "stabiliser"):
        assert sum(row[column] for row in modules.values()) == pytest.approx(getattr(ledger, column), abs=1e-12)
    data = json.loads(ledger.to_json())
    assert len(data["entries"]) == len(ledger.entries) == len(ledger.to_rows())
    assert data["gap"] == ledger.gap
    assert "bert.encoder" in str(ledger)
