"""Data sets: every row once, with the numbers that the artefact gives by itself, whatever happens in between."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data.extensions
import torch
from browser import Browser
from hypothesis import given as drawn
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from ray import cloudpickle
from torch import Tensor, nn
from typer.testing import CliRunner

import fxlrp
from fxlrp import ArtifactError, FxlrpError, SignatureError, TargetError
from fxlrp.cli.app import app
from fxlrp.datasets.arrow_values import convert_exactly, read_array, read_row_target
from fxlrp.datasets.folders import begin_or_resume, lock_folder
from fxlrp.datasets.ray_workers import connect_ray, spread_work
from fxlrp.datasets.run import check_kept, choose_columns, open_files
from fxlrp.datasets.samples import DataSource
from fxlrp.datasets.shards import MAX_TRIES, TRY_NAME, ShardJob, hash_file, limit_batch_size
from fxlrp.datasets.sources import open_source
from fxlrp.reports.drawing.image_pages import find_page_path, find_picture_path, write_image
from fxlrp.reports.drawing.words import BLUE, RED

ROWS = 80

pytestmark = [
    pytest.mark.external,
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),  # of Ray, in itself
]

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Lengths(nn.Module):
    """Takes sequences of any length and a number beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(x)).mean(1) * scale[:, None])


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    attributor = fxlrp.compile(Lengths().eval(), dynamic_shapes="auto")
    return attributor.save(tmp_path_factory.mktemp("lengths") / "model.pt2", torch.randn(2, 4, 3), torch.ones(2))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    path = tmp_path_factory.mktemp("pixels") / "model.pt2"
    return fxlrp.compile(model, dynamic_shapes="auto").save(path, torch.rand(2, 3, 8, 8))


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """One Ray for all that need one."""
    with connect_ray(2):
        yield


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    return [
        {
            "größe": float(chance.normal()),
            "x": chance.normal(size=(int(chance.integers(1, 4)), 3)).round(3).tolist(),
            "label": [int(chance.integers(-5, 5)), None][int(chance.integers(4)) // 3],
        }
        for _ in range(count)
    ]


def parquet(path: Path, content: list[dict[str, Any]], **options: Any) -> Path:
    schema = pa.schema(
        [("größe", pa.float64()), ("x", pa.list_(pa.list_(pa.float64()))), ("label", pa.int64())]
    )  # of no rows, too
    pq.write_table(pa.Table.from_pylist(content, schema), path, **options)
    return path


def jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in content))
    return path


def job(path: Path, source: DataSource, out: Path, **options: Any) -> ShardJob:
    out.mkdir(exist_ok=True)
    given = {"columns": {"x": "x", "scale": "größe"}, "target": "label", "batch_size": 4, "shard": 7, **options}
    return ShardJob(path, hash_file(path), False, source, out, **given)


def check(path: Path, out: Path, content: list[dict[str, Any]]) -> None:
    """One row for each, equal to a call with it alone."""
    artifact = fxlrp.load(path)
    found = pq.read_table(out).sort_by("row").to_pylist()
    assert [row["row"] for row in found] == list(range(len(content)))
    for row, given in zip(found, content, strict=True):
        x, scale = torch.tensor(given["x"])[None], torch.tensor(given["größe"])[None]
        expected = artifact.results(x, scale, target=given["label"])
        for name, value in expected.items():
            one = np.reshape(row[name], row[f"{name}.shape"])
            np.testing.assert_allclose(one, value[0].numpy(), rtol=1e-5, atol=1e-6)


@drawn(hnp.arrays(st.sampled_from(["?", "u1", "i4", "u8", "i8", "f4", "f8"]), 3), st.sampled_from(DTYPES + FLOATS))
def test_conversions_are_exact_or_refused(values: np.ndarray, dtype: torch.dtype) -> None:
    try:
        found = convert_exactly(values, dtype)
    except ValueError:
        return
    assert found.dtype is dtype
    if values.dtype.kind == "f" and dtype.is_floating_point:
        torch.testing.assert_close(found, torch.from_numpy(values).to(dtype), rtol=0, atol=0, equal_nan=True)
        assert (found.isinf().numpy() == np.isinf(values)).all()
    else:
        assert found.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(3, torch.float32), (0.1, torch.float32), (200, torch.uint8), (True, torch.int64), (2**40, torch.int64)],
)
def test_usual_conversions_are_not_refused(value: Any, dtype: torch.dtype) -> None:
    assert convert_exactly(np.array(value), dtype) == torch.tensor(value, dtype=dtype)


