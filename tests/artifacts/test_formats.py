"""Artefacts: the same numbers as the program in every format, and a clear error for everything else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn
from torch.export import Dim
from typer.testing import CliRunner
from zoo import ZOO

import fxlrp
from fxlrp import ArtifactError, SignatureError, TargetError
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER, VERSION
from fxlrp.artifacts.description.manifest_json import read_manifest, write_manifest
from fxlrp.artifacts.load import check_runnable
from fxlrp.artifacts.pt2.untrusted import decode_json
from fxlrp.cli.app import app

CONSUMERS = Path(__file__).parents[1] / "consumers"
ENDING = {"pt2": "pt2", "onnx": "onnx", "aoti": "pt2"}


def cnn() -> nn.Module:
    """Every kind of layer of the digits demo."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.GELU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 10)).eval()


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def attributor() -> fxlrp.Attributor:
    return fxlrp.compile(cnn(), rules="epsilon_plus", read=("3",), dynamic_shapes="auto")


@pytest.fixture(scope="module", params=["pt2", "onnx"])
def saved(request: pytest.FixtureRequest, attributor: fxlrp.Attributor, tmp_path_factory: Any) -> Path:
    name = request.param
    path = tmp_path_factory.mktemp("artefacts") / f"digits.{ENDING[name]}"
    assert attributor.save(path, images(2)) == path
    return path


def same(artifact: fxlrp.Artifact, attributor: fxlrp.Attributor, *args: Tensor, **options: Any) -> None:
    """Output, relevances and reads within 1e-5 of their norm: float32, with sums in another order."""
    found, expected = artifact(*args, **options), attributor(*args, **options)
    pairs = [(found.relevance, expected.relevance), (found.output, expected.output)]
    pairs += [(found.read[name], expected.read[name]) for name in expected.read]
    for one, other in pairs:
        ones, others = (x if isinstance(x, dict) else {"": x} for x in (one, other))
        for a, b in zip(ones.values(), others.values(), strict=True):
            assert a.dtype == b.dtype
            assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("batch", [1, 5])
def test_formats_agree(saved: Path, attributor: fxlrp.Attributor, batch: int) -> None:
    artifact = fxlrp.load(saved)
    for seed, target in ((1, 3), (2, 7), (3, None), (4, -1), (5, list(range(batch))), (6, fxlrp.LARGEST)):
        same(artifact, attributor, images(batch, seed), target=target)


