"""What a data set is: rows with columns, read in ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxlrp.errors import SignatureError


@dataclass(frozen=True)
class DataRow:
    """One sample.

    Attributes:
        number: Its place in the whole source, from 0.
        place: The same in words, with the file.
        file: Name of its own file, if it has one.
        values: Its columns, as the format has them.
        kept: Columns that go into the results, as arrays of Arrow with one entry.
    """

    number: int
    place: str
    file: str | None
    values: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSource:
    """A data set.

    Attributes:
        root: The file or the folder.
        files: Name and size in bytes of each file, in the order of their rows.
        columns: Names of the columns of the first row.
        total: How many rows there are.
        kept: Type of each column that goes into the results.
    """

    root: Path
    files: list[tuple[str, int]]
    columns: list[str]
    total: int
    kept: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def find_path(self, name: str) -> Path:
        """Return where a file is."""
        return self.root / name if self.root.is_dir() else self.root

    def keep(self, columns: Sequence[str]) -> None:
        """Carry columns through to the results.

        Raises:
            SignatureError: If one is missing, or holds what one column of results cannot.
        """
        if self.columns and (lost := [column for column in columns if column not in self.columns]):
            raise SignatureError(f"there is no column {lost[0]!r} to keep, only {', '.join(map(repr, self.columns))}")
        self.kept = self.find_types(columns)

    def find_types(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return the type of Arrow of each of these columns."""
        raise NotImplementedError

    def read_rows(self, first: int, stop: int, columns: Sequence[str]) -> Iterator[DataRow]:
        """Read a range of rows.

        Raises:
            SignatureError: Naming the row or the file that cannot be read, or lacks a column.
        """
        raise NotImplementedError
