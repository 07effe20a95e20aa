"""Folders of results: whose they are, what they were made of, and going on in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fxlrp.datasets.ray_workers import silence_ray
from fxlrp.datasets.samples import DataSource
from fxlrp.errors import ArtifactError, SignatureError
from fxlrp.files import replace_file
from fxlrp.optional import require
from fxlrp.reports.drawing.image_pages import FOLDER

RUN, LOCK, COPY = "_run.json", ".lock", "_source"
"""What a run was made of, who has the folder, rows of a Ray Dataset; readers of Parquet leave such names out."""
LEFTOVERS = (".part-*", ".try-*", f".{RUN}.*", f".{COPY}", f"{FOLDER}/.*")
"""Of runs that were killed while they wrote."""


def stamp_files(source: DataSource) -> dict[str, list[int]]:
    """Return the size in bytes and the time of change in nanoseconds of each file."""
    return {name: [size, source.find_path(name).stat().st_mtime_ns] for name, size in source.files}


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Keep other runs away from a folder, which is made if there is none."""
    filelock = require("filelock", "ray")
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file: give a folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ArtifactError(f"another run is writing to {out}: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def begin_or_resume(out: Path, settings: Mapping[str, Any]) -> None:
    """Begin in an empty folder, or go on in that of an equal run."""
    remove_leftovers(out)
    path = out / RUN
    if not path.exists():
        if others := sorted(other.name for other in out.iterdir() if other.name != LOCK):
            raise ArtifactError(f"{out} holds {others[0]!r}, which no run over a data set wrote: choose another folder")
        with replace_file(path) as new:
            new.write_text(json.dumps(settings, indent=1))
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: choose another folder") from error
    for name, value in settings.items():
        if before.get(name) != value:
            difference = f"{name}, was {before.get(name)}, is {value} now"
            if name == "files" and isinstance(value, dict) and isinstance(before.get(name), dict):
                difference = describe_change(before[name], value)
            raise ArtifactError(f"{out} has results of another run: {difference}. Choose another folder")


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which is the first file that is not as it was."""
    name = min(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    how = "is new" if name not in before else "is gone" if name not in now else "was changed"
    return f"the file {name} {how} since it began"


def remove_leftovers(out: Path) -> None:
    """Remove what killed runs have left."""
    for pattern in LEFTOVERS:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def copy_dataset(dataset: Any, out: Path) -> Path:
    """Write the rows of a Ray Dataset into Parquet files, so that their order stays."""
    final, new = out / COPY, out / f".{COPY}"
    if not final.exists():
        with silence_ray():
            dataset.write_parquet(str(new))
        if not any(new.glob("*.parquet")):
            raise SignatureError("the Ray Dataset has no rows")
        new.replace(final)
    return final