@drawn(hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_lists_of_arrow(values: np.ndarray) -> None:
    (scalar,) = pa.array([values.tolist()], nested_type(values.ndim))
    found = read_array(scalar)
    assert np.array_equal(found, values, equal_nan=True) if values.size else not found.size


def nested_type(depth: int) -> pa.DataType:
    return pa.list_(nested_type(depth - 1)) if depth else pa.float64()


@pytest.mark.parametrize(
    "value", [None, [[1.0], [1.0, 2.0]], [[1.0], None], [1.0, None], "text", ["a"], {"a": 1}, b"\x00"]
)
def test_no_numbers(value: Any) -> None:
    for one in (value, pa.scalar(value)):
        with pytest.raises(ValueError, match=r"is empty|holds|has empty"):
            convert_exactly(read_array(one), torch.float32)


def test_tensors_of_arrow_and_ray() -> None:
    values = np.arange(12.0).reshape(2, 2, 3)
    ours = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    theirs = ray.data.extensions.ArrowTensorArray.from_numpy(values)
    for column in (ours, theirs):
        assert np.array_equal(read_array(column[1]), values[1])


def test_targets() -> None:
    assert read_row_target(pa.scalar(3), 1) == (3,)
    assert read_row_target(None, 2) == (None, None)
    assert read_row_target(pa.scalar([-1, None]), 2) == (-1, None)


def sources(folder: Path, content: list[dict[str, Any]]) -> Iterator[DataSource]:
    yield open_source(jsonl(folder / "zeilen ü.jsonl", content), 7, None, 1)
    yield open_source(parquet(folder / "one.parquet", content, row_group_size=11), 7, None, 1)
    many = folder / "many"
    (many / "inner").mkdir(parents=True)
    for i, (first, stop) in enumerate([(0, 5), (5, 5), (5, 30), (30, len(content))]):
        parquet(many / ("inner" if i < 2 else ".") / f"{i}.parquet", content[first:stop], row_group_size=4)
    (many / "_hidden.parquet").write_bytes(b"")
    yield open_source(many, 7, None, 1)


def test_ranges_of_rows(tmp_path: Path) -> None:
    """In any order; a worker usually goes forward."""
    content = rows(50)
    order = ["inner/0.parquet", "inner/1.parquet"]
    for source in sources(tmp_path, content):
        expected = content
        if source.files[0][0].startswith("2"):  # sorted by name
            assert [name for name, _ in source.files] == ["2.parquet", "3.parquet", *order]
            expected = content[5:] + content[:5]
        assert source.total == 50
        for shard in (0, 2, 3, 7, 1, 5, 6):
            found = list(source.read_rows(7 * shard, min(7 * shard + 7, 50), ["x", "label"]))
            assert [row.number for row in found] == list(range(7 * shard, min(7 * shard + 7, 50)))
            for row in found:
                assert np.array_equal(read_array(row.values["x"]), expected[row.number]["x"])


def test_columns_that_are_kept(lengths: Path, tmp_path: Path) -> None:
    """With their types, whichever rows a shard has; and what was explained of each row."""
    ids = [f"ä{i}" if i % 3 else None for i in range(20)]
    content = [{**row, "id": ids[i], "weight": i if i < 9 else i + 0.5} for i, row in enumerate(rows(20))]
    many = tmp_path / "many"
    many.mkdir()
    for i, part in enumerate((content[:9], content[9:])):
        columns = {name: [row[name] for row in part] for name in ("id", "weight", "label", "größe", "x")}
        columns["id"] = pa.array(columns["id"]).dictionary_encode()
        columns["weight"] = pa.array(columns["weight"], [pa.float64(), pa.float32()][i])
        pq.write_table(pa.table(columns), many / f"{i}.parquet")
    artifact = fxlrp.load(lengths)
    for source in (open_source(many, 7, None, 1), open_source(jsonl(tmp_path / "d.jsonl", content), 7, None, 1)):
        source.keep(["weight", "id"])
        out = tmp_path / type(source).__name__
        work = job(lengths, source, out)
        for number in work.list_shards():
            work(number)
        assert len({str(pq.read_schema(path)) for path in out.glob("*.parquet")}) == 1
        found = pq.read_table(out).sort_by("row").to_pylist()
        assert [row["id"] for row in found] == ids
        assert [row["weight"] for row in found] == [row["weight"] for row in content]
        for row, given in zip(found, content, strict=True):
            y = artifact(torch.tensor(given["x"])[None], torch.tensor(given["größe"])[None]).output
            assert row["target"] == (int(y.argmax()) if given["label"] is None else given["label"] % 5)
        check(lengths, out, content)


def test_columns_that_cannot_be_kept(lengths: Path, pixels: Path, tmp_path: Path) -> None:
    source = open_source(jsonl(tmp_path / "d.jsonl", [{"a": 1}, {"a": "text"}]), 7, None, 1)
    with pytest.raises(SignatureError, match=r"rows 0 to 1 .* column 'a' cannot be kept, as its values are of several"):
        source.keep(["a"])
    with pytest.raises(SignatureError, match="no column 'b' to keep, only 'a'"):
        source.keep(["b"])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SignatureError, match="names its file"):
        open_files(tmp_path, 7, fxlrp.load(pixels).manifest, ["image"])
    for name in ("row", "target", "output.shape"):
        with pytest.raises(SignatureError, match=f"'{name}' cannot be kept"):
            check_kept(fxlrp.load(lengths).manifest, ["id", name])


