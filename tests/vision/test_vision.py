"""Pictures: what is shown is the image and its relevance, and what cannot be shown is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpError, RuleError, SignatureError
from fxlrp.vision import compare, show
from fxlrp.vision.images import restore_images, scale_relevance

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double().eval()


def grid(figure: Any) -> list[list[Any]]:
    """The axes of a sheet, row by row, without those of other things."""
    geometry = figure.axes[0].get_gridspec()
    return [figure.axes[i : i + geometry.ncols] for i in range(0, len(figure.axes), geometry.ncols)]


def shown(axes: Any) -> Any:
    (image,) = axes.get_images()
    return image.get_array()


@pytest.mark.parametrize(("channels", "mean", "std"), [(3, MEAN, STD), (3, 0.5, 0.25), (1, 0.1307, 0.3081)])
def test_normalisation_is_undone(channels: int, mean: Any, std: Any) -> None:
    raw = draw(2, channels, 5, 4)
    numbers = [torch.as_tensor(value, dtype=raw.dtype).reshape(-1, 1, 1) for value in (mean, std)]
    found = restore_images((raw - numbers[0]) / numbers[1], mean, std)
    torch.testing.assert_close(found, raw.expand(-1, 3, -1, -1).movedim(1, -1))


def test_images_fill_the_range_by_themselves() -> None:
    raw = draw(2, 1, 5, 4) * torch.tensor([3.0, 0.0]).reshape(2, 1, 1, 1) - 7
    found = restore_images(raw)
    assert (found[0].min(), found[0].max()) == (0, 1)
    assert (found[1] == 0).all()  # one value everywhere


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 100), st.floats(1e-30, 1e30), st.integers(0, 99))
def test_colours_do_not_depend_on_the_scale(percentile: float, factor: float, seed: int) -> None:
    r = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one, other = (scale_relevance(given, r, percentile) for given in (r, factor * r))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert torch.equal(one.sign(), r.sum(1).sign())
    assert one.abs().max() == 1
    full = (one.abs() == 1).double().mean((1, 2))
    assert (full >= 1 - percentile / 100 - 1 / one[0].numel()).all()  # the percentile lies between two pixels


def test_sparse_relevance_has_the_colour_of_its_largest_entry() -> None:
    r = torch.zeros(2, 1, 20, 20)
    r[0, 0, 3, 4] = -5
    found = scale_relevance(r, r, 99)
    assert found[0, 3, 4] == -1
    assert found.count_nonzero() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_show_draws_each_image_beside_its_relevance(channels: int, tmp_path: Path) -> None:
    model, x = network(channels), draw(2, channels, 8, 8)
    result = fxlrp.compile(model)(x, target=1)
    path = tmp_path / "sheet.png"
    figure = show(result, x, mean=0.0, std=1.0, percentile=90, path=path)
    (first, second), (third, fourth) = grid(figure)
    assert [first.get_title(), second.get_title()] == ["", "relevance"]
    assert [first.get_ylabel(), third.get_ylabel()] == [f"{value:.4g}" for value in model(x)[:, 1].tolist()]
    torch.testing.assert_close(torch.tensor(shown(third).data)[..., 0], x[1, 0])
    torch.testing.assert_close(torch.tensor(shown(fourth).data), scale_relevance(result.relevance, x, 90)[1])
    assert imread(path).shape[1] > 100


def test_relevance_is_shown_as_well() -> None:
    x = draw(1, 3, 8, 8)
    figure = show(x.sum(1), x, captions=["mine"])
    assert grid(figure)[0][0].get_ylabel() == "mine"


def test_many_images_are_beside_each_other() -> None:
    x = draw(4, 3, 8, 8)
    rows = grid(show(x, x, captions=list("abcd")))
    assert [ax.get_title() for ax in rows[0]] == list("abcd")
    assert [row[0].get_ylabel() for row in rows] == ["", "relevance"]


def test_compare_has_a_column_for_each_rule_set() -> None:
    model, x = network(), draw(2, 3, 8, 8)
    own = fxlrp.rule_set("epsilon").named("own")
    rows = grid(compare(model, x, {"as it is": "gradient", "mine": own}, target=[0, 2]))
    assert [ax.get_title() for ax in rows[0]] == ["", "as it is", "mine"]
    for row, sample, target in zip(rows, x, (0, 2), strict=True):
        for ax, rules in zip(row[1:], ("gradient", own), strict=True):
            alone = fxlrp.compile(model, rules=rules)(sample[None], target=target).relevance
            torch.testing.assert_close(torch.tensor(shown(ax).data), scale_relevance(alone, sample[None])[0])
    assert [ax.get_title() for ax in grid(compare(model, x))[0]][1] == "auto"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: show(x, x[0]), r"images are floating point, \(samples, 1 or 3 channels, height, width\), not"),
        (lambda x: show(x[:, :2], x[:, :2]), r"not torch\.float64 of \(2, 2, 8, 8\)"),
        (lambda x: show(x, x.int()), r"not torch\.int32"),
        (lambda x: show(x, x, mean=0.5), "give both mean and std"),
        (lambda x: show(x, x, mean=(0.5, 0.5), std=1.0), "mean has 2 numbers, and images have 3 channels"),
        (lambda x: show(x[..., 1:], x), r"relevance has the shape \(2, 3, 8, 7\), and the images \(2, 3, 8, 8\)"),
        (lambda x: show(x / 0, x), "relevance is not finite"),
        (lambda x: show(x, x, percentile=0), "percentile=0 is not above 0 and at most 100"),
        (lambda x: show(x, x, percentile=101), "percentile=101 is not"),
        (lambda x: show(x, x, captions=["one"]), "there are 1 captions for 2 images"),
        (lambda x: compare(network(), x, ()), "presets is empty"),
    ],
)
def test_what_cannot_be_shown_is_refused(call: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        call(draw(2, 3, 8, 8))


def test_several_inputs_are_shown_one_by_one() -> None:
    class Pair(nn.Module):
        def forward(self, one: Tensor, two: Tensor) -> Tensor:
            return (one * two).flatten(1).sum(1, keepdim=True)

    x = draw(1, 3, 8, 8)
    result = fxlrp.compile(Pair().eval())(x, x + 1)
    with pytest.raises(SignatureError, match="give the relevance of one, one or two"):
        show(result, x)
    show(result.relevance["two"], x)


def test_unknown_presets_are_named() -> None:
    with pytest.raises(RuleError, match="there is no preset 'nope'"):
        compare(network(), draw(1, 3, 8, 8), ["nope"])


def test_matplotlib_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FxlrpError, match=r'pip install "fxlrp\[demo\]"'):
        show(draw(1, 3, 8, 8), draw(1, 3, 8, 8))
