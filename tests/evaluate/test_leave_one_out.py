"""Parts that are left out of models whose answer is known."""

from __future__ import annotations

import pytest
import torch

import fxlrp
from fxlrp.errors import SignatureError
from fxlrp.evaluate.baselines import constant
from fxlrp.evaluate.leave_one_out import WAYS, compare_with_drops, drop_each, drop_each_in_layer
from fxlrp.evaluate.segments import divide_grid

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("way", WAYS)
def test_relevance_of_a_linear_model_is_what_it_loses(way: str) -> None:
    """With a baseline of 0; images, in patches of which some are smaller."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 5 * 7, 3)).double().eval()
    x = torch.randn(4, 2, 5, 7, generator=GENERATOR, dtype=torch.float64)
    target, segments = torch.tensor([0, 1, 2, 1]), divide_grid(5, 7, 2)
    drops = drop_each(model, x, target, segments, constant(), batch=7)
    relevance = fxlrp.compile(model, rules="gradient")(x, target=target.tolist()).relevance
    assert drops.shape == (4, 12)
    torch.testing.assert_close(drops[:, 0], relevance[:, :, :2, :2].sum((1, 2, 3)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(compare_with_drops(relevance, drops, segments, way), torch.ones(4).double())
    torch.testing.assert_close(compare_with_drops(-relevance, drops, segments, way), -torch.ones(4).double())


def test_tokens() -> None:
    table = torch.randn(20, 3, generator=GENERATOR, dtype=torch.float64)
    ids = torch.randint(1, 20, (3, 6), generator=GENERATOR)
    drops = drop_each(lambda i: table[i].sum(1), ids, torch.tensor([2, 0, 1]), torch.arange(6), constant(0))
    torch.testing.assert_close(drops[0], table[ids[0], 2] - table[0, 2])


class Tokens(torch.nn.Module):
    """A sum over places of what is linear in a layer that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = torch.nn.Embedding(20, 6), torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh())
        self.head = torch.nn.Linear(5, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(self.table(ids)).sum(1))
        return y


@pytest.mark.parametrize("way", WAYS)
def test_places_of_a_layer_that_are_summed(way: str) -> None:
    """Each loses its relevance less the mean over places: correlation does not see the difference."""
    model, target = Tokens().double().eval(), torch.tensor([2, 0, 1, 1])
    ids = torch.randint(20, (4, 7), generator=torch.Generator().manual_seed(1))
    attributor = fxlrp.compile(model, rules="gradient", read=("body",))
    relevance = attributor(ids, target=target.tolist()).read["body"].sum(-1)
    drops = drop_each_in_layer(model, "body", ids, target, batch=5)
    torch.testing.assert_close(drops, relevance - relevance.mean(1, keepdim=True), rtol=1e-10, atol=1e-12)
    agreement = compare_with_drops(relevance, drops, torch.arange(7), way)
    torch.testing.assert_close(agreement, torch.ones(4).double())
    assert not model.body._forward_hooks


def test_places_that_are_mixed_below_matter_there_only() -> None:
    """What a layer's place loses is found at that layer: its output is a pair here, of which the first is replaced."""

    class First(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x.cumsum(1), 0

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = First()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h: torch.Tensor = self.first(x)[0]
            return h[:, -1]

    x = torch.randn(2, 4, 3, generator=GENERATOR, dtype=torch.float64)
    drops = drop_each_in_layer(Last().eval(), "first", x, torch.tensor([0, 2]))
    assert (drops[:, :3] == 0).all()
    summed = x.cumsum(1)
    wanted = (summed[:, -1] - summed.mean(1)).gather(1, torch.tensor([[0], [2]]))
    torch.testing.assert_close(drops[:, 3:], wanted)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SignatureError, match="'tail' is no module"):
        drop_each_in_layer(Tokens(), "tail", torch.zeros(1, 4, dtype=torch.long), torch.tensor([0]))
    with pytest.raises(SignatureError, match=r"not \(samples, places, features\)"):
        drop_each_in_layer(Tokens().eval(), "head", torch.zeros(1, 4, dtype=torch.long), torch.tensor([0]))
    with pytest.raises(SignatureError, match="'kendall' is none of"):
        compare_with_drops(torch.zeros(1, 4), torch.zeros(1, 4), torch.arange(4), "kendall")
    with pytest.raises(SignatureError, match="drops of"):
        compare_with_drops(torch.zeros(1, 4), torch.zeros(1, 5), torch.arange(4))
