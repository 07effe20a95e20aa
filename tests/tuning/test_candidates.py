"""What is tried on which model, and what the names of candidates say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import RuleError
from fxlrp.rules.published.residuals import residual_gamma
from fxlrp.rules.weighted import epsilon, flat, gamma, z_box, z_plus
from fxlrp.session.signature import plain_mode
from fxlrp.tuning.candidates import CHOICES, combine_rules, list_candidates, read_candidates

IMAGES = torch.linspace(-0.123, 1.456, 64).view(2, 2, 4, 4)
IDS = torch.arange(10).view(2, 5)
NAMES = {f.__name__: f for f in (combine_rules, epsilon, flat, gamma, z_box, z_plus, residual_gamma)}


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def make_tokens() -> nn.Module:
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.Sequential(nn.Embedding(10, 4), block, nn.Flatten(), nn.Linear(20, 3)).eval()


def make_images(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), *between, nn.Flatten(), nn.Linear(12, 3)).eval()


MODELS = {
    "convolutions": (make_images(), IMAGES, {"convolutions", "first"}),
    "residual": (
        make_images(Residual(nn.Conv2d(3, 3, 3, padding=1)), nn.Flatten(), nn.Linear(12, 12)),
        IMAGES,
        {"convolutions", "dense", "first", "residuals"},
    ),
    "tokens": (make_tokens(), IDS, {"dense", "attention", "residuals"}),
    "numbers": (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 4), {"dense"}),
    "linear": (nn.Linear(4, 3).eval(), torch.rand(2, 4), set()),
}


@pytest.mark.parametrize("name", MODELS)
def test_only_types_of_layers_that_a_model_has_are_varied(name: str) -> None:
    model, x, types = MODELS[name]
    attributor = fxlrp.compile(model, rules="gradient")
    with plain_mode():
        plan = attributor._programs.find_signature((x,), {})[0].plan
    found = list_candidates(plan, x)
    crossed = [rules.summary for rules in found.values() if rules.summary.startswith("combine_rules(")]
    assert {part for part in CHOICES if any(f"{part}=" in text for text in crossed)} == types
    for text in crossed:
        assert eval(text, NAMES) == found.get(eval(text, NAMES).name)  # a name is how to make it
    attributor.with_rules(list(found.values())[-1]).compile(x, target=0)
    assert ("first=z_box(-0.13, 1.46)" in "".join(crossed)) == ("first" in types)
    assert ("epsilon_alpha2_beta1" in found) == ("convolutions" in types)
    assert ("libragrad" in found) == ("attention" in types)


def test_combined_rules_serve_what_they_name() -> None:
    model, x, _ = MODELS["residual"]
    rules = combine_rules(convolutions=gamma(0.5), dense=epsilon(1e-3), first=flat(), residuals=residual_gamma(2.0))
    assert rules.name == "convolutions=gamma(0.5), dense=epsilon(0.001), first=flat(), residuals=residual_gamma(2)"
    attributor = fxlrp.compile(model, (x,), rules=rules)
    served = {(row.op, row.rule): row.count for row in attributor.coverage().rows}
    assert served["aten.conv2d.default", "flat"] == 1
    assert served["aten.conv2d.default", "gamma(0.5)"] == 1
    assert served["aten.linear.default", "epsilon(0.001)"] == 1
    assert served["aten.linear.default", "affine"] == 1
    assert served["aten.add.Tensor", "residual_gamma(2)"] == 1


def test_attention_as_constants_is_cp_lrp_there() -> None:
    model = make_tokens()
    found, wanted = (
        fxlrp.compile(model, rules=rules)(IDS, target=1).relevance
        for rules in (combine_rules(attention="cp_lrp"), "cp_lrp")
    )
    assert torch.equal(found, wanted)
    with pytest.raises(RuleError, match=r"attention='attnlrp' is no treatment .*'cp_lrp'"):
        combine_rules(attention="attnlrp")


def test_a_box_of_one_number_is_none() -> None:
    model, x, _ = MODELS["convolutions"]
    attributor = fxlrp.compile(model)
    with plain_mode():
        plan = attributor._programs.find_signature((x,), {})[0].plan
    assert not any("z_box" in name for name in list_candidates(plan, torch.zeros_like(x)))


def test_candidates_are_given_by_name_or_as_a_list() -> None:
    mine = fxlrp.rule_set("attnlrp").named("mine")
    assert read_candidates({"one": "epsilon", "two": mine}) == {"one": fxlrp.rule_set("epsilon"), "two": mine}
    assert read_candidates(["epsilon", mine]) == {"epsilon": fxlrp.rule_set("epsilon"), "mine": mine}
    table = {torch.ops.aten.linear.default: gamma(0.1)}
    assert read_candidates({"three": table}) == {"three": fxlrp.rule_set(table)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "there are no candidates"),
        ({}, "there are no candidates"),
        ("epsilon", "candidates='epsilon' are no candidates"),
        (3, "candidates=3 are no candidates"),
        (["lrp"], "there is no preset 'lrp'"),
        ([gamma(0.25)], "rules are the name of a preset"),
        (["epsilon", "epsilon"], "several candidates are named epsilon"),
    ],
)
def test_what_is_no_candidate_is_refused(given: object, says: str) -> None:
    with pytest.raises(RuleError, match=says):
        read_candidates(given)  # type: ignore[arg-type]