@pytest.mark.parametrize("count", [0, 1, 40])
def test_groups_of_equal_shapes(lengths: Path, tmp_path: Path, count: int) -> None:
    content = rows(count)
    for i, source in enumerate(sources(tmp_path, content)):
        if i < 2:
            work = job(lengths, source, tmp_path / str(i))
            for number in work.list_shards():
                work(number)
            check(lengths, tmp_path / str(i), content)


def test_images(pixels: Path, tmp_path: Path) -> None:
    """Colours, grey, palettes."""
    folder, chance = tmp_path / "bilder", np.random.default_rng(0)
    (folder / "ü").mkdir(parents=True)
    colours = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "ü" / "a b.png")
    Image.fromarray(colours[:, :, 0]).save(folder / "grey.PNG")
    Image.fromarray(colours).quantize(256).save(folder / "palette.png")
    source = open_files(folder, 7, fxlrp.load(pixels).manifest)
    (name,) = [spec.name for spec in fxlrp.load(pixels).manifest.inputs[:1]]
    work = job(pixels, source, tmp_path / "out", columns={name: "image"}, target=1)
    work(0)
    found = {row["file"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert set(found) == {"ü/a b.png", "grey.PNG", "palette.png"}
    row = found["ü/a b.png"]
    x = torch.from_numpy(colours).permute(2, 0, 1)[None].double().div(255).float()
    expected = fxlrp.load(pixels)(x, target=1).relevance[0]
    np.testing.assert_allclose(np.reshape(row["relevance.input"], (3, 8, 8)), expected, rtol=1e-5, atol=1e-7)

    Image.fromarray(colours[:, :, 0].astype(np.uint16)).save(folder / "deep.png")
    with pytest.raises(SignatureError, match=r"row 0 .*deep\.png.* mode I"):
        job(pixels, open_files(folder, 7, work.artifact.manifest), tmp_path / "out", columns={name: "image"})(0)
    content = io.BytesIO()
    Image.fromarray(colours).save(content, "png")
    (folder / "deep.png").write_bytes(content.getvalue()[:80])
    with pytest.raises(SignatureError, match=r"row 0 .*deep\.png.* cannot be read"):
        job(pixels, open_files(folder, 7, work.artifact.manifest), tmp_path / "out", columns={name: "image"})(0)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"x": [[1.0, 2.0]]}, SignatureError, "'x' has shape"),
        ({"x": [[1.0, 2.0, 3.0], [1.0]]}, SignatureError, "column 'x' holds .* different lengths"),
        ({"x": None}, SignatureError, "column 'x' is empty"),
        ({"größe": 1e300}, SignatureError, r"column 'größe' holds 1e\+300, which float32 cannot"),
        ({"größe": float("nan")}, SignatureError, "'scale' has NaN"),
        ({"label": 5}, TargetError, "out of range"),
    ],
)
@pytest.mark.parametrize("write", [parquet, jsonl])
def test_rows_that_do_not_fit(
    lengths: Path, tmp_path: Path, write: Any, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The message names the row; shards before it are kept."""
    content = rows(20)
    content[9] |= changes
    work = job(lengths, open_source(write(tmp_path / f"d.{write.__name__}", content), 7, None, 1), tmp_path / "out")
    work(0)
    with pytest.raises(error, match=rf"(?s)^row 9 \(.*{text}"):
        work(1)
    work(2)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "part-000000.parquet",
        "part-000002.parquet",
    ]


@pytest.mark.parametrize("line", ["{", "3", "{}", "\x00"])
def test_lines_that_are_no_rows(lengths: Path, tmp_path: Path, line: str) -> None:
    path = jsonl(tmp_path / "d.jsonl", rows(5))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SignatureError, match=r"row 5 \(line 11 of"):
        job(lengths, open_source(path, 7, None, 1), tmp_path / "out")(0)


def test_damaged_parquet(lengths: Path, tmp_path: Path) -> None:
    """Cut off or changed somewhere: an error, or the same numbers."""
    path, chance = parquet(tmp_path / "d.parquet", rows(7), write_page_checksum=True), random.Random(0)
    content, work = path.read_bytes(), job(lengths, open_source(path, 7, None, 1), tmp_path / "out")
    for turn in range(60):
        changed = bytearray(content)
        if turn % 3:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        else:
            del changed[chance.randrange(len(changed)) :]
        path.write_bytes(changed)
        try:
            work.source = open_source(path, 7, None, 1)
            work(0)
        except SignatureError:
            continue
        check(lengths, tmp_path / "out", rows(7))


def test_sources_that_are_none(tmp_path: Path) -> None:
    for name, text in (("missing", "no file or folder"), ("", "is none of these")):
        with pytest.raises(SignatureError, match=text):
            open_source(tmp_path / name, 7, None, 1)
    parquet(tmp_path / "d.parquet", rows(1))
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(SignatureError, match="both"):
        open_source(tmp_path, 7, 1, 1)
    (tmp_path / "d.parquet").unlink()
    for channels, text in ((2, "images of 2 channels"), (None, "no images")):
        with pytest.raises(SignatureError, match=text):
            open_source(tmp_path, 7, channels, 1)


def test_columns(lengths: Path, pixels: Path) -> None:
    two, one = fxlrp.load(lengths).manifest, fxlrp.load(pixels).manifest
    assert choose_columns(two, {"scale": "s"}, "label", ["s", "x", "label"]) == {"x": "x", "scale": "s"}
    assert list(choose_columns(one, {}, "label", ["any", "label"]).values()) == ["any"]
    assert choose_columns(two, {}, None, []) == {"x": "x", "scale": "scale"}
    for given, target, text in (({"z": "x"}, None, "no input 'z'"), ({}, None, "no column 'scale'"), ({}, "t", "'t'")):
        with pytest.raises(SignatureError, match=text):
            choose_columns(two, given, target, ["x", "y"] if target is None else ["x", "scale"])


def test_artefacts_that_do_not_take_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2).eval()
    fixed = fxlrp.compile(linear)
    assert limit_batch_size(fxlrp.load(fixed.save(tmp_path / "one.pt2", torch.rand(1, 3))).manifest, 32) == 1
    about = fxlrp.load(fixed.save(tmp_path / "four.pt2", torch.rand(4, 3))).manifest
    with pytest.raises(ArtifactError, match="batches of 4 only"):
        limit_batch_size(about, 32)
    other = replace(about, outputs=(replace(about.outputs[0], shape=(2, 3)),))
    with pytest.raises(ArtifactError, match="first dimension of 'output' does not count samples"):
        limit_batch_size(other, 32)


def test_indices_of_several_dimensions(tmp_path: Path) -> None:
    """An output that is computed of the model's is not among the results, and neither is its largest entry."""
    torch.manual_seed(0)
    x, targets = torch.rand(3, 4, 3), [(-1, None), (None, None), (0, 2)]
    content = [{"x": row.tolist(), "target": list(target)} for row, target in zip(x, targets, strict=True)]
    source = open_source(jsonl(tmp_path / "d.jsonl", content), 7, None, 1)
    model = nn.Linear(3, 5).eval()
    y = model(x)
    places = [[3, int(y[0, -1].argmax())], [int(i) for i in np.unravel_index(int(y[1].argmax()), (4, 5))], [0, 2]]
    for output, expected in ((None, places), (lambda y: 2 * y, [[3, None], [None, None], [0, 2]])):
        attributor = fxlrp.compile(model, dynamic_shapes="auto", output=output)
        path = attributor.save(tmp_path / "model.pt2", torch.rand(2, 4, 3))
        (name,) = [spec.name for spec in fxlrp.load(path).manifest.inputs[:1]]
        job(path, source, tmp_path / "out", columns={name: "x"}, target="target")(0)
        assert pq.read_table(tmp_path / "out").column("target").to_pylist() == expected


def test_pictures(pixels: Path, tmp_path: Path) -> None:
    """The image on the left; red and blue on the right, where relevance is above and below zero."""
    for channels in (1, 3, 4):
        relevance = np.zeros((channels, 2, 4))
        relevance[0, 0, 0], relevance[-1, 1, 3], relevance[:, 1, 1] = 2, -2, np.nan
        write_image(find_picture_path(tmp_path, channels), np.full((channels, 2, 4), 0.25), relevance)
        with Image.open(find_picture_path(tmp_path, channels)) as opened_picture:
            drawn = np.asarray(opened_picture)
        assert drawn.shape == (2 * 56, 9 * 56, 3)
        drawn = drawn[::56, ::56]  # a pixel, a gap
        assert (drawn[:, :4] == 64).all()
        assert drawn[0, 5].tolist() == list(RED)
        assert drawn[1, 8].tolist() == list(BLUE)
        assert (drawn[0, 6:] == 255).all()
        assert (drawn[1, 4:8] == 255).all()


def test_seeds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    attributor = fxlrp.compile(nn.Linear(3, 2).eval(), dynamic_shapes="auto")
    path = attributor.save(tmp_path / "model.pt2", torch.rand(2, 3), target="seed")
    content = [{"x": [1, 2, i], "seed": [i, -1.5]} for i in range(3)]
    source = open_source(jsonl(tmp_path / "d.jsonl", content), 7, None, 1)
    (name,) = [spec.name for spec in fxlrp.load(path).manifest.inputs[:1]]
    job(path, source, tmp_path / "out", columns={name: "x"}, target="seed")(0)
    found = pq.read_table(tmp_path / "out").column("relevance.input").to_pylist()
    x, seed = (torch.tensor([row[key] for row in content], dtype=torch.float32) for key in ("x", "seed"))
    np.testing.assert_allclose(found, attributor(x, target=seed).relevance, rtol=1e-5)


def test_folders_of_other_runs(tmp_path: Path) -> None:
    settings = {"target": "label", "shard": 3}
    with (
        lock_folder(tmp_path / "out"),
        pytest.raises(ArtifactError, match="another run is writing"),
        lock_folder(tmp_path / "out"),
    ):
        pass
    with lock_folder(tmp_path / "out"):
        begin_or_resume(tmp_path / "out", settings)
        for leftover in (".part-000001.parquet.x", "._run.json.x", "._source"):
            (tmp_path / "out" / leftover).mkdir()
        begin_or_resume(tmp_path / "out", settings)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "_run.json"}
        with pytest.raises(ArtifactError, match="another run: shard, was 3, is 4 now"):
            begin_or_resume(tmp_path / "out", {**settings, "shard": 4})
    files = {"a": [1, 2], "b": [3, 4]}
    for now, text in (({**files, "b": [3, 5]}, "b was changed"), ({"b": [3, 4]}, "a is gone"), ({}, "a is gone")):
        with lock_folder(tmp_path / "again"):
            begin_or_resume(tmp_path / "again", {"files": files})
            with pytest.raises(ArtifactError, match=f"the file {text} since"):
                begin_or_resume(tmp_path / "again", {"files": now})
            with pytest.raises(ArtifactError, match="the file c is new since"):
                begin_or_resume(tmp_path / "again", {"files": {**files, "c": [0, 0]}})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ArtifactError, match="'thesis"):
        begin_or_resume(tmp_path / "other", settings)
    with pytest.raises(ArtifactError, match="is a file"), lock_folder(tmp_path / "other" / "thesis.tex"):
        pass


