"""Whole data sets: an artefact on every row, by workers, into a folder of Parquet files that can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.keys import read_public_keys
from fxlrp.artifacts.load import load
from fxlrp.datasets.arrow_values import list_result_columns
from fxlrp.datasets.folders import begin_or_resume, copy_dataset, lock_folder, remove_leftovers, stamp_files
from fxlrp.datasets.ray_workers import connect_ray, spread_work
from fxlrp.datasets.samples import DataSource
from fxlrp.datasets.shards import PART_NAME, RowTarget, ShardJob, hash_file, limit_batch_size, list_columns
from fxlrp.datasets.sources import ImageSource, open_source
from fxlrp.errors import ArtifactError, SignatureError, TargetError
from fxlrp.optional import require
from fxlrp.reports.drawing.image_pages import write_page
from fxlrp.reports.terminal import open_stderr_console


def batch(
    artifact: str | Path,
    source: Any,
    out: str | Path,
    *,
    target: RowTarget = None,
    columns: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    png: bool = False,
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
    ``row`` (number in the source, or in the copy of a Ray Dataset), ``file`` (of an image), those in ``keep``,
    ``target`` (the class or index that was explained, also where it was the largest; empty if the artefact does not
    return what it explains), and each result of the artefact as a flat list, with its shape beside it:
    ``np.reshape(row["relevance.x"], row["relevance.x.shape"])``.

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
        keep: Columns of the source that become columns of the results.
        png: Draw every row of a folder of images, and a page of the pictures, ``out/_pictures/index.html``.
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
    check_numbers(batch_size=batch_size, shard=shard, workers=workers, threads=threads)
    if isinstance(keep, str):
        raise SignatureError(f"keep={keep!r} is one name: give a list of them")
    if target is not None and not isinstance(target, (str, int, tuple)):
        raise TargetError(f"target={target!r} is none of: None, a class, an index tuple, the name of a column")
    if not isinstance(source, (str, Path, require("ray.data", "ray").Dataset)):
        raise SignatureError(f"the source is neither a path nor a Ray Dataset but {type(source).__name__}")
    path, out = Path(artifact).resolve(), Path(out).resolve()
    keys = None if key is None else read_public_keys(key)
    about = load(path, allow_native_code=allow_native_code, key=keys).manifest
    limit_batch_size(about, batch_size)
    keep = check_kept(about, keep)
    given = open_files(source, shard, about, keep) if isinstance(source, (str, Path)) else None
    if png and not (isinstance(given, ImageSource) and is_drawable(about)):
        raise SignatureError("png=True (--png) draws images: the source is a folder of them, and the only input")
    chosen = choose_columns(about, columns or {}, target, name_columns(source if given is None else given))
    settings = {
        "artefact": (seal := hash_file(path)),
        "source": "a Ray Dataset" if given is None else str(given.root),
        "files": None if given is None else stamp_files(given),
        "shard": shard,
        "target": target,
        "columns": chosen,
        "keep": keep,
        "png": png,
    }
    if given is not None and out.is_relative_to(given.root):
        raise ArtifactError(f"{out} lies in the source, and would become a part of it: choose another folder")
    with lock_folder(out):
        begin_or_resume(out, json.loads(json.dumps(settings)))
        rows = open_files(copy_dataset(source, out), shard, about, keep) if given is None else given
        job = ShardJob(path, seal, allow_native_code, rows, out, chosen, target, batch_size, shard, png, keys)
        gpu = about.device.startswith("cuda")
        written = run_missing_shards(job, progress, workers=workers, threads=threads, gpu=gpu)
        if png:
            write_page(out, f"{about.model}, rules {about.rules}: {rows.root.name}", about.explained.name)
        return written


def is_drawable(about: Manifest) -> bool:
    """Return whether there is one input, and its relevance has its shape."""
    shapes = [spec.shape for spec in about.outputs if spec.name.startswith("relevance.")]
    return shapes == [spec.shape for spec in about.model_inputs]


def check_numbers(**numbers: int | None) -> None:
    """Refuse numbers of things that are none.

    Raises:
        SignatureError: If there is one.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise SignatureError(f"{name}={number}, but there must be at least 1")


def run_missing_shards(job: ShardJob, progress: bool, *, workers: int, threads: int | None, gpu: bool) -> int:
    """Do the shards that have no file yet."""
    missing = [number for number in job.list_shards() if not (job.out / PART_NAME.format(number)).exists()]
    if not missing:
        return 0
    rows = sum(map(job.count_rows, missing))
    shown = (SpinnerColumn(), *Progress.get_default_columns(), MofNCompleteColumn(), RowRate())
    options: dict[str, Any] = {"transient": True, "disable": not progress, "speed_estimate_period": 600}
    with open_stderr_console() as error, Progress(*shown, console=error, **options) as bar:
        task = bar.add_task("starting Ray", total=job.source.total, completed=job.source.total - rows)
        with connect_ray(min(workers, len(missing)) * (threads or 1)):
            bar.update(task, description="attributing")
            for number in spread_work(job, missing, workers=workers, threads=threads, gpu=gpu):
                bar.advance(task, job.count_rows(number))
    remove_leftovers(job.out)
    return rows


class RowRate(ProgressColumn):
    """How fast it goes, once that is known."""

    def render(self, task: Task) -> Text:
        """Write the rows per second."""
        return Text(f"{task.speed:.1f} rows/s" if task.speed else "", "progress.data.speed")


def open_files(root: str | Path, shard: int, about: Manifest, keep: Sequence[str] = ()) -> DataSource:
    """Open the rows of files."""
    image = about.model_inputs[0]
    channels = image.shape[1] if len(image.shape) == 4 and isinstance(image.shape[1], int) else None
    source = open_source(Path(root).resolve(), shard, channels, 255 if "int" in image.dtype else 1)
    source.keep(keep)
    return source


def name_columns(rows: Any) -> list[str]:
    """List the names of the columns."""
    return rows.columns if isinstance(rows, DataSource) else rows.columns() or []


def check_kept(about: Manifest, keep: Sequence[str]) -> list[str]:
    """Return the columns to keep, each once.

    Raises:
        SignatureError: If one has the name of a column of results.
    """
    if taken_names := [column for column in keep if column in list_result_columns(about)]:
        raise SignatureError(
            f"column {taken_names[0]!r} cannot be kept, as results have one of this name: rename it in the source"
        )
    return list(dict.fromkeys(keep))


def choose_columns(
    about: Manifest, given: Mapping[str, str], target: RowTarget, columns: Sequence[str]
) -> dict[str, str]:
    """Choose the column of each input.

    Raises:
        SignatureError: If an input has none.
    """
    names = [spec.name for spec in about.model_inputs]
    if unknown := sorted(given.keys() - set(names)):
        raise SignatureError(f"columns: there is no input {unknown[0]!r}\n{about.signature()}")
    rest = [column for column in columns if column != target]
    only = rest[0] if len(rest) == len(names) == 1 else None
    chosen = {name: given.get(name, name if name in rest else only or name) for name in names}
    wanted = list_columns(chosen, target)
    if columns and (lost := [column for column in wanted if column not in columns]):  # none: there are no rows either
        raise SignatureError(
            f"there is no column {lost[0]!r}, only {', '.join(map(repr, columns))}: "
            "name the column of each input (columns=, --column NAME=COLUMN)"
        )
    return chosen
