"""Figures show what they were given, and nothing is cut off."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text
from torch import nn

import fxlrp
from fxlrp.vision import compare, show
from fxlrp.vision.images import find_limit, restore_images, sum_channels
from fxlrp.vision.sheet import Picture, Sheet, draw_sheet

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(3, 3, 6, 8, generator=GENERATOR)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers).eval()


MODEL = make_model()


def grid(figure: Picture, columns: int) -> list[list[Any]]:
    """Rows of axes with pictures."""
    axes = [ax for ax in figure.axes if ax.images]
    return [axes[i : i + columns] for i in range(0, len(axes), columns)]


def check_map(ax: Any, values: np.ndarray, percentile: float = 99.5) -> None:
    limit = find_limit(values, percentile)
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    assert ax.images[0].get_clim() == pytest.approx((-limit, limit))
    assert ax.get_xlabel() == f"±{limit:.2g}"


def draw(figure: Picture) -> np.ndarray:
    """Pixels from top to bottom."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def check_legible(figure: Picture) -> None:
    """All texts lie inside the figure, and none on another one or on a picture."""
    draw(figure)
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [t.get_window_extent() for t in texts]
    whole = figure.bbox.padded(2)
    for text, box in zip(texts, boxes, strict=True):
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text
    pictures = [ax.get_window_extent() for ax in figure.axes if ax.images]
    for one, two in itertools.chain(itertools.combinations(boxes, 2), itertools.product(boxes, pictures)):
        width, height = min(one.x1, two.x1) - max(one.x0, two.x0), min(one.y1, two.y1) - max(one.y0, two.y0)
        assert width <= 1 or height <= 1


