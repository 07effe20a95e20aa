"""Conditional relevance: many conditions in one call equal calls with masks, through every view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn

import fxlrp

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WORDS = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3))
    return nn.Sequential(*layers, nn.GELU(), nn.Flatten(), nn.Linear(24, 5)).double().eval()


def transformer() -> nn.Module:
    torch.manual_seed(2)
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().eval()


def mask(count: int, *indices: int) -> Tensor:
    return torch.zeros(count, 1, 1).index_fill(0, torch.tensor(indices), 1.0)


def same(found: Tensor, wanted: Sequence[Tensor]) -> None:
    expected = torch.stack(list(wanted))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


CONDITIONS: list[Mapping[str, Any]] = [{"2": 1}, {"2": [0, 3], "5": [2]}, {"5": (4,)}, {"2": mask(4, 2)}]
MASKS = [{"2": mask(4, 1)}, {"2": mask(4, 0, 3), "5": mask(6, 2)}, {"5": mask(6, 4)}, {"2": mask(4, 2)}]


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("rules", ["attnlrp", "epsilon_gamma_box"])
def test_equal_to_calls_with_masks(rules: str, chunk: int) -> None:
    attributor = fxlrp.compile(cnn(), rules=rules, read=("0", "5"))
    found = attributor(X, target=3, conditions=CONDITIONS, chunk=chunk)
    singles = [attributor(X, target=3, keep=masks) for masks in MASKS]
    same(found.relevance, [one.relevance for one in singles])
    for name, read in found.read.items():
        same(read, [one.read[name] for one in singles])
    torch.testing.assert_close(found.output, singles[0].output, rtol=1e-12, atol=1e-12)


def test_a_target_for_each() -> None:
    attributor = fxlrp.compile(cnn())
    found = attributor(X, targets=[0, 1, 2, 1], conditions=CONDITIONS).relevance
    same(found, [attributor(X, target=t, keep=m).relevance for t, m in zip((0, 1, 2, 1), MASKS, strict=True)])


def test_relevance_that_starts_inside_and_a_mask_of_all() -> None:
    """Beside a condition each."""
    attributor, start, below = fxlrp.compile(cnn()), {"5": torch.ones(6, 1, 1)}, {"0": mask(4, 1, 2)}
    found = attributor(X, inject=start, keep=below, conditions=[{"2": 1}, {"2": 2}]).relevance
    same(found, [attributor(X, inject=start, keep=below | {"2": mask(4, i)}).relevance for i in (1, 2)])


def test_conditions_sum_to_the_whole() -> None:
    """Relevance is linear in the coefficient, and every channel is in one condition."""
    attributor = fxlrp.compile(cnn())
    parts = attributor(X, target=0, conditions=[{"2": i} for i in range(4)]).relevance
    torch.testing.assert_close(parts.sum(0), attributor(X, target=0).relevance, rtol=1e-10, atol=1e-12)


HEADS = torch.tensor([1.0, 0.0], dtype=torch.float64)
VIEWS: dict[str, tuple[Callable[[], nn.Module], Tensor, Any, str, Any, str, Tensor]] = {
    "channels": (cnn, X, 1, "2:channels=1,3", 1.0, "2", mask(4, 1, 3)),
    "mask of channels": (cnn, X, 1, "2:channels=1,3", torch.tensor([2.0, 3.0]).view(2, 1, 1), "2",
                         torch.tensor([0.0, 2.0, 0.0, 3.0]).view(4, 1, 1)),
    "input": (cnn, X, 1, "4:input", 0.5, "3", torch.tensor(0.5)),
    "channels of an input": (cnn, X, 1, "4:input:channels=2", 1.0, "3", mask(4, 2)),
    "neurons": (transformer, WORDS, (1, 2), "linear1:neurons=3,5", 1.0, "linear1",
                torch.zeros(16).index_fill(0, torch.tensor([3, 5]), 1.0)),
    "heads": (transformer, WORDS, (1, 2), "norm1:heads=2", HEADS, "norm1", HEADS.repeat_interleave(4)),
}  # fmt: skip


@pytest.mark.parametrize("option", ["keep", "inject"])
@pytest.mark.parametrize("kind", leave_to_slow(VIEWS, but={"mask of channels", "channels of an input", "heads"}))
def test_views(kind: str, option: str) -> None:
    """A mask or a start by a view is one of the whole value."""
    make, x, target, name, given, whole, spread = VIEWS[kind]
    attributor = fxlrp.compile(make())
    more = {"target": target} if option == "keep" else {}
    found = attributor(x, **{option: {name: given}}, **more).relevance
    torch.testing.assert_close(found, attributor(x, **{option: {whole: spread}}, **more).relevance)
    assert found.abs().sum() > 0


def test_heads_of_an_attention() -> None:
    """In front of its output projection; the heads sum to the whole."""
    model = transformer()
    torch.nn.init.normal_(model.self_attn.in_proj_bias)
    attributor = fxlrp.compile(model, read=("self_attn:heads=2",))
    whole = attributor(WORDS, target=(1, 2))
    parts = [attributor(WORDS, target=(1, 2), keep={"self_attn:heads=2": m}) for m in (HEADS, 1 - HEADS)]
    without = attributor(WORDS, target=(1, 2), keep={"self_attn:heads=2": 0 * HEADS}).relevance
    torch.testing.assert_close(parts[0].relevance + parts[1].relevance - without, whole.relevance)
    torch.testing.assert_close(parts[0].read["self_attn:heads=2"], whole.read["self_attn:heads=2"])


@pytest.mark.parametrize(
    ("make", "x", "options", "message"),
    [
        (cnn, X, {"conditions": []}, "conditions= is a list of dictionaries"),
        (cnn, X, {"conditions": {"2": 1}}, "conditions= is a list of dictionaries"),
        (cnn, X, {"conditions": [{"2": 4}]}, r"conditions\[0\]='2:channels=4': give indices in dimension 1"),
        (cnn, X, {"conditions": [{"nowhere": 1}]}, "conditions='nowhere' is no module output"),
        (cnn, X, {"conditions": [{"2": 1, "2:channels": 2}]}, "two names are of one node"),
        (cnn, X, {"conditions": [{"2": 1}], "keep": {"2": 1.0}}, "keep= and conditions= are both of"),
        (cnn, X, {"conditions": [{"2": torch.ones(3, 1, 1)}]}, "does not expand to the node's"),
        (cnn, X, {"keep": {"2:channels=1": torch.ones(3, 1, 1)}}, "does not expand to the node's"),
        (cnn, X, {"keep": {"2:coefficient": 1.0}}, "leave :coefficient out"),
        (cnn, X, {"keep": {"2:colours=1": 1.0}}, "there is no view 'colours'"),
        (transformer, WORDS, {"conditions": [{"norm1": 1}]}, "say what the indices of 'norm1' are of"),
        (transformer, WORDS, {"conditions": [{"norm1:heads=2": 1}]}, "say what the indices of 'norm1:heads=2' are of"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(fxlrp.SignatureError, match=message):
        fxlrp.compile(make())(x, target=0 if x is X else (0, 0), **options)


def test_as_many_targets_as_conditions() -> None:
    with pytest.raises(fxlrp.TargetError, match="there are 3 targets and 2 conditions"):
        fxlrp.compile(cnn())(X, targets=[0, 1, 2], conditions=[{"2": 1}, {"2": 2}])