def test_one_meaning_of_every_index(saved: Path, attributor: fxlrp.Attributor) -> None:
    """In Python, of an artefact and of its raw program: from either end, the largest, or out of range."""
    artifact, x = fxlrp.load(saved), images(24)
    largest = artifact(x).output.argmax(1)
    index = torch.tensor([*range(-11, 11), fxlrp.LARGEST, -(2**62)])[:, None]
    found = artifact.run({"input_1": x, "target": index})["relevance.input"]
    for i, (one,) in enumerate(index.tolist()):
        if one == fxlrp.LARGEST or -10 <= one < 10:
            expected = attributor(x[i : i + 1], target=one).relevance
            place = int(largest[i]) if one == fxlrp.LARGEST else one % 10
            assert torch.equal(expected, attributor(x[i : i + 1], target=place).relevance)
            torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(artifact(x[i : i + 1], target=one).relevance, expected, rtol=1e-4, atol=1e-6)
        else:
            assert found[i].sum().isnan()
            for ask in (attributor, artifact):
                with pytest.raises(TargetError, match=f"index {one} is out of range"):
                    ask(x[i : i + 1], target=one)
    fits = ((index >= -10) & (index < 10) | (index == fxlrp.LARGEST))[:, 0]
    together = artifact(x[fits], target=index[fits])
    torch.testing.assert_close(together.relevance, found[fits], rtol=1e-4, atol=1e-6)
    none = artifact(x[:2], target=[3, None])
    assert torch.equal(none.relevance, artifact(x[:2], target=[3, int(largest[1])]).relevance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_sequences_of_any_length(name: str, tmp_path: Path) -> None:
    """One artefact for two lengths, padded or not; relevance of padding is zero."""
    model, args, kwargs = ZOO[name](2)
    attributor = fxlrp.compile(model.float(), args, kwargs, dynamic_shapes="auto")
    artifact = fxlrp.load(attributor.save(tmp_path / "model.pt2", *args, **kwargs))
    assert {spec.shape[0] for spec in artifact.manifest.inputs} == {"batch"}  # of the mask too
    target = (-1, 3) if name == "llama" else 1
    for length in (6, 9):
        ids = torch.randint(3, 100, (3, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        same_tokens = {"input_ids": ids, "attention_mask": mask, "target": target}
        assert (artifact(**same_tokens).relevance - attributor(**same_tokens).relevance).norm() == 0
        left = name == "llama"
        pad = (4, 0) if left else (0, 4)
        padded, hidden = nn.functional.pad(ids, pad), nn.functional.pad(mask, pad)
        found = artifact(input_ids=padded, attention_mask=hidden, target=target).relevance
        inside = slice(4, None) if left else slice(0, length)
        assert found[hidden == 0].abs().max() == 0
        expected = artifact(**same_tokens).relevance
        if name == "bert":  # positions of a causal model count from the first token, padding or not
            assert (found[:, inside] - expected).norm() <= 1e-5 * expected.norm()


def test_seeds(tmp_path: Path) -> None:
    attributor = fxlrp.compile(cnn())
    x, seed = images(2), torch.randn(2, 10)
    artifact = fxlrp.load(attributor.save(tmp_path / "seeds.pt2", x, target="seed"))
    same(artifact, attributor, x, target=seed)
    with pytest.raises(TargetError, match=r"saved for a floating point seed.*target='index'"):
        artifact(x, target=3)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "default device": lambda: torch.device("meta"),
    "default dtype": lambda: default_dtype(torch.float64),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_what_the_caller_is_in_does_not_matter(saved: Path, name: str) -> None:
    artifact, x = fxlrp.load(saved), images(3)
    expected = [artifact(x, target=target) for target in ([3, None, -1], None)]
    with CONTEXTS[name]():
        found = [artifact(x, target=target) for target in ([3, None, -1], None)]
        warnings = [one.warnings for one in found]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.relevance, other.relevance)
        assert torch.equal(one.output, other.output)
        assert one.relevance.dtype is other.relevance.dtype
        assert not one.relevance.is_inference()
        assert not one.relevance.requires_grad
    assert warnings == [one.warnings for one in expected]


def test_numbers_of_the_default_type(tmp_path: Path) -> None:
    """Those that a model makes of whole numbers, or of nothing, have the type that was the default at saving."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            ramp = torch.arange(0.0, 3.0) + torch.ones(3) / 3
            chosen = torch.where(n > 1, 0.1, 0.7)
            return x * (ramp + n * 0.1 + n.sqrt() + n / 7) * chosen

    x, n = torch.rand(2, 3), torch.tensor([[1, 2, 3], [3, 2, 1]])
    path = fxlrp.compile(Mixed().eval()).save(tmp_path / "mixed.pt2", x, n)
    artifact, raw = fxlrp.load(path), torch.export.load(path).module()
    expected = artifact.results(x, n, target=1)
    with default_dtype(torch.float64):
        found = artifact.results(x, n, target=1)
        alone = raw(x, n, torch.tensor([[1], [1]]))
    for name, one in expected.items():
        assert one.dtype is torch.float32
        assert torch.equal(found[name], one)
        assert torch.equal(alone[name], one)


def test_one_output_needs_no_target(tmp_path: Path) -> None:
    attributor = fxlrp.compile(cnn().double(), objective=lambda y: y[:, 3] - y[:, 5])
    artifact = fxlrp.load(attributor.save(tmp_path / "contrast.pt2", images(2).double()))
    assert [spec.name for spec in artifact.manifest.inputs] == ["input_1"]
    assert torch.equal(artifact(images(2).double()).relevance, attributor(images(2).double()).relevance)
    with pytest.raises(TargetError, match="no target to choose"):
        artifact(images(2).double(), target=3)


def test_manifest(saved: Path, attributor: fxlrp.Attributor) -> None:
    manifest = fxlrp.load(saved).manifest
    assert manifest.fxlrp == fxlrp.__version__
    assert manifest.torch == torch.__version__
    assert manifest.model == "Sequential"
    assert manifest.rules == "epsilon_plus"
    assert manifest.largest == fxlrp.LARGEST == -(2**63)
    assert "zplus" in manifest.table or "z" in manifest.table
    assert manifest.coverage["covered"] == manifest.coverage["live"] > 0
    assert [str(spec) for spec in manifest.inputs] == [
        "input_1: (batch, 1, 8, 8) float32",
        "target: (batch, 1) int64",
    ]
    assert [spec.name for spec in manifest.outputs] == ["output", "relevance.input", "read.3"]
    assert str(manifest.sizes["batch"]) == "1 or more"
    assert read_manifest(write_manifest(manifest)) == manifest


def test_nothing_of_the_machine_is_inside(saved: Path) -> None:
    assert str(Path(__file__).parents[2]).encode() not in saved.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in saved.read_bytes()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda a: a(images(2), target=10), TargetError, "index 10 is out of range"),
        (lambda a: a(images(2), target=[1, 2, 3]), TargetError, "3 targets for a batch of 2"),
        (lambda a: a(images(2), target=torch.zeros(2, 10)), TargetError, "saved for a class or an index"),
        (lambda a: a(images(2), target=fxlrp.contrast(1, 2)), TargetError, "saved for a class or an index"),
        (lambda a: a(images(2)[..., :7]), SignatureError, r"has shape \(2, 1, 8, 7\)"),
        (lambda a: a(images(2).double()), SignatureError, "must be of float32, not float64"),
        (lambda a: a(images(2) * torch.nan), SignatureError, "has NaN or"),
        (lambda a: a(images(2).numpy()), SignatureError, "must be a tensor, not ndarray"),
        (lambda a: a(images(2).to("meta")), SignatureError, "on the device meta, where there are no numbers"),
        (lambda a: a(images(2), target=torch.ones(2).long().to("meta")), TargetError, "on the device meta"),
        (lambda a: a(), SignatureError, "takes input_1, not nothing"),
        (lambda a: a(images(2), images(2)), SignatureError, "2 inputs for 1"),
        (lambda a: a(images(2), input_1=images(2)), SignatureError, "given twice"),
        (lambda a: a(images(2), mask=images(2)), SignatureError, "not input_1, mask"),
    ],
)
def test_wrong_calls(saved: Path, call: Callable[..., Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(fxlrp.load(saved))


def out_of_range(artifact: fxlrp.Artifact) -> None:
    """A consumer that does not check the index gets NaN for that sample alone."""
    relevance = artifact.run({"input_1": images(2), "target": torch.tensor([[3], [10]])})["relevance.input"]
    assert relevance[0].isfinite().all()
    assert relevance[1].sum().isnan()


def test_index_out_of_range(saved: Path) -> None:
    out_of_range(fxlrp.load(saved))


def test_index_beyond_a_size_that_is_computed(tmp_path: Path) -> None:
    """How many positions there are is known from the results only."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(2, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).transpose(1, 2)

    sizes = {"x": {0: Dim("batch"), 2: Dim("length", min=4, max=100)}}
    attributor = fxlrp.compile(Positions().eval(), dynamic_shapes=sizes)
    artifact = fxlrp.load(attributor.save(tmp_path / "positions.pt2", torch.rand(2, 2, 9)))
    x = torch.rand(2, 2, 7)
    for target in ((4, 1), (-1, -1), (-5, None), (None, 2), [(0, 1), (-2, None)]):
        expected = [attributor(x[i : i + 1], target=target[i] if isinstance(target, list) else target) for i in (0, 1)]
        relevance = artifact(x, target=target).relevance
        torch.testing.assert_close(relevance, torch.cat([e.relevance for e in expected]), rtol=1e-5, atol=1e-7)
    for wrong in (5, 6, -6, 10**6):
        with pytest.raises(TargetError, match=r"out of range: here each sample's output has shape \(5, 3\)"):
            artifact(x, target=(wrong, 1))
    with pytest.raises(TargetError, match="index 9223372036854775808 is out of range"):
        artifact(x, target=(2**63, 1))
    seeds = fxlrp.load(attributor.save(tmp_path / "seeds.pt2", torch.rand(2, 2, 9), target="seed"))
    seed = torch.rand(2, 5, 3)
    same(seeds, attributor, x, target=seed)
    with pytest.raises(TargetError, match=r"the shape of the output, \(2, \?, 3\), not \(2, 3\)"):
        seeds(x, target=seed[:, 0])


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file with some bytes flipped, its end cut off, or two of its parts swapped."""
    kind = chance.randrange(3)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(chance.choice([1, 3, 30])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 1:
        return content[: chance.randrange(len(content))]
    size = chance.choice([16, 200, 2000])
    a, b = sorted(chance.randrange(len(content) - size) for _ in range(2))
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def damage(saved: Path, artifact: fxlrp.Artifact, path: Path, **options: bool) -> None:
    """200 random corruptions; what does not raise differs in bytes that mean nothing, such as a time stamp."""
    content, x, chance = saved.read_bytes(), images(2), random.Random(0)
    expected = artifact(x, target=3).relevance
    refused = 0
    for _ in range(200):
        path.write_bytes(damaged(content, chance))
        try:
            found = fxlrp.load(path, **options)
        except ArtifactError:
            refused += 1
        else:
            assert torch.equal(found(x, target=3).relevance, expected)
    assert refused > 150


def test_damaged_files_raise_or_are_right(saved: Path, tmp_path: Path) -> None:
    damage(saved, fxlrp.load(saved), tmp_path / saved.name)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], into: Path) -> Path:
    """An archive with other members, whose manifest is made to fit."""
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    about = read_manifest(members.pop(MANIFEST_MEMBER))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    members[MANIFEST_MEMBER] = write_manifest(replace(about, parts=digests)).encode()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"digits/{name}", data)
    return into


@pytest.fixture(scope="module")
def archive(attributor: fxlrp.Attributor, tmp_path_factory: Any) -> Path:
    return attributor.save(tmp_path_factory.mktemp("archives") / "digits.pt2", images(2))


def in_model(find: str, put: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        before = members["models/model.json"]
        members["models/model.json"] = before.replace(find.encode(), put.encode(), 1)
        assert members["models/model.json"] != before

    return change


CODE = "__import__('os').system('touch hacked')"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (in_model("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), "may not call"),
        (in_model("torch.ops.aten.relu.default", "torch.os.system"), "may not call"),
        (in_model('"guards_code": []', f'"guards_code": ["{CODE}"]'), "guards"),
        (in_model("Symbol(", f"{CODE} or Symbol("), "unexpected size"),
        (in_model('"name": "relu"', f'"name": "{CODE}"'), "unexpected name"),
        (in_model('"metadata": {}', f'"metadata": {{"custom": "{CODE}"}}'), "metadata"),
        (lambda m: m.update({"data/sample_inputs/model.pt": b"pickled"}), "sample inputs"),
        (lambda m: m.update({"extra/other.py": b""}), "unexpected member"),
        (lambda m: m.update({"../outside": b""}), "unexpected member"),
        (
            lambda m: m.update(
                {
                    "data/weights/model_weights_config.json": m["data/weights/model_weights_config.json"].replace(
                        b'"use_pickle": false', b'"use_pickle": true', 1
                    )
                }
            ),
            "pickled",
        ),
    ],
)
def test_code_in_a_file_is_refused(
    archive: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], text: str
) -> None:
    with pytest.raises(ArtifactError, match=text):
        fxlrp.load(rewritten(archive, change, tmp_path / "digits.pt2"))
    assert not Path("hacked").exists()


def test_archives_of_others_are_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("other/extra/fxlrp.json", b"0" * 10**7)
    with pytest.raises(ArtifactError, match="compressed"):
        fxlrp.load(path)
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("one/byteorder", b"")
        members.writestr("two/byteorder", b"")
    with pytest.raises(ArtifactError, match="not in one folder"):
        fxlrp.load(path)
    with pytest.raises(ArtifactError, match="no file"):
        fxlrp.load(tmp_path / "missing.pt2")
    torch.export.save(torch.export.export(cnn(), (images(2),)), path)
    with pytest.raises(ArtifactError, match=r"fxlrp\.json cannot be read"):
        fxlrp.load(path)


def test_another_version_or_device_is_refused(archive: Path, tmp_path: Path) -> None:
    def older(members: dict[str, bytes]) -> None:
        about = read_manifest(members[MANIFEST_MEMBER])
        members[MANIFEST_MEMBER] = write_manifest(replace(about, torch="1.13.0")).encode()

    with pytest.raises(ArtifactError, match=r"written by torch 1\.13\.0"):
        fxlrp.load(rewritten(archive, older, tmp_path / "digits.pt2"))
    for device in ("meta", "xpu:7", "nowhere"):
        with pytest.raises(ArtifactError, match=f"runs on the device '{device}', which is not here"):
            check_runnable(replace(fxlrp.load(archive).manifest, device=device))
    with pytest.raises(ArtifactError, match=f"has version {VERSION + 1}"):
        read_manifest(json.dumps({"version": VERSION + 1, "digest": ""}))


def test_a_killed_save_leaves_the_old_file(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.pt2"
    shutil.copy(archive, path)
    before = path.read_bytes()
    code = (
        "import os, signal, sys; from pathlib import Path; from fxlrp import files\n"
        "with files.replace_file(Path(sys.argv[1])) as new:\n"
        "    new.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("model.bin", {}, "ends in .pt2 or .onnx"),
        ("model.pt2", {"format": "onnx"}, "ends in .onnx"),
        ("model.pt2", {"format": "zip"}, "none of 'pt2', 'aoti', 'onnx'"),
        ("model.pt2", {"target": "class"}, "none of 'index', 'seed'"),
    ],
)
def test_wrong_saves(tmp_path: Path, path: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(SignatureError, match=text):
        fxlrp.compile(cnn()).save(tmp_path / path, images(2), **options)
    assert not list(tmp_path.iterdir())


def test_torch_alone(archive: Path, attributor: fxlrp.Attributor, tmp_path: Path) -> None:
    """A process without fxlrp gets the same numbers."""
    x, target = images(4), torch.tensor([[1], [fxlrp.LARGEST], [4], [-1]])
    torch.save([x, target], tmp_path / "inputs.pt")
    script = [sys.executable, "-I", str(CONSUMERS / "alone.py")]
    files = [str(archive), str(tmp_path / "inputs.pt"), str(tmp_path / "results.pt")]
    subprocess.run([*script, *files], check=True)
    found = torch.load(tmp_path / "results.pt")
    expected = attributor(x, target=[1, int(attributor(x).output[1].argmax()), 4, 9])
    assert list(found) == ["output", "relevance.input", "read.3"]
    assert torch.equal(found["relevance.input"], expected.relevance)


@pytest.mark.external
def test_machine_code(attributor: fxlrp.Attributor, tmp_path: Path) -> None:
    """AOTInductor in Python and in a program of C++, and only if allowed, whoever signed it."""
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    path = attributor.save(tmp_path / "digits.pt2", images(2), format="aoti", sign=key)
    with pytest.raises(ArtifactError, match="allow_native_code=True"):
        fxlrp.load(path, key=key.public_key())
    with pytest.raises(ArtifactError, match="of none of the given keys"):
        fxlrp.load(path, key=other.public_key(), allow_native_code=True)
    artifact = fxlrp.load(path, key=key.public_key(), allow_native_code=True)
    for batch, seed, target in ((1, 1, 3), (5, 2, 7), (5, 3, None)):
        same(artifact, attributor, images(batch, seed), target=target)
    out_of_range(artifact)
    damage(path, artifact, tmp_path / "damaged.pt2", allow_native_code=True)

    x, target = images(5, 4), torch.tensor([[1], [fxlrp.LARGEST], [4], [0], [-1]])
    torch.save([x, target], tmp_path / "inputs.pt")
    build = tmp_path / "build"
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in (
        ["cmake", "-S", str(CONSUMERS), "-B", str(build), prefix],
        ["cmake", "--build", str(build)],
        [str(build / "explain"), str(path), str(tmp_path / "inputs.pt"), str(tmp_path / "results.pt")],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "[5, 1, 8, 8] sum" in done.stdout
    results = torch.load(tmp_path / "results.pt")
    largest = int(attributor(x).output[1].argmax())
    expected = attributor(x, target=[1, largest, 4, 0, 9])
    for one, two in zip(results, (expected.output, expected.relevance, expected.read["3"]), strict=True):
        assert (one - two).norm() <= 1e-5 * two.norm()


def test_sizes_that_a_model_fixes(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 7, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.table).sum(1)

    attributor = fxlrp.compile(Positions().eval(), (torch.randn(1, 7, 4),), dynamic_shapes="auto")
    (size,) = attributor.fixed_sizes()
    assert (size.input, size.dim, size.size) == ("x", 1, 7)
    assert "return (x + self.table).sum(1)" in size.source
    assert attributor(torch.randn(3, 7, 4)).relevance.shape == (3, 7, 4)
    artifact = fxlrp.load(attributor.save(tmp_path / "table.pt2", torch.randn(1, 7, 4)))
    with pytest.raises(SignatureError, match=r"x: \(batch, 7, 4\) float32"):
        artifact(torch.randn(3, 8, 4))


def test_a_model_may_fix_what_others_share(tmp_path: Path) -> None:
    class Paired(nn.Module):
        """The second input is always of two rows."""

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * (y + torch.ones(2, 4)).sum(0)

    inputs = torch.randn(2, 4), torch.randn(2, 4)
    attributor = fxlrp.compile(Paired().eval(), inputs, dynamic_shapes="auto")
    fixed = {(size.input, size.dim, size.size) for size in attributor.fixed_sizes()}
    assert fixed == {("x", 1, 4), ("y", 0, 2), ("y", 1, 4)}
    artifact = fxlrp.load(attributor.save(tmp_path / "paired.pt2", *inputs))
    assert artifact(torch.randn(5, 4), inputs[1], target=1).relevance["x"].shape == (5, 4)


def test_sizes_beside_numbers_that_depend_on_data() -> None:
    """Torch cannot name those in its reports."""

    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 7, 4))

        def forward(self, x: Tensor, counts: Tensor) -> Tensor:
            torch._check(counts.sum().item() == 6)
            return (x + self.table).sum(1)

    counts = torch.tensor([[2, 4]]).expand(2, 2)
    for dynamic_shapes, fixed in ((None, []), ("auto", [("x", 1, 7)])):
        attributor = fxlrp.compile(Checked().eval(), (torch.randn(2, 7, 4), counts // 2), dynamic_shapes=dynamic_shapes)
        assert [(size.input, size.dim, size.size) for size in attributor.fixed_sizes()] == fixed
        assert attributor(torch.randn(2, 7, 4), counts // 2).relevance.shape == (2, 7, 4)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "built.py").write_text(
        "import torch\n\n\ndef model():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 3)), (torch.ones(1, 4),)\n"
    )
    run = CliRunner().invoke
    exported = run(app, ["export", "built:model", "--out", "m.pt2"])
    assert exported.exit_code == 0, exported.output
    assert "Wrote m.pt2" in exported.output
    assert "batch: 1 or more" in exported.output
    assert "relevance.input" in run(app, ["run", "m.pt2"]).output
    np.save("x.npy", np.full((3, 4), 2, dtype=np.float32))
    done = run(app, ["run", "m.pt2", "--input", "x.npy", "--target", "1", "--save", "r.npz"])
    assert done.exit_code == 0, done.output
    with np.load("r.npz") as results:
        assert results["relevance.input"].shape == (3, 4)
    wrong = run(app, ["run", "m.pt2", "--input", "x.npy", "--target", "8"])
    assert wrong.exit_code == 2
    assert "out of range" in wrong.output
    os.truncate("m.pt2", 100)
    assert run(app, ["run", "m.pt2"]).exit_code == 2


def test_damaged_json() -> None:
    for content in (b"{", b"[" * 10**5, b"\xff", b"9" * 10**4, "{}".encode("utf-32-be")):
        with pytest.raises(ArtifactError, match="damaged"):
            decode_json(content)
