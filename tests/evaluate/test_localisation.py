"""Explanations whose place is known."""

from __future__ import annotations

import pytest
import torch

from fxlrp.errors import SignatureError
from fxlrp.evaluate.localisation import draw_boxes, measure_mass, measure_rank, play_pointing_game

BOXES = torch.tensor([[2.0, 1.0, 5.0, 4.0]])
MASK = draw_boxes(BOXES, 6, 8)
GENERATOR = torch.Generator().manual_seed(0)


def test_boxes_are_drawn() -> None:
    assert MASK.sum() == 9
    assert MASK[1:4, 2:5].all()
    both = draw_boxes(torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]]), 4, 4)
    assert both.sum() == 7
    assert not draw_boxes(torch.tensor([[0.6, 0.0, 1.4, 1.0]]), 1, 3).any()


def test_all_of_it_inside_and_outside() -> None:
    masks = MASK[None].expand(2, -1, -1)
    drawn = torch.rand(6, 8, generator=GENERATOR, dtype=torch.float64) + 0.1
    relevance = torch.stack([drawn * MASK, drawn * ~MASK])
    assert measure_mass(relevance, masks).tolist() == pytest.approx([1.0, 0.0])
    assert measure_rank(relevance, masks).tolist() == [1.0, 0.0]
    assert play_pointing_game(relevance, masks).tolist() == [True, False]
    assert measure_mass(-relevance, masks).tolist() == [0.0, 0.0]
    assert measure_mass(relevance[:, None].expand(-1, 3, -1, -1), masks).tolist() == pytest.approx([1.0, 0.0])


def test_uniform_relevance_has_the_mass_of_the_area() -> None:
    """Whatever its size, and whatever is added by the channels."""
    relevance = torch.full((1, 3, 6, 8), 0.7, dtype=torch.float64)
    assert float(measure_mass(relevance, MASK[None])) == pytest.approx(9 / 48)
    assert float(measure_rank(relevance, MASK[None])) == 0.0  # the first nine are the first row and one more
    assert float(measure_mass(5 * relevance, MASK[None])) == pytest.approx(9 / 48)


def test_random_relevance_finds_what_the_area_is() -> None:
    relevance = torch.rand(4000, 6, 8, generator=GENERATOR, dtype=torch.float64)
    masks = MASK.expand(4000, -1, -1)
    assert float(measure_rank(relevance, masks).mean()) == pytest.approx(9 / 48, abs=0.01)
    assert float(play_pointing_game(relevance, masks).double().mean()) == pytest.approx(9 / 48, abs=0.02)


def test_the_game_tolerates_what_is_near() -> None:
    relevance = torch.zeros(1, 6, 8)
    relevance[0, 4, 5] = 1.0  # diagonally off the corner of the box
    assert [bool(play_pointing_game(relevance, MASK[None], t)) for t in (0, 1, 2)] == [False, False, True]


def test_what_does_not_fit_is_refused() -> None:
    relevance = torch.ones(1, 6, 8)
    for measure in (measure_mass, measure_rank, play_pointing_game):
        with pytest.raises(SignatureError, match="masks are boolean"):
            measure(relevance, MASK[None].float())
        with pytest.raises(SignatureError, match="masks are boolean"):
            measure(relevance, MASK[None, :, :5])
        with pytest.raises(SignatureError, match=r"samples \[0\] are empty"):
            measure(relevance, torch.zeros_like(MASK)[None])
        with pytest.raises(SignatureError, match="not finite"):
            measure(relevance / 0, MASK[None])
    with pytest.raises(SignatureError, match="pixels are pointed at"):
        play_pointing_game(relevance[:, 0], MASK[None, 1])
