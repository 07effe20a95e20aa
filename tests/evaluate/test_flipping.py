"""Curves of models whose answer is known in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fxlrp.errors import SignatureError, TargetError
from fxlrp.evaluate.baselines import blur, constant, fixed, mean, noise
from fxlrp.evaluate.flipping import Curves, flip, flip_patches
from fxlrp.evaluate.rationales import count_overlap, remove_rationales
from fxlrp.evaluate.segments import READS, divide_grid, sum_segments

SAMPLES, LENGTH = 5, 12
GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = torch.randn(LENGTH, 3, generator=GENERATOR, dtype=torch.float64)
X = torch.randn(SAMPLES, LENGTH, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 1, 0])
RELEVANCE = X * WEIGHTS[:, TARGET].T
PLACES = torch.arange(LENGTH)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS


def curves(relevance: Tensor, read: str = "logit") -> Curves:
    return flip(linear, X, relevance, TARGET, PLACES, constant(), read=read, batch=7)


def test_v22_a_linear_model_loses_what_was_most_relevant() -> None:
    """Each step takes the largest part that is left; no other order has a larger area."""
    found = curves(RELEVANCE)
    parts = RELEVANCE.sort(1, descending=True).values.cumsum(1)
    torch.testing.assert_close(found.most[:, 1:], found.most[:, :1] - parts, rtol=1e-12, atol=1e-12)
    for seed in range(20):
        other = curves(torch.rand(X.shape, generator=torch.Generator().manual_seed(seed)))
        assert (other.most[:, 1:-1] >= found.most[:, 1:-1] - 1e-12).all()
        assert (other.abpc <= found.abpc + 1e-12).all()


@pytest.mark.parametrize("read", READS)
def test_v22_the_area_is_comprehensiveness_less_sufficiency(read: str) -> None:
    found = curves(RELEVANCE, read)
    torch.testing.assert_close(found.abpc, found.comprehensiveness - found.sufficiency, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(curves(-RELEVANCE, read).abpc, -found.abpc, rtol=1e-12, atol=1e-12)
    assert found.abpc.mean() > 0


def test_v22_scales_of_the_area() -> None:
    """DynamicLRP's figures are trapezoids over counted segments, divided by the number of steps."""
    found = flip(linear, X, RELEVANCE, TARGET, PLACES, constant(), per_step=3, read="accuracy")
    torch.testing.assert_close(found.srg, found.abpc * 5 / 4)
    at = 3 * torch.arange(5).double()
    most, least = found.most.mean(0), found.least.mean(0)
    theirs, whole = found.scale_as_dynamiclrp(3), most[:1].expand(5)
    assert theirs["abpc"] == pytest.approx(float(torch.trapezoid(least - most, at)) / 4)
    assert theirs["comprehensiveness"] == pytest.approx(float(torch.trapezoid(whole - most, at)) / 4)
    assert theirs["abpc"] == pytest.approx(theirs["comprehensiveness"] - theirs["sufficiency"])
    assert theirs["abpc"] == pytest.approx(3 * float(found.srg.mean()))


def test_v22_random_orders_have_no_area() -> None:
    drawn = [torch.rand(X.shape, generator=torch.Generator().manual_seed(i)) for i in range(200)]
    areas = torch.stack([curves(r).abpc.mean() for r in drawn])
    assert abs(areas.mean()) < 3 * areas.std() / 200**0.5


def test_v22_constant_relevance_goes_in_order() -> None:
    """So both curves are the same."""
    found = curves(torch.ones_like(X))
    assert torch.equal(found.most, found.least)
    assert (found.abpc == 0).all()


def test_v22_rationales_of_nothing_and_of_all() -> None:
    """A rationale of nothing leaves all, one of all leaves nothing else to be seen (DeYoung et al. 2020)."""
    ids = torch.randint(1, 50, (4, 20), generator=torch.Generator().manual_seed(1))
    table = torch.randn(50, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table[0] = 0.0

    def bag(ids: Tensor) -> Tensor:
        return table[ids].sum(1)

    target = bag(ids).argmax(1)
    relevance = table[ids].gather(2, target.view(-1, 1, 1).expand(-1, 20, 1))[..., 0]
    found = remove_rationales(bag, ids, relevance, target, constant(0), fractions=(0.0, 0.2, 0.5, 1.0), read="logit")
    assert (found.comprehensiveness[:, 0] == 0).all()
    assert (found.sufficiency[:, -1].abs() < 1e-12).all()
    largest = relevance.sort(1, descending=True).values.cumsum(1)
    torch.testing.assert_close(found.comprehensiveness[:, 1:], largest[:, [3, 9, 19]], rtol=1e-12, atol=1e-12)
    worst = remove_rationales(bag, ids, -relevance, target, constant(0), read="logit").aopc
    best = remove_rationales(bag, ids, relevance, target, constant(0), read="logit").aopc
    other = remove_rationales(bag, ids, torch.rand(4, 20), target, constant(0), read="logit").aopc
    assert worst[0] < other[0] < best[0]
    assert best[1] < other[1] < worst[1]


@pytest.mark.parametrize(
    ("two", "start", "end", "expected"),
    [
        ((3, 6), 3, 6, (2, 2, 2, 2)),
        ((3, 9), 3, 6, (1, 3, 1, 3)),
        ((6, 4), 3, 6, (1, 3, 2, 2)),
        ((0, 9), 3, 6, (0, 4, 0, 4)),
        ((3, 9), 3, 3, (2, 2, 2, 2)),
        ((9, 3), 3, 3, (2, 3, 2, 3)),
    ],
    ids=["both ends", "one and outside", "one and inside", "outside", "one token first", "one token second"],
)
def test_v22_answers_are_counted(
    two: tuple[int, int], start: int, end: int, expected: tuple[int, int, int, int]
) -> None:
    relevance = torch.zeros(10)
    relevance[list(two)] = torch.tensor([2.0, 1.0])
    found = count_overlap(relevance, start, end)
    assert (found.hits, found.union, found.span_hits, found.span_union) == expected
    assert (found + found).iou == found.iou
    assert found.accuracy == (expected[0] / 2, float(start <= two[0] <= end))


def test_v22_accuracies_are_of_all_texts() -> None:
    """One of two ends in the first text, which is led by a token outside; both in the second."""
    one, two = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 3.0, 2.0, 0.0])
    found = count_overlap(one, 1, 2) + count_overlap(two, 1, 2)
    assert found.accuracy == (3 / 4, 1 / 2)
    assert found.iou == (3 / 5, 3 / 5)
    assert count_overlap(torch.ones(40), 0, 1).hits == 2  # of equal tokens the first two


