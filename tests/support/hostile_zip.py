"""Archives whose directory does not say what is in them, or says it twice."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

Members = dict[str, bytes]
"""Contents by name below the one folder."""
LIMITS = (0, 1, 7, 0xFFFF, 0xFFFFFFFF)
NAMES = (
    "../canary", "/canary", "a/../../canary", "..\\canary", "base/\0x", "base/" + "x" * 5000, "base/ü", "", "base/",
    "base//extra/fxlrp.json", "base/./models/model.json", "BASE/models/model.json", "base/data/weights/weight_99",
    "base/extra/other.py", "base/.data/serialization_id", "base/data/sample_inputs/model.pt",
)  # fmt: skip


@dataclass
class Entry:
    """One member as its own header and the directory tell of it; None for what is true."""

    name: bytes
    data: bytes
    local_name: bytes | None = None
    local_size: int | None = None
    central_size: int | None = None
    crc: int | None = None
    method: int = 0
    flags: int = 0
    offset: int | None = None
    extra: bytes = b""
    descriptor: bytes = b""


def read(content: bytes) -> Members:
    """The members of a good archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def entries(members: Members) -> list[Entry]:
    return [Entry(f"base/{name}".encode(), data) for name, data in members.items()]


def pack(found: Sequence[Entry], end: Callable[[int, int, int], bytes] | None = None, prefix: bytes = b"") -> bytes:
    """An archive of entries, with the usual end or one made of their number, the directory's size and place."""
    body, directory = bytearray(prefix), bytearray()
    for entry in found:
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        name = entry.name if entry.local_name is None else entry.local_name
        inside = len(entry.data) if entry.local_size is None else entry.local_size
        told = len(entry.data) if entry.central_size is None else entry.central_size
        offset = len(body) if entry.offset is None else entry.offset
        shared = struct.pack("<HHHHH", 20, entry.flags, entry.method, 0, 33)
        directory += b"PK\1\2" + struct.pack("<H", 20) + shared
        directory += struct.pack("<IIIHHHHHII", crc, told, told, len(entry.name), len(entry.extra), 0, 0, 0, 0, offset)
        directory += entry.name + entry.extra
        sizes = (0, 0, 0) if entry.descriptor else (crc, inside, inside)
        body += b"PK\3\4" + shared + struct.pack("<IIIHH", *sizes, len(name), 0) + name + entry.data + entry.descriptor
    return bytes(body + directory) + (end or ending)(len(found), len(directory), len(body))


def ending(number: int, size: int, place: int, comment: bytes = b"") -> bytes:
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, number, number, size, place & 0xFFFFFFFF, len(comment)) + comment


def wrong_end(members: Members, rng: Random) -> bytes:
    """A number or a place that is not true."""

    def end(number: int, size: int, place: int) -> bytes:
        values = [number, size, place]
        values[rng.randrange(3)] += rng.choice((-1, 1, -46, 46, 1000, -1000))
        return ending(max(values[0], 0) & 0xFFFF, max(values[1], 0), max(values[2], 0))

    return pack(entries(members), end)


def commented(members: Members, rng: Random) -> bytes:
    """A comment that is another end, or that is shorter than it says."""
    inner = rng.choice((ending(0, 0, 0), b"PK\5\6", b"x" * 70000, pack([])))
    return pack(entries(members), lambda *values: ending(*values, comment=inner[:65535])) + rng.choice((b"", inner))


def twice(members: Members, rng: Random) -> bytes:
    """Two archives in one file, the end of one with the directory of the other."""
    other = dict(members)
    name = rng.choice(sorted(other))
    other[name] = rng.choice((b"", b"{}", other[name][::-1], rng.randbytes(len(other[name]))))
    first, second = pack(entries(other)), pack(entries(members))
    end = bytearray(second[-22:])
    if rng.random() < 0.5:
        end = bytearray(first[-22:])
    return first[: rng.choice((-22, len(first)))] + second[:-22] + bytes(end)


def large(members: Members, rng: Random) -> bytes:
    """The records of archives beyond 4 GiB, true or not."""

    def end(number: int, size: int, place: int) -> bytes:
        wrong = rng.choice((0, 0, 1, -30, 2**40, -place))
        record = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, number, number, size, max(place + wrong, 0))
        where = place + size + rng.choice((0, 0, 5, 2**40))
        locator = b"PK\6\7" + struct.pack("<IQI", 0, where, 1)
        classic = ending(number, size, place) if rng.random() < 0.5 else ending(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        return b"PK\6\6" + record + locator + classic

    return pack(entries(members), end)


def wrong_entry(members: Members, rng: Random) -> bytes:
    """One member of which the directory and its own header say different things."""
    found = entries(members)
    at = rng.randrange(len(found))
    entry, size = found[at], len(found[at].data)
    other = rng.choice(found)
    sizes = (*LIMITS, size + 1, max(size - 1, 0), size // 2)
    changes: list[dict[str, object]] = [
        {"local_name": other.name},
        {"local_name": b"base/other"},
        {"local_size": rng.choice(sizes)},
        {"central_size": rng.choice(sizes)},
        {"crc": rng.getrandbits(32)},
        {"method": rng.choice((8, 12, 14, 99, 1))},
        {"flags": rng.choice((1, 8, 0x40, 0x800, 0x2000))},
        {"offset": rng.choice((0, 1, 30, 2**31, 0xFFFFFFFF))},
        {"extra": struct.pack("<HHQQ", 1, 16, rng.choice((size, 2**40)), size), "central_size": 0xFFFFFFFF},
        {"extra": rng.choice((b"\1", b"\1\0\xff\xff", rng.randbytes(30)))},
        {"flags": 8, "descriptor": struct.pack("<4sIII", b"PK\7\x08", zlib.crc32(entry.data), size, size)},
        {"data": zlib.compress(entry.data)[2:-4], "method": 8},
    ]
    found[at] = replace(entry, **rng.choice(changes))  # type: ignore[arg-type]
    return pack(found)


def overlapping(members: Members, rng: Random) -> bytes:
    """Two members in one place."""
    found = entries(members)
    one, other = rng.sample(range(len(found)), 2)
    sizes = [30 + len(entry.name) + len(entry.data) for entry in found]
    found[one] = replace(found[one], offset=sum(sizes[:other]))
    return pack(found)


def strangely_named(members: Members, rng: Random) -> bytes:
    """A member more, of another name or of one that there is; or one of two folders."""
    found = entries(members)
    name = rng.choice((*NAMES, rng.choice(found).name.decode(), "other/byteorder"))
    new = Entry(name.encode(), rng.choice((b"", b"{}", rng.choice(found).data)))
    found.insert(rng.randrange(len(found) + 1), new)
    return pack(found)


def surrounded(members: Members, rng: Random) -> bytes:
    """Bytes before, behind or between."""
    junk = rng.choice((b"\0", b"#!/bin/sh\n", b"\x7fELF", b"PK\3\4", rng.randbytes(1000)))
    if rng.random() < 0.3:
        return pack(entries(members)) + junk
    return pack(entries(members), prefix=junk) if rng.random() < 0.5 else junk + pack(entries(members))


def shuffled(members: Members, rng: Random) -> bytes:
    """A good archive with its members in another order."""
    found = entries(members)
    rng.shuffle(found)
    return pack(found)


FLAWS = (
    wrong_end, commented, twice, large, wrong_entry, wrong_entry, wrong_entry, overlapping, strangely_named, surrounded,
    shuffled,
)  # fmt: skip


def flawed(members: Members, rng: Random) -> bytes:
    """An archive with one of these flaws."""
    return rng.choice(FLAWS)(members, rng)
