"""Parts that are left out of models whose answer is known."""

from __future__ import annotations

import pytest
import torch

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.leave_one_out import WAYS, compare_with_drops, drop_each
from fxlrp.evaluate.segments import divide_grid

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("way", WAYS)
def test_relevance_of_a_linear_model_is_what_it_loses(way: str) -> None:
    """With a baseline of 0; images, in patches of which some are smaller."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 5 * 7, 3)).double()
    x = torch.randn(4, 2, 5, 7, generator=GENERATOR, dtype=torch.float64)
    target, segments = torch.tensor([0, 1, 2, 1]), divide_grid(5, 7, 2)
    drops = drop_each(model, x, target, segments, constant(), batch=7)
    relevance = fxlrp.compile(model.eval(), rules="gradient")(x, target=target.tolist()).relevance
    assert drops.shape == (4, 12)
    torch.testing.assert_close(drops[:, 0], relevance[:, :, :2, :2].sum((1, 2, 3)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(compare_with_drops(relevance, drops, segments, way), torch.ones(4).double())
    torch.testing.assert_close(compare_with_drops(-relevance, drops, segments, way), -torch.ones(4).double())


def test_tokens() -> None:
    table = torch.randn(20, 3, generator=GENERATOR, dtype=torch.float64)
    ids = torch.randint(1, 20, (3, 6), generator=GENERATOR)
    drops = drop_each(lambda i: table[i].sum(1), ids, torch.tensor([2, 0, 1]), torch.arange(6), constant(0))
    torch.testing.assert_close(drops[0], table[ids[0], 2] - table[0, 2])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SignatureError, match="'kendall' is none of"):
        compare_with_drops(torch.zeros(1, 4), torch.zeros(1, 4), torch.arange(4), "kendall")
    with pytest.raises(SignatureError, match="drops of"):
        compare_with_drops(torch.zeros(1, 4), torch.zeros(1, 5), torch.arange(4))
