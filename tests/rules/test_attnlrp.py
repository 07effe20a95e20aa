"""Rules of transformers and state spaces on whole models: against stop-gradients in the model and one backward pass."""

from __future__ import annotations

import pytest
import torch
from reference import input_times_gradient, modified_gradient
from tiers import leave_to_slow
from zoo import ZOO, targets

import fxlrp
from fxlrp.capture.explained_output import pick_output

ATTNLRP = ("vit_b_16", "bert", "gpt2", "llama", "gemma3", "qwen3", "roberta", "whisper", "flan_t5", "pix2struct")
RELP = ("gpt2", "llama", "gemma3", "bert", "qwen3")
LIBRAGRAD = ("vit_b_16", "llama")
CP_LRP = ("bert", "gpt2", "llama", "qwen3", "vit_b_16")


@pytest.mark.parametrize(
    ("name", "rules"),
    leave_to_slow(
        [
            *((name, "attnlrp") for name in ATTNLRP),
            *((name, "cp_lrp") for name in CP_LRP),
            *((name, rules) for name in RELP for rules in ("relp", "relp_ah")),
            ("mamba", "mamba_lrp"),
            *((name, "libragrad") for name in LIBRAGRAD),
        ],
        but={"bert"},
    ),
)
def test_v06_relevance_is_input_times_modified_gradient(name: str, rules: str) -> None:
    model, args, kwargs = ZOO[name]()
    with torch.no_grad():
        target = targets(pick_output(model(*args, **kwargs), None).shape)
    with modified_gradient(model, rules):
        expected, _ = input_times_gradient(model, args, kwargs, target)
    attributor = fxlrp.compile(model, rules=rules)
    relevance = attributor(*args, target=target, **kwargs).relevance
    found = relevance if isinstance(relevance, dict) else {attributor.program.relevances[0]: relevance}
    for key, value in found.items():
        assert (value - expected[key]).abs().max() <= 1e-8 * expected[key].abs().max(), key