def test_work_that_kills_every_worker_ends(lengths: Path, tmp_path: Path) -> None:
    work = job(lengths, open_source(jsonl(tmp_path / "d.jsonl", rows(20)), 7, None, 1), tmp_path / "out")
    (tmp_path / "out" / TRY_NAME.format(1)).write_bytes(b"." * MAX_TRIES)
    with pytest.raises(FxlrpError, match="workers died, one after the other, of the 7 rows from 7 on"):
        work(1)


def test_changes_during_a_run(lengths: Path, pixels: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", rows(20))
    work = job(lengths, open_source(path, 7, None, 1), tmp_path / "out")
    work.path = pixels
    with pytest.raises(ArtifactError, match="changed during the run"):
        work(0)
    path.write_text("")
    with pytest.raises(SignatureError, match=r"row 7 .* shorter"):
        job(lengths, work.source, tmp_path / "out")(1)


@pytest.mark.usefixtures("local")
def test_a_whole_run(lengths: Path, tmp_path: Path) -> None:
    """With more workers than shards; the second time there is nothing to do."""
    source, out = parquet(tmp_path / "d.parquet", rows(20)), tmp_path / "out"
    options: dict[str, Any] = {"target": "label", "columns": {"scale": "größe"}, "keep": ["label"]}
    options |= {"shard": 10, "workers": 5}
    assert fxlrp.batch(lengths, source, out, **options) == 20
    check(lengths, out, rows(20))
    assert pq.read_table(out).sort_by("row").column("label").to_pylist() == [row["label"] for row in rows(20)]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert fxlrp.batch(lengths, source, out, **options) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    with pytest.raises(ArtifactError, match="another run: target"):
        fxlrp.batch(lengths, source, out, **{**options, "target": 1})
    source.write_bytes(source.read_bytes())
    with pytest.raises(ArtifactError, match=r"another run: the file d\.parquet was changed"):
        fxlrp.batch(lengths, source, out, **options)


@pytest.mark.usefixtures("local")
def test_a_page_of_pictures(pixels: Path, tmp_path: Path) -> None:
    """Beside results that are read as before; a browser finds every picture."""
    folder, chance = tmp_path / "bilder & <b>", np.random.default_rng(0)
    folder.mkdir()
    for i in range(5):
        Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i} & <i>.png")
    out = tmp_path / "out"
    for turn in range(2):
        assert fxlrp.batch(pixels, folder, out, shard=2, png=True) == (0 if turn else 5)
        find_page_path(out).unlink() if not turn else None
    found = pq.read_table(out).sort_by("row").to_pylist()
    assert [row["file"] for row in found] == [f"{i} & <i>.png" for i in range(5)]
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=find_page_path(out).as_uri())
        wait = "new Promise(done => { if (document.readyState === 'complete') done(); else onload = done; })"
        browser.evaluate(wait)
        shown = "[...document.querySelectorAll('figure')]"
        browser.evaluate(f"Promise.all({shown}.map(f => f.querySelector('img').decode()))")
        assert browser.evaluate(f"{shown}.map(f => f.querySelector('img').naturalWidth)") == [28 * 17] * 5
        captions = browser.evaluate(f"{shown}.map(f => f.querySelector('figcaption').innerText)")
        assert not browser.errors
    for text, row in zip(captions, found, strict=True):
        value = row["output"][row["target"]]
        assert text.split("\n") == [row["file"], f"explains {row['target']}: {value:+.4g}"]
        assert row["target"] == int(np.argmax(row["output"]))


