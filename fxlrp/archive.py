"""Archives that are looked through before anything reads them."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fxlrp.errors import ArtifactError


def open_archive(path: Path, allowed: Sequence[str]) -> zipfile.ZipFile:
    """An archive whose members are all expected, stored as they are, and inside one folder.

    Args:
        path: The file.
        allowed: Patterns of the names below that folder.

    Raises:
        ArtifactError: If it is no such archive. Stored members are as large as the file says, so that none can grow.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ArtifactError(f"{path} is no archive, or is cut off: {error}") from error
    try:
        check_members(path, archive, allowed)
    except BaseException:
        archive.close()
        raise
    return archive


def check_members(path: Path, archive: zipfile.ZipFile, allowed: Sequence[str]) -> None:
    """Refuse what torch would not have written."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ArtifactError(f"{path} has two members of one name")
    if len({name.split("/")[0] for name in names}) != 1:
        raise ArtifactError(f"{path} is no artefact: its members are not in one folder")
    for member in members:
        inner = member.filename.partition("/")[2]
        if ".." in inner.split("/") or not any(re.fullmatch(pattern, inner) for pattern in allowed):
            raise ArtifactError(f"{path} has an unexpected member, {member.filename!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ArtifactError(f"{path}: {member.filename!r} is compressed or encrypted, which artefacts are not")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ArtifactError(f"{path}: its members claim to be larger than the file")


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member, by its name below the folder.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        return archive.read(full(archive, name))
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error


def full(archive: zipfile.ZipFile, name: str) -> str:
    """The name of a member with its folder."""
    return f"{archive.namelist()[0].split('/')[0]}/{name}"


def digests(archive: zipfile.ZipFile, without: str) -> dict[str, str]:
    """SHA-256 of every member but one, by its name below the folder."""
    found = {}
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if name != without:
            try:
                with archive.open(member) as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
                raise ArtifactError(f"{name} cannot be read: {error}") from error
    return found
