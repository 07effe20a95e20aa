"""Whole data sets: an artefact on every row, by workers, into a folder of Parquet files that can be gone on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress

from fxlrp.archive import replaced
from fxlrp.errors import ArtifactError, SignatureError, TargetError
from fxlrp.extras import require
from fxlrp.keys import public_keys
from fxlrp.loading import load
from fxlrp.manifest import Manifest
from fxlrp.shards import PART, Job, RowTarget, digest, most_rows, taken
from fxlrp.sources import Source, find
from fxlrp.spread import silent, spread
from fxlrp.terminal import console

RUN, LOCK, COPY = "_run.json", ".lock", "_source"
"""What a run was made of, who has the folder, rows of a Ray Dataset; readers of Parquet leave such names out."""
LEFTOVERS = (".part-*", ".try-*", f".{RUN}.*", f".{COPY}")
"""Of runs that were killed while they wrote."""


def batch(
    artifact: str | Path,
    source: Any,
    out: str | Path,
    *,
    target: RowTarget = None,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 32,
    shard: int = 256,
    workers: int = 1,
    threads: int | None = None,
    allow_native_code: bool = False,
    key: Any = None,
    progress: bool = True,
) -> int:
    """Attribute every row of a data set with a saved artefact; a run that was stopped goes on where it was.

    Rows ``i * shard`` to ``(i + 1) * shard`` become ``out/part-00000i.parquet``, whole or not at all. Its columns are
    ``row`` (number in the source, or in the copy of a Ray Dataset), ``file`` (of an image), and each result of the
    artefact as a flat list, with its shape beside it: ``np.reshape(row["relevance.x"], row["relevance.x.shape"])``.

    On a cluster (``RAY_ADDRESS``, or a Ray that is running already) all paths must be the same on every machine.

    Args:
        artifact: A file of `Attributor.save`.
        source: A ``.parquet`` or ``.jsonl`` file, a folder of Parquet files or of images (PNG, JPEG), or a Ray Dataset,
            which is copied into ``out/_source`` first; to go on, that copy is read, whatever is given then.
        out: Folder of the results.
        target: None (the largest output), a class or index for all rows, or the name of a column that has one per row,
            or a seed if the artefact was saved for seeds.
        columns: Column of each input; by default that of the same name, or the only one there is. A row holds one
            sample, without the batch dimension. Images are numbers from 0 to 1, or to 255 for an input of integers.
        batch_size: Most rows that run together; they have the same shapes.
        shard: Rows per file.
        workers: Processes, each with the artefact in its memory.
        threads: Of torch in each; by default an equal share of the cores.
        allow_native_code: As for `load`.
        key: As for `load`.
        progress: Show a bar.

    Returns:
        How many rows were written, without those of earlier runs.

    Raises:
        ArtifactError: If the artefact cannot be loaded or does not take batches, or if ``out`` is used by another run,
            was made of something else, or holds something else.
        SignatureError: If the source cannot be read, or a row does not fit, naming it; finished shards are kept.
        TargetError: If a row's target selects nothing.
        FxlrpError: If Ray is not installed, or workers die again and again.
    """
    for name, number in (("batch_size", batch_size), ("shard", shard), ("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise SignatureError(f"{name}={number}, but there must be at least 1")
    if target is not None and not isinstance(target, (str, int, tuple)):
        raise TargetError(f"target={target!r} is none of: None, a class, an index tuple, the name of a column")
    if not isinstance(source, (str, Path, require("ray.data", "ray").Dataset)):
        raise SignatureError(f"the source is neither a path nor a Ray Dataset but {type(source).__name__}")
    path, out = Path(artifact).resolve(), Path(out).resolve()
    keys = None if key is None else public_keys(key)
    about = load(path, allow_native_code=allow_native_code, key=keys).manifest
    most_rows(about, batch_size)
    given = opened(source, shard, about) if isinstance(source, (str, Path)) else None
    chosen = columns_of(about, columns or {}, target, names_of(source if given is None else given))
    settings = {
        "artefact": (seal := digest(path)),
        "source": "a Ray Dataset" if given is None else str(given.root),
        "names, sizes and times of the files": None if given is None else fingerprint(given),
        "shard": shard,
        "target": target,
        "columns": chosen,
    }
    if given is not None and out.is_relative_to(given.root):
        raise ArtifactError(f"{out} lies in the source, and would become a part of it: choose another folder")
    with alone(out):
        settle(out, json.loads(json.dumps(settings)))
        rows = opened(copied(source, out), shard, about) if given is None else given
        job = Job(path, seal, allow_native_code, rows, out, chosen, target, batch_size, shard, keys)
        gpu = about.device.startswith("cuda")
        return run(job, progress, workers=workers, threads=threads, gpu=gpu)


def run(job: Job, progress: bool, **resources: Any) -> int:
    """Do the shards that have no file yet."""
    missing = [number for number in job.shards() if not (job.out / PART.format(number)).exists()]
    if not missing:
        return 0
    written = 0
    shown = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*shown, console=console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("attributing", total=job.source.total)
        bar.advance(task, job.source.total - sum(map(job.size, missing)))
        for number in spread(job, missing, **resources):
            written += job.size(number)
            bar.advance(task, job.size(number))
    swept(job.out)
    return written


def opened(root: str | Path, shard: int, about: Manifest) -> Source:
    """The rows of files."""
    image = taken(about)[0]
    channels = image.shape[1] if len(image.shape) == 4 and isinstance(image.shape[1], int) else None
    return find(Path(root).resolve(), shard, channels, 255 if "int" in image.dtype else 1)


def names_of(rows: Any) -> list[str]:
    """Names of the columns."""
    return rows.columns if isinstance(rows, Source) else rows.columns() or []


def fingerprint(source: Source) -> str:
    """Changes with the names, sizes and times of the files."""
    times = [source.path(name).stat().st_mtime_ns for name, _ in source.files]
    return hashlib.sha256(json.dumps([source.files, times]).encode()).hexdigest()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs away from a folder."""
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


