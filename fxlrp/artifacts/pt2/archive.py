"""Archives that are looked through before anything reads them."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fxlrp.errors import ArtifactError

END_RECORD = b"PK\5\6"
"""How the last record of an archive begins, which has 22 bytes if no comment follows."""


def read_file(path: Path) -> bytes:
    """Read all of a file, once: what is checked is what is used, whatever happens to the file meanwhile.

    Raises:
        ArtifactError: If it cannot be read.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise ArtifactError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def open_archive(content: bytes, path: Path) -> zipfile.ZipFile:
    """Open an archive whose members are stored as they are, and inside one folder.

    Args:
        content: All of it.
        path: Where it comes from, for errors.

    Raises:
        ArtifactError: If it is no such archive. Stored members are as large as the file says, so that none can grow.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, struct.error, OverflowError) as error:
        raise ArtifactError(f"{path} is no archive, or is cut off: {error}") from error
    check_layout(archive, content, path)
    return archive


def check_layout(archive: zipfile.ZipFile, content: bytes, path: Path) -> None:
    """Refuse what is laid out as torch would not have written it, and what two readers could read differently."""
    members = archive.infolist()
    if not members or min(m.header_offset for m in members) or content[-22:-18] != END_RECORD:
        raise ArtifactError(f"{path} is no artefact: an archive of fxlrp is the whole file")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ArtifactError(f"{path} has two members of one name")
    if len({name.split("/")[0] for name in names}) != 1:
        raise ArtifactError(f"{path} is no artefact: its members are not in one folder")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ArtifactError(f"{path}: {member.filename!r} is compressed or encrypted, which artefacts are not")
        if member.compress_size != member.file_size:
            raise ArtifactError(f"{path}: {member.filename!r} claims two sizes")
    if sum(member.file_size for member in members) > len(content):
        raise ArtifactError(f"{path}: its members claim to be larger than the file")


def check_members(archive: zipfile.ZipFile, allowed: Sequence[str], path: Path) -> None:
    """Refuse members that a format does not have.

    Args:
        archive: The archive.
        allowed: Patterns of the names below its folder.
        path: Where it comes from, for errors.
    """
    for name in archive.namelist():
        inner = name.partition("/")[2]
        if ".." in inner.split("/") or not any(re.fullmatch(pattern, inner) for pattern in allowed):
            raise ArtifactError(f"{path} has an unexpected member, {name!r}")


def copy_members(archive: zipfile.ZipFile) -> bytes:
    """Copy the members into an archive of our own, which every reader reads alike."""
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as copy:
        for name in archive.namelist():
            copy.writestr(zipfile.ZipInfo(name), read_member(archive, name.partition("/")[2]))
    return new.getvalue()


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member, by its name below the folder.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        return archive.read(find_full_name(archive, name))
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error


def find_full_name(archive: zipfile.ZipFile, name: str) -> str:
    """Return the name of a member with its folder."""
    return f"{archive.namelist()[0].split('/')[0]}/{name}"


def hash_members(archive: zipfile.ZipFile, without: str) -> dict[str, str]:
    """Return the SHA-256 of every member but one, by its name below the folder."""
    names = (name.partition("/")[2] for name in archive.namelist())
    return {name: hashlib.sha256(read_member(archive, name)).hexdigest() for name in names if name != without}
