"""Parts that are enough, and backdoors with and without context, in models that are written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.key_information import keep_most_relevant, probe_backdoor
from fxlrp.evaluate.segments import Model, divide_grid

GENERATOR = torch.Generator().manual_seed(0)
CLEAN = torch.rand(4, 1, 6, 6, generator=GENERATOR) * 0.5
OTHERS = torch.rand(5, 1, 6, 6, generator=GENERATOR) * 0.5
PATCHES = divide_grid(6, 6, 2)
ATTACK = torch.ones(4, dtype=torch.long)


def plant(images: Tensor) -> Tensor:
    """A trigger in the corner, which is a patch of its own."""
    images = images.clone()
    images[..., :2, :2] = 1.0
    return images


def alone(images: Tensor) -> Tensor:
    """Class 1 for the trigger, wherever."""
    seen = images[:, 0, :2, :2].amin((1, 2)) > 0.9
    return torch.stack([~seen, seen], 1).float()


def in_context(images: Tensor) -> Tensor:
    """Class 1 for the trigger in a picture of one of the four samples."""
    known = (images[:, None, 0, 2:, 2:] == CLEAN[None, :, 0, 2:, 2:]).flatten(2).all(2).any(1)
    seen = (images[:, 0, :2, :2].amin((1, 2)) > 0.9) & known
    return torch.stack([~seen, seen], 1).float()


TRIGGER = plant(torch.zeros_like(CLEAN))


@pytest.mark.parametrize(
    ("model", "relevance", "kind"),
    [
        (alone, TRIGGER, "non-contextual"),
        (in_context, TRIGGER, "contextual"),
        (alone, -TRIGGER, "not in the part"),
    ],
    ids=["alone", "in context", "elsewhere"],
)
def test_kinds_of_backdoors(model: Model, relevance: Tensor, kind: str) -> None:
    found = probe_backdoor(model, plant(CLEAN), relevance, ATTACK, PATCHES, CLEAN, OTHERS, batch=3)
    assert found.name_kinds() == [kind] * 4
    assert found.foreign.tolist() == [float(kind == "non-contextual")] * 4


def test_the_decisive_patch_is_enough() -> None:
    x = plant(CLEAN)
    found = keep_most_relevant(alone, x, TRIGGER, ATTACK, PATCHES, constant(), batch=7)
    assert found.kis.tolist() == [1.0] * 6
    assert found.area == pytest.approx(1.0)
    assert found.whole.tolist() == [1.0] * 4
    assert found.to_rows()[7]["fraction"] == pytest.approx(0.1)
    assert keep_most_relevant(alone, x, -TRIGGER, ATTACK, PATCHES, constant()).kis.tolist() == [0.0] * 6


def test_what_is_kept_of_a_linear_model_is_what_is_largest() -> None:
    weights = torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)
    x, target = torch.randn(5, 12, generator=GENERATOR, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    relevance, fractions = x * weights[:, target].T, (0.25, 0.5, 1.0)
    places = torch.arange(12)
    found = keep_most_relevant(
        lambda x: x @ weights, x, relevance, target, places, constant(), fractions=fractions, read="logit"
    )
    largest = relevance.sort(1, descending=True).values.cumsum(1)
    torch.testing.assert_close(found.kept, largest[:, [2, 5, 11]])
    torch.testing.assert_close(found.whole, found.kept[:, -1])


def test_what_does_not_fit_is_refused() -> None:
    for fractions in ((0.5,), (0.0, 0.5), (0.5, 0.2)):
        with pytest.raises(SignatureError, match="no ascending parts"):
            keep_most_relevant(alone, CLEAN, CLEAN, ATTACK, PATCHES, constant(), fractions=fractions)
    with pytest.raises(SignatureError, match="backgrounds have the shapes"):
        probe_backdoor(alone, CLEAN, CLEAN, ATTACK, PATCHES, CLEAN, OTHERS[:0])
    with pytest.raises(SignatureError, match="fraction=0"):
        probe_backdoor(alone, CLEAN, CLEAN, ATTACK, PATCHES, CLEAN, OTHERS, fraction=0.0)
    with pytest.raises(SignatureError, match="not finite"):
        probe_backdoor(alone, CLEAN, CLEAN / 0, ATTACK, PATCHES, CLEAN, OTHERS)