def test_patches_are_replaced_together() -> None:
    """Two patches of which one is all of the sum, on images whose border has smaller ones."""
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    relevance = torch.zeros(2, 3, 5, 7, dtype=torch.float64)
    relevance[:, 1, 4, 6] = 1.0  # in the patch of one row and one column at the corner
    target = torch.zeros(2, dtype=torch.long)

    def total(images: Tensor) -> Tensor:
        return images.flatten(1).sum(1, keepdim=True)

    found = flip_patches(total, x, relevance, target, patch=2, baseline=constant())
    assert found.most.shape == (2, 13)
    torch.testing.assert_close(found.most[:, 0] - found.most[:, 1], x[:, :, 4, 6].sum(1))
    torch.testing.assert_close(found.least[:, -2], x[:, :, 4, 6].sum(1))
    torch.testing.assert_close(found.most[:, -1], torch.zeros(2, dtype=torch.float64))
    assert found.to_rows()[1]["fraction"] == pytest.approx(1 / 12)


def test_passes_have_one_size() -> None:
    sizes = set()

    def watched(x: Tensor) -> Tensor:
        sizes.add(tuple(x.shape))
        return linear(x)

    flip(watched, X, RELEVANCE, TARGET, PLACES, constant(), batch=8)
    assert sizes == {(8, LENGTH)}


def test_baselines() -> None:
    x = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    even = torch.full((1, 1, 9, 11), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blur(4.0)(even), even)
    assert blur(2.0)(x).std() < 0.5 * x.std()
    torch.testing.assert_close(blur(2.0)(x.mT).mT, blur(2.0)(x))
    torch.testing.assert_close(mean()(x)[:, :, 0, 0], x.mean((2, 3)))
    assert torch.equal(noise(seed=3)(x), noise(seed=3)(x))
    colours = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    assert torch.equal(fixed(colours)(x), colours.double().expand_as(x))
    with pytest.raises(SignatureError, match="does not broadcast to a sample"):
        fixed(torch.zeros(4))(x)
    assert (constant(7)(torch.zeros(2, dtype=torch.long)) == 7).all()


def test_plot(tmp_path: Path) -> None:
    assert curves(RELEVANCE).plot(tmp_path / "curves.png").stat().st_size > 5000


def test_what_does_not_fit_is_refused() -> None:
    for bad, message in (
        (RELEVANCE[:, :5], "one number per place"),
        (RELEVANCE / 0, "not finite"),
    ):
        with pytest.raises(SignatureError, match=message):
            curves(bad)
    with pytest.raises(SignatureError, match="'margin' is none of"):
        curves(RELEVANCE, "margin")
    with pytest.raises(TargetError, match="not all among the 3"):
        flip(linear, X, RELEVANCE, TARGET + 1, PLACES, constant())
    with pytest.raises(SignatureError, match="per_step=0"):
        flip(linear, X, RELEVANCE, TARGET, PLACES, constant(), per_step=0)
    with pytest.raises(SignatureError, match="four dimensions"):
        flip_patches(linear, X, RELEVANCE, TARGET)
    with pytest.raises(SignatureError, match="only images are blurred"):
        blur()(X)
    with pytest.raises(SignatureError, match="sigma=0"):
        blur(0)
    with pytest.raises(SignatureError, match="patch=0"):
        divide_grid(4, 4, 0)
    with pytest.raises(SignatureError, match="none of a text"):
        count_overlap(torch.zeros(4), 2, 5)
    with pytest.raises(SignatureError, match="not finite"):
        count_overlap(torch.tensor([0.0, float("nan"), 1.0]), 1, 1)
    with pytest.raises(SignatureError, match="no parts of a text"):
        remove_rationales(linear, X, RELEVANCE, TARGET, constant(), fractions=(2.0,))
    assert sum_segments(torch.ones(1, 2, 4), torch.tensor([0, 0, 1, 1])).tolist() == [[4.0, 4.0]]


def test_a_model_in_training_mode_is_refused_and_stays_as_it_is() -> None:
    norm = nn.BatchNorm1d(LENGTH).double()
    model = nn.Sequential(norm, nn.Linear(LENGTH, 3).double())
    with pytest.raises(SignatureError, match="training mode"):
        flip(model, X, RELEVANCE, TARGET, PLACES, constant())
    assert norm.num_batches_tracked == 0
    flip(model.eval(), X, RELEVANCE, TARGET, PLACES, constant())


def test_a_model_that_says_nan_is_refused() -> None:
    with pytest.raises(SignatureError, match="NaN of some inputs"):
        flip(lambda x: linear(x) / (x.sum(1, keepdim=True) != 0) * 0, X, RELEVANCE, TARGET, PLACES, constant())
