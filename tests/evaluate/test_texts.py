"""Texts that shrink and grow, read by bags of words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxlrp.errors import SignatureError, TargetError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.rationales import remove_rationales
from fxlrp.evaluate.texts import prune_tokens, remove_tokens, removing

GENERATOR = torch.Generator().manual_seed(0)
TABLE = torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64)
TABLE[0] = 0.0
IDS = torch.randint(1, 30, (4, 10), generator=GENERATOR)
TARGET = torch.tensor([0, 2, 1, 1])
RELEVANCE = TABLE[IDS].gather(2, TARGET.view(-1, 1, 1).expand(-1, 10, 1))[..., 0]


def bag(ids: Tensor) -> Tensor:
    return TABLE[ids].sum(1)


def test_removed_tokens_leave_no_gap() -> None:
    ids = torch.tensor([[5, -1, 7, -1, 3], [-1, -1, -1, -1, -1], [1, 2, 3, 4, 5]])
    assert remove_tokens(ids, -1, 0).tolist() == [[5, 7, 3, 0, 0], [0] * 5, [1, 2, 3, 4, 5]]


def test_v22_removal_is_masking_where_order_and_padding_do_not_matter() -> None:
    """And is not where order matters."""
    masked = remove_rationales(bag, IDS, RELEVANCE, TARGET, constant(0), fractions=(0.2, 0.5))
    removed = remove_rationales(removing(bag, -1, 0), IDS, RELEVANCE, TARGET, constant(-1), fractions=(0.2, 0.5))
    torch.testing.assert_close(removed.comprehensiveness, masked.comprehensiveness, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(removed.sufficiency, masked.sufficiency, rtol=1e-12, atol=1e-12)
    place = torch.linspace(1, 2, 10, dtype=torch.float64)[:, None]

    def ordered(ids: Tensor) -> Tensor:
        return (TABLE[ids] * place).sum(1)

    masked = remove_rationales(ordered, IDS, RELEVANCE, TARGET, constant(0), read="logit")
    removed = remove_rationales(removing(ordered, -1, 0), IDS, RELEVANCE, TARGET, constant(-1), read="logit")
    assert (removed.comprehensiveness - masked.comprehensiveness).abs().max() > 0.01


def test_v22_pruning_and_growing_of_a_bag_of_words() -> None:
    """Nothing is lost at 0 and everything is there at 1; each token adds its row of the table."""
    found = prune_tokens(bag, IDS, RELEVANCE, TARGET, constant(0), batch=7)
    assert (found.error[:, 0] == 0).all()
    torch.testing.assert_close(found.error[:, -1], bag(IDS).square().sum(1))
    torch.testing.assert_close(found.grown[:, 1:], RELEVANCE.sort(1, descending=True).values.cumsum(1))
    order = RELEVANCE.abs().argsort(1)
    lost = TABLE[IDS.gather(1, order)].cumsum(1).square().sum(-1)
    torch.testing.assert_close(found.error[:, 1:], lost)
    torch.testing.assert_close(found.au_mse, torch.trapezoid(found.error, dx=0.1))
    assert found.to_rows()[1]["fraction"] == pytest.approx(0.1)


def test_v22_no_order_grows_faster_than_that_of_the_words() -> None:
    best = prune_tokens(bag, IDS, RELEVANCE, TARGET, constant(0)).auac
    worst = prune_tokens(bag, IDS, -RELEVANCE, TARGET, constant(0)).auac
    for seed in range(10):
        drawn = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(seed))
        other = prune_tokens(bag, IDS, drawn, TARGET, constant(0)).auac
        assert (other <= best + 1e-12).all()
        assert (other >= worst - 1e-12).all()


def test_what_does_not_fit_is_refused() -> None:
    for fractions in ((0.0,), (0.5, 0.1), (0.0, 1.5)):
        with pytest.raises(SignatureError, match="no ascending parts"):
            prune_tokens(bag, IDS, RELEVANCE, TARGET, constant(0), fractions=fractions)
    with pytest.raises(SignatureError, match="not finite"):
        prune_tokens(bag, IDS, RELEVANCE / 0, TARGET, constant(0))
    with pytest.raises(TargetError, match="not all among"):
        prune_tokens(bag, IDS, RELEVANCE, TARGET + 2, constant(0))