@pytest.mark.parametrize("under", [False, True])
def test_images_stand_beside_or_over_their_relevance(under: bool) -> None:
    x = (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    result = fxlrp.compile(MODEL)(x, target=[0, 1, 2])
    figure = show(result, x, mean=MEAN, std=STD, percentile=90, classes=["cat", "dog", "cup"], under=under)
    rows = grid(figure, 3 if under else 2)
    rows = [list(row) for row in zip(*rows, strict=True)] if under else rows
    assert result.explained is not None
    for n, (photograph, relevance) in enumerate(rows):
        np.testing.assert_allclose(photograph.images[0].get_array(), X[n].permute(1, 2, 0), atol=1e-6)
        assert photograph.get_title() == f"{['cat', 'dog', 'cup'][n]} {float(result.explained[n]):.3g}"
        check_map(relevance, result.relevance[n].double().sum(0).numpy(), 90)
    name = rows[0][1].get_ylabel() if under else rows[0][1].get_title()
    assert name == "relevance"
    assert "percentile 90" in figure.get_supxlabel()
    check_legible(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_relevance_alone_has_no_captions(channels: int) -> None:
    relevance = torch.randn(2, channels, 6, 8, generator=GENERATOR)
    figure = show(relevance, X[:2, :channels])
    for n, (photograph, drawn) in enumerate(grid(figure, 2)):
        np.testing.assert_allclose(photograph.images[0].get_array(), restore_images(X[n : n + 1, :channels])[0])
        assert photograph.get_title() == ""
        check_map(drawn, relevance[n].double().sum(0).numpy())


def test_relevance_of_a_layer_covers_the_image() -> None:
    result = fxlrp.compile(MODEL, read=("0",))(X)
    figure = show(result.read["0"], X)
    (photograph, drawn), *_ = grid(figure, 2)
    assert drawn.images[0].get_array().shape == (4, 6)
    assert drawn.images[0].get_extent() == photograph.images[0].get_extent() == [0, 8, 6, 0]


def test_several_targets_are_several_maps() -> None:
    result = fxlrp.compile(MODEL)(X[:2], targets=[0, 4])
    figure = show(result, X[:2])
    assert result.explained is not None
    for n, (photograph, *maps) in enumerate(grid(figure, 3)):
        scores = [f"class {c} {float(result.explained[k, n]):.3g}" for k, c in enumerate((0, 4))]
        assert photograph.get_title() == "\n".join(scores)
        for k, ax in enumerate(maps):
            check_map(ax, result.relevance[k, n].double().sum(0).numpy())
            assert ax.get_title() == (f"relevance {k + 1}" if n == 0 else "")
    check_legible(figure)


def test_conditions_are_maps_of_one_target() -> None:
    result = fxlrp.compile(MODEL)(X[:2], target=3, conditions=[{"0": 1}, {"0": [2, 3]}])
    figure = show(result, X[:2])
    for n, (photograph, *maps) in enumerate(grid(figure, 3)):
        assert photograph.get_title() == "class 3"
        for k, ax in enumerate(maps):
            check_map(ax, result.relevance[k, n].double().sum(0).numpy())


def test_doubts_are_written() -> None:
    model = make_model()
    model[-1].bias.data += 1e3
    result = fxlrp.compile(model)(X)
    figure = show(result, X)
    (warning,) = result.warnings
    assert f"Doubt: {warning}." in figure.get_supxlabel().replace("\n", " ")
    check_legible(figure)
    marked = compare(model, X, ("gradient",))
    assert grid(marked, 2)[0][1].get_title() == "gradient (!)"
    assert "(!)" in marked.get_supxlabel()


@pytest.mark.parametrize("under", [False, True])
def test_presets_stand_side_by_side(under: bool) -> None:
    rules = fxlrp.rule_set("epsilon").named("mine")
    figure = compare(MODEL, X, ("epsilon_plus", rules), target=2, classes={2: "cup"}, under=under)
    rows = grid(figure, 3)
    rows = [list(row) for row in zip(*rows, strict=True)] if under else rows
    for k, (name, chosen) in enumerate((("epsilon_plus", "epsilon_plus"), ("mine", rules)), 1):
        result = fxlrp.compile(MODEL, rules=chosen)(X, target=2)
        maps = sum_channels(result.relevance, 3)
        for n in range(3):
            check_map(rows[n][k], maps[n, 0])
        assert (rows[0][k].get_ylabel() if under else rows[0][k].get_title()).split(" (!)")[0] == name
    assert rows[0][0].get_title().startswith("cup ")
    check_legible(figure)


@pytest.mark.parametrize("presets", ["epsilon", ()])
def test_presets_are_a_list(presets: Any) -> None:
    with pytest.raises(fxlrp.SignatureError, match="presets is a list"):
        compare(MODEL, X, presets)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(fxlrp.SignatureError, match="images have shape"):
        compare(MODEL, X[0])
    with pytest.raises(fxlrp.SignatureError, match="relevance of 2 images"):
        show(X, X[:2])


def test_figures_are_written_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    figure = show(X, X, path=path)
    assert imread(path).shape[:2] == tuple(round(100 * size) for size in figure.get_size_inches()[::-1])
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 6, 30), (2, 30, 6), (10, 8, 8)], ids=str)
@pytest.mark.parametrize("under", [False, True])
def test_sheets_of_all_shapes_are_legible(shape: tuple[int, ...], under: bool) -> None:
    photographs = np.ones((*shape, 3))
    captions, note = ["two\nlines"] * shape[0], "A long sentence that speaks against the explanation. " * 4
    sheet = Sheet(photographs, np.ones((shape[0], 2, *shape[1:])), ["one", "two"], captions, [note], under=under)
    check_legible(draw_sheet(sheet, "A title"))


def test_what_is_not_finite_is_grey() -> None:
    relevance = torch.zeros(1, 1, 2, 2)
    relevance[..., 0, 0] = torch.nan
    figure = show(relevance, torch.ones(1, 1, 2, 2), mean=0.0, std=1.0)
    pixels = draw(figure)[::-1]
    ax = grid(figure, 2)[0][1]
    places = [ax.transData.transform(p).astype(int) for p in ((0.5, 0.5), (1.5, 1.5))]
    bad, zero = (pixels[y, x, :3].tolist() for x, y in places)
    assert len(set(bad)) == 1
    assert bad[0] < 140 < 200 < min(zero)
