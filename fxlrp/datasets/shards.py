"""The work of a run over a data set: rows in groups through the artefact, one Parquet file per shard."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.artifacts.artifact import Artifact
from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Range
from fxlrp.artifacts.load import load
from fxlrp.datasets.arrow_values import convert_exactly, make_table, read_array, read_row_target
from fxlrp.datasets.samples import DataRow, DataSource
from fxlrp.errors import ArtifactError, FxlrpError, SignatureError
from fxlrp.files import replace_file
from fxlrp.ir.targets import resolve_index
from fxlrp.optional import require
from fxlrp.reports.drawing.image_pages import find_picture_path, write_image

PART_NAME = "part-{:06}.parquet"
"""Name of the results of a shard."""
TRY_NAME = ".try-{:06}"
"""A file with one byte for each worker that began a shard and died."""
MAX_TRIES = 3

RowTarget = str | int | tuple[int | None, ...] | None
"""The name of a column, or what is explained of every row."""


@dataclass(frozen=True)
class Sample:
    """A row as the artefact takes it.

    Attributes:
        row: Where it comes from.
        inputs: By name, without the batch dimension.
        target: Its index or seed, if every row has its own.
    """

    row: DataRow
    inputs: dict[str, Tensor]
    target: Any

    def key(self) -> Hashable:
        """Return the shapes, which samples that run together have in common."""
        tensors = [*self.inputs.values(), *([self.target] if isinstance(self.target, Tensor) else [])]
        return tuple(tuple(tensor.shape) for tensor in tensors)


@dataclass
class ShardJob:
    """What a run does with each shard; workers get a copy.

    Attributes:
        path: The artefact.
        digest: Its SHA-256.
        allow_native_code: As for `load`.
        source: The rows.
        out: Folder of the results.
        columns: Column of each input.
        target: See `fxlrp.batch`.
        batch_size: Most rows that run together.
        shard: Rows per shard.
        png: Whether to draw every row.
        key: As for `load`, in PEM.
    """

    path: Path
    digest: str
    allow_native_code: bool
    source: DataSource
    out: Path
    columns: Mapping[str, str]
    target: RowTarget
    batch_size: int
    shard: int
    png: bool = False
    key: tuple[bytes, ...] | None = None

    @cached_property
    def artifact(self) -> Artifact:
        """Load the artefact, once per process."""
        if hash_file(self.path) != self.digest:
            raise ArtifactError(f"{self.path} was changed during the run")
        return load(self.path, allow_native_code=self.allow_native_code, key=self.key)

    def list_shards(self) -> range:
        """Return the numbers of all shards; an empty source has one, which is empty."""
        return range(max(1, -(-self.source.total // self.shard)))

    def count_rows(self, number: int) -> int:
        """Count the rows of a shard."""
        return min(self.shard, self.source.total - number * self.shard)

    def __call__(self, number: int) -> None:
        """Write the results of a shard.

        Raises:
            SignatureError: Naming the row that cannot be read or does not fit.
            TargetError: Naming the row whose target selects nothing.
            FxlrpError: If the workers that had it before died.
        """
        with count_tries(
            self.out / TRY_NAME.format(number), f"{self.count_rows(number)} rows from {number * self.shard} on"
        ):
            self.write_shard(number)

    def write_shard(self, number: int) -> None:
        """Write the results of a shard, in one try."""
        about = self.artifact.manifest
        most = limit_batch_size(about, self.batch_size)
        names = list_columns(self.columns, self.target)
        waiting: dict[Hashable, list[Sample]] = {}
        done: list[tuple[DataRow, dict[str, Tensor]]] = []
        first = number * self.shard
        for row in self.source.read_rows(first, first + self.count_rows(number), names):
            sample = self.read_sample(row, about)
            group = waiting.setdefault(sample.key(), [])
            group.append(sample)
            if len(group) == most:
                done += self.explain(group)
                group.clear()
        for group in filter(None, waiting.values()):
            done += self.explain(group)
        if len(done) != self.count_rows(number):
            raise SignatureError(
                f"{self.source.root} has {len(done)} rows from {first} on, not {self.count_rows(number)}"
            )
        done.sort(key=lambda one: one[0].number)
        with replace_file(self.out / PART_NAME.format(number)) as new:
            require("pyarrow.parquet", "ray").write_table(
                make_table(done, about, self.source.kept), new, use_dictionary=False
            )

    def read_sample(self, row: DataRow, about: Manifest) -> Sample:
        """Convert a row."""
        inputs: dict[str, Tensor] = {}
        target: Any = None
        for spec in about.model_inputs:
            inputs[spec.name] = convert_value(row, self.columns[spec.name], getattr(torch, spec.dtype))
        if isinstance(self.target, str):
            if about.target == "seed":
                target = convert_value(row, self.target, torch.float64)
            else:
                target = read_row_target(row.values[self.target], len(about.explained.shape) - 1)
        return Sample(replace(row, values={}), inputs, target)

    def explain(self, samples: Sequence[Sample]) -> list[tuple[DataRow, dict[str, Tensor]]]:
        """Run samples together, and say which of them fails if one does."""
        try:
            return self.call_artifact(samples)
        except FxlrpError as error:
            if len(samples) == 1:
                raise type(error)(f"{samples[0].row.place}: {error}") from error
            for sample in samples:
                self.explain([sample])
            raise

    def call_artifact(self, samples: Sequence[Sample]) -> list[tuple[DataRow, dict[str, Tensor]]]:
        """Call the artefact once."""
        about = self.artifact.manifest
        inputs = {name: torch.stack([s.inputs[name] for s in samples]) for name in samples[0].inputs}
        target: Any = self.target
        if isinstance(target, str):
            target = [s.target for s in samples]
            target = torch.stack(target) if isinstance(target[0], Tensor) else target
        given, chosen = self.artifact.prepare((), inputs, target)
        found = self.artifact.compute(given, chosen)
        if about.target == "index":
            y = found.get(about.explained.name)
            found[TARGET] = chosen[TARGET] if y is None else resolve_index(y, chosen[TARGET])
        results = [(s.row, {name: result[i] for name, result in found.items()}) for i, s in enumerate(samples)]
        if self.png:
            self.draw(samples, results)
        return results

    def draw(self, samples: Sequence[Sample], results: Sequence[tuple[DataRow, Mapping[str, Tensor]]]) -> None:
        """Write a picture of each image."""
        for sample, (row, found) in zip(samples, results, strict=True):
            (image,) = sample.inputs.values()
            pixels = image.double() / (1 if image.is_floating_point() else 255)
            (relevance,) = (result for name, result in found.items() if name.startswith("relevance."))
            write_image(find_picture_path(self.out, row.number), pixels.numpy(), relevance.double().numpy())


@contextmanager
def count_tries(path: Path, what: str) -> Iterator[None]:
    """Count the workers that die of a piece of work, which Ray would try again without end."""
    with path.open("ab") as file:
        file.write(b".")
    try:
        if path.stat().st_size > MAX_TRIES:
            raise FxlrpError(
                f"{MAX_TRIES} workers died, one after the other, of the {what}, perhaps for want of memory: "
                "try a smaller batch_size or fewer workers"
            )
        yield
    finally:
        path.unlink(missing_ok=True)


def convert_value(row: DataRow, column: str, dtype: torch.dtype) -> Tensor:
    """Convert one value of a row to a tensor."""
    try:
        return convert_exactly(read_array(row.values[column]), dtype)
    except ValueError as error:
        raise SignatureError(f"{row.place}: column {column!r} {error}") from error


def list_columns(columns: Mapping[str, str], target: RowTarget) -> list[str]:
    """List the columns that inputs and targets come from, each once."""
    return list(dict.fromkeys([*columns.values(), *([target] if isinstance(target, str) else [])]))


def limit_batch_size(about: Manifest, wanted: int) -> int:
    """Return how many rows can run together, at most the wanted number.

    Raises:
        ArtifactError: If a tensor does not count samples in front, so that results cannot be told apart by row, or if
            the artefact does not take a single one.
    """
    shape = about.model_inputs[0].shape
    size = shape[0] if shape else 0
    for spec in (*about.model_inputs, *about.outputs):
        if not spec.shape or spec.shape[0] != size:
            raise ArtifactError(f"the first dimension of '{spec.name}' does not count samples\n{about.signature()}")
    limits = Range(size, size) if isinstance(size, int) else about.sizes.get(size)
    if limits is None or limits.min > 1:
        raise ArtifactError(
            f"the artefact takes batches of {size if isinstance(size, int) else limits or size} only: save it for any, "
            "fxlrp.compile(model, dynamic_shapes='auto').save(...)"
        )
    return min(wanted, limits.max or wanted)


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
