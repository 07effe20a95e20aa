"""Regions of a page whose relevance is known."""

from __future__ import annotations

import pytest
import torch

from fxlrp.errors import SignatureError
from fxlrp.evaluate.regions import WAYS, judge_selection, score_regions

SCORES = torch.rand(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIZE = (60.0, 80.0)
"""Of a page with patches of ten pixels."""


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("way", ["mean", "max", "weighted"])
def test_v23_uniform_scores_are_those_of_every_region(way: str) -> None:
    found = score_regions(torch.full_like(SCORES, 0.3), boxes((3, 4, 41, 22), (0, 0, 60, 80), (7, 7, 8, 8)), SIZE, way)
    torch.testing.assert_close(found, torch.full_like(found, 0.3))


@pytest.mark.parametrize("way", WAYS)
def test_v23_a_region_on_one_patch_has_its_score(way: str) -> None:
    torch.testing.assert_close(score_regions(SCORES, boxes((20, 30, 30, 40)), SIZE, way), SCORES[3, 2].reshape(1))


@pytest.mark.parametrize("way", ["mean", "weighted"])
def test_v23_a_region_on_a_corner_has_the_mean_of_four(way: str) -> None:
    wanted = SCORES[2:4, 1:3].mean().reshape(1)
    torch.testing.assert_close(score_regions(SCORES, boxes((18, 28, 22, 32)), SIZE, way), wanted)


@pytest.mark.parametrize("way", WAYS)
def test_v23_scores_do_not_depend_on_the_size_of_pixels(way: str) -> None:
    given = boxes((3, 4, 41, 22), (18, 28, 22, 32), (50, 60, 58, 79))
    twice = score_regions(SCORES, 2 * given, (120.0, 160.0), way)
    torch.testing.assert_close(twice, score_regions(SCORES, given, SIZE, way))


def test_v23_shares_of_a_tiled_page_are_all_of_it() -> None:
    tiles = boxes((0, 0, 25, 33), (25, 0, 60, 33), (0, 33, 60, 80))
    torch.testing.assert_close(score_regions(SCORES, tiles, SIZE, "share").sum(), SCORES.sum())


def test_v23_what_is_planted_is_found_and_choosing_all_costs_precision() -> None:
    grid = [(x, y, x + 10, y + 14) for y in range(0, 80, 16) for x in range(0, 60, 15)]
    page, planted = boxes(*grid), 7
    scores = torch.zeros(80, 60, dtype=torch.float64)
    left, top, right, bottom = grid[planted]
    scores[top:bottom, left:right] = 1.0
    for way in WAYS:
        assert int(score_regions(scores, page, SIZE, way).argmax()) == planted
    one, every = judge_selection(page[[planted]], page[[planted]]), judge_selection(page, page[[planted]])
    assert one == {"iou": 1.0, "hit": 1.0, "precision": 1.0}
    assert (every["iou"], every["hit"]) == (1.0, 1.0)
    assert every["precision"] == pytest.approx(1 / 20)


def test_regions_off_the_page_have_nothing() -> None:
    for way in WAYS:
        assert score_regions(SCORES, boxes((70, 90, 80, 99)), SIZE, way).tolist() == [0.0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SignatureError, match="'sum' is none of"):
        score_regions(SCORES, boxes((0, 0, 1, 1)), SIZE, "sum")
    with pytest.raises(SignatureError, match="scores are"):
        score_regions(SCORES[0], boxes((0, 0, 1, 1)), SIZE)
