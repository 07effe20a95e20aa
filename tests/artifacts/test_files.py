"""Saving: a whole file or the old one, an error that says what to do, and nothing left behind."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp import ArtifactError
from fxlrp.files import defer_errors, replace_file

LIMIT = 2**21
X = torch.ones(2, 8)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A limit of the process on its files, which meets every writer as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def small() -> fxlrp.Attributor:
    torch.manual_seed(0)
    return fxlrp.compile(nn.Linear(8, 3).eval())


@pytest.fixture(scope="module")
def large() -> fxlrp.Attributor:
    """Its weights take 4 MB."""
    torch.manual_seed(0)
    return fxlrp.compile(nn.Sequential(nn.Linear(8, 2**16), nn.ReLU(), nn.Linear(2**16, 8)).eval())


@pytest.mark.parametrize(("name", "sizes"), [("model.pt2", [0, 1000, LIMIT]), ("model.onnx", [LIMIT])])
def test_a_full_disk(
    small: fxlrp.Attributor, large: fxlrp.Attributor, tmp_path: Path, name: str, sizes: list[int]
) -> None:
    path = small.save(tmp_path / name, X)
    before = path.read_bytes()
    for size in sizes:
        text = rf"{name} was not written: File too large; free some space"
        with pytest.raises(ArtifactError, match=text), no_file_beyond(size):
            large.save(path, X)
        assert path.read_bytes() == before
        assert tree(tmp_path) == {name}
    assert torch.equal(fxlrp.load(path)(X, target=1).relevance, small(X, target=1).relevance)


def test_a_disk_with_space_again(small: fxlrp.Attributor, large: fxlrp.Attributor, tmp_path: Path) -> None:
    path = small.save(tmp_path / "model.pt2", X)
    large.save(path, X)
    assert path.stat().st_size > LIMIT
    assert tree(tmp_path) == {"model.pt2"}


def folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.write_bytes(b"")


def to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "none" / "model.pt2")


def to_itself(path: Path) -> None:
    path.symlink_to(path)


def device(number: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(number)


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("model.pt2", folder, "is a folder: give the name of a file in it"),
        ("none/model.pt2", lambda path: None, "there is no folder"),
        ("file/model.pt2", below_a_file, "there is no folder"),
        ("model.pt2", to_nowhere, "there is no folder .*none"),
        ("model.pt2", to_itself, "its symbolic links lead nowhere"),
        ("model.pt2", device("/dev/null"), "is a device"),
        ("model.pt2", device("/dev/full"), "is a device"),
        ("model.pt2", os.mkfifo, "a pipe"),
        ("m" * 300 + ".pt2", lambda path: None, "File name too long; choose a shorter name"),
        ("mo\0del.pt2", lambda path: None, "null byte"),
    ],
)
def test_places_that_take_no_file(
    small: fxlrp.Attributor, tmp_path: Path, name: str, make: Callable[[Path], None], text: str
) -> None:
    make(tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=text):
        small.save(tmp_path / name, X)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("denied", ["mkdtemp", "replace", "fsync", "access"])
def test_folders_and_files_that_must_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    """Permissions do not bind every user who runs tests."""
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    places = {"mkdtemp": "fxlrp.files.tempfile.mkdtemp", "replace": "pathlib.Path.replace", "fsync": "os.fsync"}
    if denied == "access":
        monkeypatch.setattr("os.access", lambda *_: False)
    else:
        monkeypatch.setattr(places[denied], deny)
    text = "protected from writing" if denied == "access" else "Permission denied; choose a place that you may"
    with pytest.raises(ArtifactError, match=text), replace_file(path) as new:
        new.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert tree(tmp_path) == {"model.pt2"}


def test_unusual_names_and_links(small: fxlrp.Attributor, tmp_path: Path) -> None:
    """A link is followed, and stays one, also if there is no file behind it yet."""
    for name in ("ünï 模型.pt2", "m" * 251 + ".pt2", "- x\n.pt2"):
        assert fxlrp.load(small.save(tmp_path / name, X))(X, target=1).relevance.shape == X.shape
        (tmp_path / name).unlink()
    (tmp_path / "data").mkdir()
    link = tmp_path / "model.pt2"
    link.symlink_to(Path("data") / "real.bin")
    for _ in range(2):
        small.save(link, X)
        assert link.is_symlink()
        assert fxlrp.load(link)(X, target=1).relevance.shape == X.shape
        assert tree(tmp_path) == {"data", "data/real.bin", "model.pt2"}


def test_permissions(tmp_path: Path) -> None:
    """Those of the old file; those of any new file if there is none."""
    path, other = tmp_path / "model.pt2", tmp_path / "other"
    other.touch()
    for mode in (stat.S_IMODE(other.stat().st_mode), 0o640, 0o604):
        with replace_file(path) as new:
            new.write_bytes(b"content")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
        path.chmod(mode)
        other.chmod(mode)


def test_a_hundred_savers_of_one_file(tmp_path: Path) -> None:
    """Whoever reads meanwhile sees a whole file; at the end there is one, of one of them."""
    path, seen = tmp_path / "model.pt2", set()

    def save(number: int) -> None:
        content = bytes([number]) * 2**16
        with replace_file(path) as new, new.open("wb") as file:
            for part in range(0, len(content), 2**12):
                file.write(content[part : part + 2**12])
        seen.add(path.read_bytes())

    threads = [threading.Thread(target=save, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(len(content), len(set(content))) for content in seen} == {(2**16, 1)}
    assert path.read_bytes() in seen
    assert tree(tmp_path) == {"model.pt2"}


def test_errors_are_held_until_the_writer_is_done(tmp_path: Path) -> None:
    part, done = memoryview(b"x" * 2**16), []
    with (tmp_path / "file").open("w+b") as file:
        with pytest.raises(OSError, match="File too large"), no_file_beyond(100), defer_errors(file) as held:
            done += [held.write(part) for _ in range(5)]
        assert done == [2**16] * 5
