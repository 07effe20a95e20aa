"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fxlrp.errors import ArtifactError

FREE_SPACE = "free some space there, or choose another place"
USE_WRITABLE = "choose a place that you may write to"
ADVICE = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: FREE_SPACE,
    errno.EACCES: USE_WRITABLE,
    errno.EPERM: USE_WRITABLE,
    errno.EROFS: USE_WRITABLE,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead nowhere",
}
"""What to do about the errors that users can mend."""
PREFIX_LENGTH = 50
"""Characters of a file's name in that of the folder where it is written: names have an end."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a new file that takes the place of ``path`` when everything has gone well: others see the old or the new.

    It has the same name, in a folder of its own beside the old one, whose permissions it gets.

    Raises:
        ArtifactError: If there can be no such file, or it could not be written. The old one is as it was.
    """
    final = find_destination(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name[:PREFIX_LENGTH]}.", dir=final.parent))
        try:
            new = folder / path.name
            yield new
            move_into_place(new, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise explain_write_error(path, error) from error


def find_destination(path: Path) -> Path:
    """Find where a file of this name will be; symbolic links are followed, whether or not a file is behind them.

    Raises:
        ArtifactError: If there is something else than a file, no folder for it, or a file that must not be changed.
    """
    try:
        final = Path(os.path.realpath(path))
        if not final.parent.is_dir():
            raise ArtifactError(f"{path} cannot be written: there is no folder {final.parent}")
        mode = final.stat().st_mode
    except FileNotFoundError:
        return final
    except (OSError, ValueError) as error:
        raise explain_write_error(path, error) from error
    if stat.S_ISDIR(mode):
        raise ArtifactError(f"{path} is a folder: give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"{path} is a device, a pipe or a socket, which cannot be replaced: give the name of a file"
        )
    if not os.access(final, os.W_OK):
        raise ArtifactError(f"{path} is protected from writing: allow it, or choose another name")
    return final


def move_into_place(new: Path, final: Path) -> None:
    """Put a complete file in place, and make that last."""
    with suppress(FileNotFoundError):
        shutil.copymode(final, new)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(final)
    with suppress(OSError), open_folder(final.parent) as folder:  # not every file system can
        os.fsync(folder)


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder, for its descriptor."""
    folder = os.open(path, os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)


def explain_write_error(path: Path, error: OSError | ValueError) -> ArtifactError:
    """Explain what kept a file from being written, and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ArtifactError(f"{path} was not written: {reason}; {ADVICE.get(number or 0, 'choose another place')}")


class DeferringFile(io.RawIOBase):
    """A file for writers that must not be interrupted, such as torch's, which ends the process if its file is full.

    Errors are kept, and raised when the writer is done. What is written after one is lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Answer as a file that was opened for writing."""
        return True

    def seekable(self) -> bool:
        """Answer as such a file."""
        return True

    def write(self, content: Any) -> int:
        """Write all of it, or remember why not."""
        size = memoryview(content).nbytes
        if self.error is None:
            try:
                self.file.write(content)
            except OSError as error:
                self.error = error
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place in the file."""
        return self.file.seek(offset, whence)


@contextmanager
def defer_errors(file: BinaryIO) -> Iterator[IO[bytes]]:
    """Give a file whose errors are raised at the end.

    Raises:
        OSError: The first one.
    """
    held = DeferringFile(file)
    yield cast(IO[bytes], held)
    if held.error is not None:
        raise held.error