@pytest.mark.usefixtures("local")
def test_a_row_that_does_not_fit_stops_the_run(lengths: Path, tmp_path: Path) -> None:
    content = rows(60)
    content[58] |= {"x": None}
    with pytest.raises(SignatureError, match=r"row 58 \(row 58 of .*column 'x' is empty"):
        fxlrp.batch(
            lengths, parquet(tmp_path / "d.parquet", content), tmp_path / "out", columns={"scale": "größe"}, shard=7
        )
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 8


@pytest.mark.usefixtures("local")
def test_a_ray_dataset(pixels: Path, tmp_path: Path) -> None:
    """Copied once: to go on, the copy is read."""
    x = np.random.default_rng(0).random((10, 3, 8, 8)).astype(np.float32)
    out = tmp_path / "out"
    with pytest.raises(SignatureError, match="no rows"):
        fxlrp.batch(pixels, ray.data.from_numpy(x).limit(0), out)
    assert fxlrp.batch(pixels, ray.data.from_numpy(x), out) == 10
    assert fxlrp.batch(pixels, ray.data.from_numpy(0 * x), out) == 0
    (row,) = pq.read_table(out, filters=[("row", "=", 3)]).to_pylist()
    expected = fxlrp.load(pixels).results(torch.from_numpy(x[3:4]))["output"][0]
    np.testing.assert_allclose(row["output"], expected, rtol=1e-5, atol=1e-6)