def settle(out: Path, settings: Mapping[str, Any]) -> None:
    """Begin in an empty folder, or go on in that of an equal run."""
    swept(out)
    path = out / RUN
    if not path.exists():
        if others := sorted(other.name for other in out.iterdir() if other.name != LOCK):
            raise ArtifactError(f"{out} holds {others[0]!r}, which no run over a data set wrote: choose another folder")
        with replaced(path) as new:
            new.write_text(json.dumps(settings, indent=1))
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: choose another folder") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise ArtifactError(
                f"{out} has results of another run: {name}, was {before.get(name)}, is {value} now. "
                "Choose another folder"
            )


def swept(out: Path) -> None:
    """Remove what killed runs have left."""
    for pattern in LEFTOVERS:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def copied(dataset: Any, out: Path) -> Path:
    """The rows of a Ray Dataset as Parquet files, in an order that stays."""
    final, new = out / COPY, out / f".{COPY}"
    if not final.exists():
        with silent():
            dataset.write_parquet(str(new))
        if not any(new.glob("*.parquet")):
            raise SignatureError("the Ray Dataset has no rows")
        new.replace(final)
    return final


def columns_of(about: Manifest, given: Mapping[str, str], target: RowTarget, columns: Sequence[str]) -> dict[str, str]:
    """The column of each input.

    Raises:
        SignatureError: If an input has none.
    """
    names = [spec.name for spec in taken(about)]
    if unknown := sorted(given.keys() - set(names)):
        raise SignatureError(f"columns: there is no input {unknown[0]!r}\n{about.signature()}")
    rest = [column for column in columns if column != target]
    only = rest[0] if len(rest) == len(names) == 1 else None
    chosen = {name: given.get(name, name if name in rest else only or name) for name in names}
    wanted = [*chosen.values(), *([target] if isinstance(target, str) else [])]
    if columns and (lost := [column for column in wanted if column not in columns]):  # none: there are no rows either
        raise SignatureError(
            f"there is no column {lost[0]!r}, only {', '.join(map(repr, columns))}: "
            "name the column of each input (columns=, --column NAME=COLUMN)"
        )
    return chosen
