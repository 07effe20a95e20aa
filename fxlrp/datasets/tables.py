"""Data sets of named columns: Parquet files and JSON lines."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from fxlrp.datasets.samples import DataRow, DataSource
from fxlrp.errors import SignatureError
from fxlrp.optional import require

LINES_AT_A_TIME = 4096
"""Lines whose types are looked at together."""


@dataclass
class ParquetSource(DataSource):
    """Files whose columns are numbers, or lists of them to any depth, or tensors of Ray or Arrow."""

    starts: list[int] = field(default_factory=list)
    cursor: tuple[int, int, Iterator[Any]] | None = None
    """File, first row that was not read yet, and the rest of the file's rows."""

    @classmethod
    def open(cls, root: Path, files: list[tuple[str, int]]) -> ParquetSource:
        """Read the footers of the files."""
        found = cls(root, files, [], 0)
        found.columns = found.open_file(files[0][0]).schema_arrow.names
        found.starts = [0, *accumulate(found.open_file(name).metadata.num_rows for name, _ in files)]
        found.total = found.starts[-1]
        return found

    def open_file(self, name: str) -> Any:
        """Open a file."""
        parquet = require("pyarrow.parquet", "ray")
        try:
            return parquet.ParquetFile(self.find_path(name), page_checksum_verification=True)
        except list_arrow_errors() as error:
            raise SignatureError(f"{self.find_path(name)} is no Parquet file, or is damaged: {error}") from error

    def find_types(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return the types in the first file; other files are converted to them."""
        schema = self.open_file(self.files[0][0]).schema_arrow
        return {column: schema.field(column).type for column in columns}

    def read_rows(self, first: int, stop: int, columns: Sequence[str]) -> Iterator[DataRow]:
        """Read a range of rows, from where the last one ended if it begins there."""
        while first < stop:
            at = bisect_right(self.starts, first) - 1
            name, end = self.files[at][0], min(stop, self.starts[at + 1])
            if self.cursor is None or self.cursor[0] != at or self.cursor[1] > first:
                self.cursor = at, first, self.read_batches(at, first, columns)
            rest = self.cursor[2]
            for number, values, kept, i in rest:
                self.cursor = at, number + 1, rest
                if number >= first:
                    place = f"row {number} (row {number - self.starts[at]} of {self.find_path(name)})"
                    ones = {column: array.slice(i, 1) for column, array in kept.items()}
                    yield DataRow(number, place, None, {column: values.column(column)[i] for column in columns}, ones)
                if number + 1 >= end:
                    break
            first = end

    def read_batches(
        self, at: int, first: int, columns: Sequence[str]
    ) -> Iterator[tuple[int, Any, dict[str, Any], int]]:
        """Read the rows of a file from the row group on that has the first one.

        That is: number, batch, columns of the batch that go into the results, place in the batch.
        """
        name, _ = self.files[at]
        file = self.open_file(name)
        wanted = list(dict.fromkeys([*columns, *self.kept]))
        if missing := sorted(set(wanted) - set(file.schema_arrow.names)):
            raise SignatureError(f"row {first}: {self.find_path(name)} has no column {missing[0]!r}")
        sizes = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        begins = list(accumulate(sizes, initial=self.starts[at]))
        group = bisect_right(begins, first) - 1
        number, groups = begins[group], list(range(group, file.num_row_groups))
        try:
            for values in file.iter_batches(batch_size=256, row_groups=groups, columns=wanted):
                kept = {column: cast_array(values.column(column), kind) for column, kind in self.kept.items()}
                for i in range(len(values)):
                    yield number, values, kept, i
                    number += 1
        except list_arrow_errors() as error:
            raise SignatureError(f"row {number}: {self.find_path(name)} cannot be read: {error}") from error


@dataclass
class LinesSource(DataSource):
    """A file with one JSON object per line; blank lines do not count."""

    shard: int = 1
    marks: list[tuple[int, int]] = field(default_factory=list)
    """Offset and line number of the first row of each shard."""

    @classmethod
    def open(cls, root: Path, shard: int) -> LinesSource:
        """Find where shards begin."""
        found = cls(root, [(root.name, root.stat().st_size)], [], 0, shard)
        offset = 0
        with root.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    if found.total % shard == 0:
                        found.marks.append((offset, number))
                    found.total += 1
                offset += len(line)
        if found.total:
            found.columns = list(next(found.read_rows(0, 1, ())).values)
        return found

    def find_types(self, columns: Sequence[str]) -> dict[str, Any]:
        """Find types that hold the values of all lines, which are read for this."""
        arrow = require("pyarrow", "ray")
        found = dict.fromkeys(columns, arrow.null())
        rows = self.read_rows(0, self.total, columns) if columns else iter(())
        while some := list(islice(rows, LINES_AT_A_TIME)):
            for column in columns:
                try:
                    new = arrow.array([row.values[column] for row in some]).type
                    schemas = [arrow.schema({column: kind}) for kind in (found[column], new)]
                    found[column] = arrow.unify_schemas(schemas, promote_options="permissive").field(column).type
                except list_arrow_errors() as error:
                    place = f"rows {some[0].number} to {some[-1].number} of {self.root}"
                    raise SignatureError(
                        f"{place}: column {column!r} cannot be kept, as its values are of several types: {error}"
                    ) from error
        return found

    def read_rows(self, first: int, stop: int, columns: Sequence[str]) -> Iterator[DataRow]:
        """Read a range of rows that begins where a shard does."""
        offset, number = self.marks[first // self.shard] if first < stop else (0, 1)
        with self.root.open("rb") as file:
            file.seek(offset)
            while first < stop:
                line = file.readline()
                place = f"row {first} (line {number} of {self.root})"
                if not line:
                    raise SignatureError(f"{place} is missing: the file has become shorter")
                if line.strip():
                    values = parse_line(line, place, [*columns, *self.kept])
                    yield DataRow(first, place, None, values, self.convert_kept(values, place))
                    first += 1
                number += 1

    def convert_kept(self, values: dict[str, Any], place: str) -> dict[str, Any]:
        """Convert the columns of a row that go into the results."""
        arrow = require("pyarrow", "ray")
        try:
            return {column: arrow.array([values[column]], kind) for column, kind in self.kept.items()}
        except list_arrow_errors() as error:
            raise SignatureError(f"{place} has a value that cannot be kept: {error}") from error


def cast_array(array: Any, kind: Any) -> Any:
    """Convert an array of Arrow to a type, unless it has it."""
    return array if array.type == kind else array.cast(kind)


def list_arrow_errors() -> tuple[type[Exception], ...]:
    """List what Arrow raises for damaged files."""
    return require("pyarrow", "ray").ArrowException, OSError, ValueError


def parse_line(line: bytes, place: str, columns: Sequence[str]) -> dict[str, Any]:
    """Parse the object in a line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"{place} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SignatureError(f"{place} is no JSON object with a column for each key")
    if missing := [column for column in columns if column not in found]:
        raise SignatureError(f"{place} has no column {missing[0]!r}")
    return found