def dies_once(number: int, folder: Path) -> None:
    """Work whose process is killed at the first try."""
    mark = folder / str(number)
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()


@pytest.mark.usefixtures("local")
def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    work = functools.partial(dies_once, folder=tmp_path)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this module
    assert sorted(spread_work(work, range(5), workers=1, threads=1, gpu=False)) == list(range(5))
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"shard": 0}, SignatureError, "shard=0"),
        ({"target": [1, 2]}, TargetError, "none of: None, a class"),
        ({"source": [1, 2]}, SignatureError, "neither a path nor a Ray Dataset"),
        ({"columns": {"y": "x"}}, SignatureError, "no input 'y'"),
        ({"keep": "label"}, SignatureError, "keep='label' is one name"),
        ({"keep": ["id"]}, SignatureError, "no column 'id' to keep"),
        ({"png": True, "columns": {"scale": "größe"}}, SignatureError, "is a folder of them"),
    ],
)
def test_wrong_arguments(
    lengths: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    given = {"source": parquet(tmp_path / "d.parquet", rows(3)), "out": tmp_path / "out", **options}
    with pytest.raises(error, match=text):
        fxlrp.batch(lengths, **given)
    with pytest.raises(ArtifactError, match="lies in the source"):
        fxlrp.batch(lengths, tmp_path, tmp_path / "out", columns={"scale": "größe"})
    assert not (tmp_path / "out").exists()


def test_a_run_killed_twice(lengths: Path, tmp_path: Path) -> None:
    """Everything at once and at any moment: each row is there once, and no leftovers."""
    out, chance = tmp_path / "out", random.Random()
    source = jsonl(tmp_path / "d.jsonl", rows(ROWS))
    options = ["--target", "label", "--column", "scale=größe", "--keep", "label", "--keep", "größe"]
    options += ["--shard", "1", "--batch-size", "1", "--workers", "2"]
    command = [
        sys.executable,
        "-c",
        "from fxlrp.cli.app import main; main()",
        "batch",
        str(lengths),
        str(source),
        "--out",
        str(out),
        *options,
    ]
    for _ in range(2):
        before = len(list(out.glob("part-*")))
        run = subprocess.Popen(command, start_new_session=True)
        while run.poll() is None and len(list(out.glob("part-*"))) == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert before < len(list(out.glob("part-*"))) < ROWS
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    assert done.stdout.startswith("Wrote ")
    check(lengths, out, rows(ROWS))
    kept = pq.read_table(out).sort_by("row").select(["label", "größe"]).to_pylist()
    assert kept == [{"label": row["label"], "größe": row["größe"]} for row in rows(ROWS)]
    assert not [path for path in out.iterdir() if path.name not in (".lock", "_run.json") and path.suffix != ".parquet"]


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--column", "scale"], "NAME=COLUMN"), (["--target", "klasse"], "'klasse'"), (["--workers", "0"], "workers=0")],
)
def test_mistakes_on_the_command_line(lengths: Path, tmp_path: Path, options: list[str], text: str) -> None:
    source = parquet(tmp_path / "d.parquet", rows(3))
    given = [str(lengths), str(source), "--out", str(tmp_path / "out"), "--column", "scale=größe", *options]
    done = CliRunner().invoke(app, ["batch", *given])
    assert done.exit_code == 2
    assert text in done.output


def test_ray_is_imported_when_it_is_used() -> None:
    code = "import sys, fxlrp; sys.exit(bool({'ray', 'pyarrow', 'PIL.Image', 'filelock'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
