"""Manifests: every field is what it should be, or an error names it; nothing else is raised at load or at a call."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_manifest import ODD, mutate, sealed
from torch import Tensor, nn

import fxlrp
from fxlrp import ArtifactError, FxlrpError
from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.fields import MAX_CHARACTERS
from fxlrp.artifacts.description.fitting import name_results
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER
from fxlrp.artifacts.description.manifest_json import read_manifest, write_manifest
from fxlrp.artifacts.pt2.archive import find_full_name


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    attributor = fxlrp.compile(model, rules="epsilon", dynamic_shapes="auto", read=("0",))
    return attributor.save(tmp_path_factory.mktemp("manifests") / "model.pt2", torch.rand(2, 4))


@pytest.fixture(scope="module")
def manifest(saved: Path) -> dict[str, Any]:
    return described(saved)


def described(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read(find_full_name(archive, MANIFEST_MEMBER)))
    return found


def forged(path: Path, content: dict[str, Any], into: Path) -> Path:
    """The archive with another manifest."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, sealed(content) if name.endswith(MANIFEST_MEMBER) else old.read(name))
    return into


def test_what_is_written_is_read(manifest: dict[str, Any]) -> None:
    about = read_manifest(sealed(manifest))
    assert json.loads(write_manifest(about)) == manifest
    assert read_manifest(write_manifest(about)) == about


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(model=3), "manifest's model is 3, and should be a text"),
        (lambda m: m.update(model="\x1b[2J"), "model is .* can be printed"),
        (lambda m: m.update(rules="x" * 1001), "rules is .* at most 1000 characters"),
        (lambda m: m.update(parameters=True), "parameters is True"),
        (lambda m: m.update(parameters=-1), "parameters is -1"),
        (lambda m: m.update(format="zip"), "format is 'zip'.* one of pt2, aoti, onnx"),
        (lambda m: m.update(fingerprint="0"), "fingerprint"),
        (lambda m: m.update(device="meta"), "device is 'meta'"),
        (lambda m: m.update(device="cuda:99"), "device is 'cuda:99'.* a device of this machine"),
        (lambda m: m["coverage"].update(live=10**6), "coverage"),
        (lambda m: m["coverage"].pop("live"), "there is no live in coverage"),
        (lambda m: m.update(extra=1), "unknown field, 'extra'"),
        (lambda m: m.pop("table"), "there is no table"),
        (lambda m: m["inputs"][0].update(dtype="nn"), r"inputs\[0\]\.dtype is 'nn'"),
        (lambda m: m["inputs"][0].update(dtype="qint8"), "dtype is 'qint8'"),
        (lambda m: m["inputs"][0].update(shape="ab"), r"inputs\[0\]\.shape is 'ab'"),
        (lambda m: m["inputs"][0].update(shape=[-1]), r"shape\[0\] is -1"),
        (lambda m: m["inputs"][0].update(shape=["f()", 4]), r"shape\[0\]: a condition on sizes has Call"),
        (lambda m: m["inputs"][0].update(name="a b"), r"inputs\[0\]\.name"),
        (lambda m: m["inputs"].append(m["inputs"][0]), "two inputs"),
        (lambda m: m["inputs"].reverse(), "its target is 'index', and its inputs are target, input_1"),
        (lambda m: m.update(inputs=[]), "its inputs are none"),
        (lambda m: m.update(target="none"), "its target is 'none'"),
        (lambda m: m.update(target="seed"), "its target is 'seed', and that input is target"),
        (lambda m: m["outputs"].append(m["outputs"][0]), "two outputs"),
        (lambda m: m["outputs"][0].update(name="other"), r"outputs\[0\]\.name"),
        (lambda m: m["explained"].update(name="output.x"), "explains 'output.x', which it does not return"),
        (lambda m: m["explained"].update(shape=["batch", 4]), r"it explains output: \(batch, 4\)"),
        (lambda m: m["explained"].update(name="objective", shape=[]), "no dimension for samples"),
        (lambda m: m["sizes"]["batch"].update(max=0), "batch is 1 to 0"),
        (lambda m: m["sizes"].update(length={"min": 1, "max": None}), "length is a size of no input"),
        (lambda m: m.update(conditions=["a == 1"]), "a, which is no size"),
        (lambda m: m.update(conditions=["batch == 1 # \x1b"]), "can be printed"),
        (lambda m: m["parts"].update(x="0"), r"parts\['x'\]"),
        (lambda m: m.update(signed="00"), "signed"),
    ],
)
def test_a_wrong_field_is_named(manifest: dict[str, Any], change: Callable[[dict[str, Any]], Any], text: str) -> None:
    changed = json.loads(json.dumps(manifest))
    change(changed)
    with pytest.raises(ArtifactError, match=text):
        read_manifest(sealed(changed))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "no object"),
        ("[" * 100_000, "damaged"),
        ('{"a":' * 990 + "0" + "}" * 990, "damaged|version"),
        ('{"version": 1, "version": 2}', "comes twice"),
        ('{"version": NaN}', "no whole number"),
        ('{"version": 1e3}', "no whole number"),
        ('{"version": ' + "9" * 10_000 + "}", "10000 digits"),
        (b"\xff\xfe{}", "damaged"),
        (" " * (MAX_CHARACTERS + 1), "characters"),
        ("{}", "has version None"),
    ],
)
def test_what_is_no_plain_json_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        read_manifest(text)


@pytest.mark.parametrize("change", ["fields", "mutations"])
def test_forged_manifests(saved: Path, manifest: dict[str, Any], change: str, tmp_path: Path) -> None:
    """A digest that fits makes nothing right: an error at load, or a call that works or fails as documented."""
    chance, x = random.Random(0), torch.rand(2, 4)
    fields = [{**manifest, field: value} for field in sorted(manifest.keys() - {"digest"}) for value in ODD]
    contents = fields if change == "fields" else [mutate(manifest, chance) for _ in range(1000)]
    right = fxlrp.load(saved)
    refused = 0
    for content in contents:
        try:
            about = read_manifest(sealed(content))
        except ArtifactError:
            refused += 1
            continue
        called(fxlrp.Artifact(about, right._run), x)
        if chance.random() < 0.02:
            with suppress(ArtifactError):
                called(fxlrp.load(forged(saved, content, tmp_path / saved.name)), x)
    assert refused > len(contents) / 2


def called(artifact: fxlrp.Artifact, x: Tensor) -> None:
    """Call for every kind of target: a result of the right shape, or an error of fxlrp."""
    for target in (2, None, torch.rand(2, 3)):
        with suppress(FxlrpError):
            output = artifact(x, target=target).output
            assert output.shape == (2, 3)


def test_a_batch_that_no_input_counts(saved: Path, manifest: dict[str, Any]) -> None:
    """How many samples there are is computed, and bounded."""
    content = {**manifest, "outputs": [], "explained": {**manifest["explained"], "name": "objective"}}
    unknown = ("u0", "batch**60", 2**40, "0 - batch")
    for size, samples in (("2*batch", 6), (4, 4), *((size, None) for size in unknown)):
        content["explained"]["shape"] = [size, 3]
        about = read_manifest(sealed(content))
        if samples is None:
            with pytest.raises(fxlrp.SignatureError, match="do not tell how many samples"):
                about.find_explained_shape({"batch": 3})
        else:
            assert about.find_explained_shape({"batch": 3}) == (samples, 3)


def test_results_are_those_of_the_manifest(saved: Path) -> None:
    about = fxlrp.load(saved).manifest
    right = [torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 6)]
    assert list(name_results(about, right)) == ["output", "relevance.input", "read.0"]
    for wrong in (right[:2], [*right[:2], None], [*right[:2], right[2].double()], [*right[:2], torch.zeros(2, 7)]):
        with pytest.raises(ArtifactError, match="and its manifest says"):
            name_results(about, wrong)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a == 0 or 6 % a == 0", True),
        ("a != 0 and 6 % a == 0", False),
        ("1 < a < 6 // a", False),
        ("*".join(["a"] * 90) + " == 0", True),
        ("**".join(["a"] * 9) + " == 0", True),
    ],
)
def test_conditions_are_short_circuited(text: str, value: bool) -> None:
    clauses.check_clause(text)
    assert clauses.evaluate_clause(text, {"a": 0}) is value


@pytest.mark.parametrize(
    "text",
    [
        "max()",
        "max(a)",
        "abs(a, a)",
        "max(a, b, key=a)",
        "a << 9",
        "9" * 2000,
        "-" * 200 + "a",
        "a if a else a",
        "a := 1",
    ],
)
def test_conditions_that_cannot_be_computed_are_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="condition on sizes"):
        clauses.check_clause(text)


def test_huge_numbers_have_no_value() -> None:
    chain = "*".join(["a"] * 90)
    clauses.check_clause(chain)
    assert clauses.evaluate_clause(chain, {"a": 2**62}) is None
    assert clauses.evaluate_clause(chain, {"a": 1}) == 1
    assert clauses.evaluate_clause("(a**60)**60", {"a": 2**62}) is None
