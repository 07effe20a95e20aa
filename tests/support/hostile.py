"""Files that a stranger could have made of a good artefact, sealed anew so that only a look at them can tell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from random import Random

import hostile_graph
import hostile_manifest
import hostile_onnx
from hostile_json import Json, scramble
from hostile_zip import Members, entries, flawed, pack, read

from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER
from fxlrp.artifacts.description.manifest_json import DIGEST, compute_digest

MODEL = "models/model.json"
CONFIGS = tuple(f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants"))
SEALED = 0.85
"""Share of files whose digests fit."""


def mutations(content: bytes, rng: Random) -> tuple[str, bytes]:
    """A kind of mutation, and a file that it makes of a valid archive."""
    kind = rng.choice(sorted(KINDS))
    return kind, KINDS[kind](content, rng)


def sealed(members: Members, rng: Random | None = None) -> Members:
    """The members with a manifest that fits, or mostly, if there is one."""
    if rng is not None and rng.random() > SEALED:
        return members
    try:
        about = dict(json.loads(members[MANIFEST_MEMBER]))
    except (KeyError, ValueError, TypeError, RecursionError):
        return members
    about.pop(DIGEST, None)
    about["parts"] = {
        name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != MANIFEST_MEMBER
    }
    return {**members, MANIFEST_MEMBER: written({**about, DIGEST: compute_digest(about)})}


def written(value: Json) -> bytes:
    return json.dumps(value, indent=1).encode("utf-8", "surrogatepass")


def in_json(name: str, change: Callable[[Json, Random], object]) -> Callable[[Members, Random], Members]:
    """A change of one member that is JSON."""

    def changed(members: Members, rng: Random) -> Members:
        value = json.loads(members[name])
        change(value, rng)
        return {**members, name: written(value)}

    return changed


def reweigh(members: Members, rng: Random) -> Members:
    """Weights that are elsewhere, of other sizes, strides or types, pickled, cut off, or not there."""
    name = rng.choice([name for name in CONFIGS if name in members])
    payload = [n for n in members if n.startswith(name.rpartition("/")[0]) and n != name]
    if payload and rng.random() < 0.25:
        at = rng.choice(payload)
        data = members[at]
        changed = (
            b"",
            data[:-1],
            data + b"\0" * 64,
            rng.randbytes(len(data)),
            b"\x80\x02cos\nsystem\n(S'touch canary'\ntR.",
        )
        return {**members, at: rng.choice(changed)}
    return in_json(name, scramble)(members, rng)


def rearrange(members: Members, rng: Random) -> Members:
    """Members added, removed, renamed, exchanged, or with other contents."""
    names = sorted(members)
    one, other = rng.sample(names, 2)
    data = rng.choice((b"", b"{}", b"[" * 10**5, b"null", rng.randbytes(200), members[other]))
    return rng.choice(
        (
            {name: content for name, content in members.items() if name != one},
            {**members, rng.choice(("extra/x.py", "../canary", "data/weights/weight_99", "models/other.json")): data},
            {other if name == one else name: content for name, content in members.items()},
            {**members, one: members[other], other: members[one]},
            {**members, one: data},
            {**members, one: members[one][: rng.randrange(len(members[one]) + 1)]},
        )
    )


def remanifest(members: Members, rng: Random) -> Members:
    """A manifest that says other things."""
    return in_json(MANIFEST_MEMBER, rng.choice((scramble, hostile_manifest.change)))(members, rng)


def damage(content: bytes, rng: Random) -> bytes:
    """Bytes changed, lost, or moved."""
    changed = bytearray(content)
    how = rng.randrange(3)
    if how == 0:
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif how == 1:
        del changed[rng.randrange(len(changed)) :]
    else:
        a, b = sorted(rng.randrange(len(changed)) for _ in range(2))
        changed[a : a + 50], changed[b : b + 50] = changed[b : b + 50], changed[a : a + 50]
    return bytes(changed)


def of_members(change: Callable[[Members, Random], Members]) -> Callable[[bytes, Random], bytes]:
    """A file whose members are changed and sealed."""
    return lambda content, rng: pack(entries(sealed(change(read(content), rng), rng)))


def of_model(change: Callable[[Json, Random], object]) -> Callable[[bytes, Random], bytes]:
    """A file whose graph is changed."""
    return of_members(in_json(MODEL, change))


KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "bytes": damage,
    "zip": lambda content, rng: flawed(sealed(read(content)), rng),
    "members": of_members(rearrange),
    "manifest": of_members(remanifest),
    "weights": of_members(reweigh),
    "graph": of_model(scramble),
    "targets": of_model(hostile_graph.retarget),
    "arguments": of_model(hostile_graph.readdress),
    "indices": of_model(hostile_graph.forge),
    "intruders": of_model(hostile_graph.intrude),
    "names": of_model(hostile_graph.rename),
    "order": of_model(hostile_graph.reorder),
    "tensors": of_model(hostile_graph.describe),
    "sizes": of_model(hostile_graph.resize),
    "trees": of_model(hostile_graph.respecify),
}
"""What is changed of a ``.pt2`` file."""

PACKAGES = {kind: KINDS[kind] for kind in ("bytes", "zip", "members", "manifest")}
"""The same of a package of machine code."""


def models(content: bytes, rng: Random) -> tuple[str, bytes]:
    """A kind of mutation, and a file that it makes of a valid ONNX file."""
    if rng.random() < 0.1:
        return "bytes", damage(content, rng)
    return "messages", hostile_onnx.mutations(content, rng)


def packages(content: bytes, rng: Random) -> tuple[str, bytes]:
    """A kind of mutation, and a file that it makes of a valid package."""
    kind = rng.choice(sorted(PACKAGES))
    return kind, PACKAGES[kind](content, rng)


MUTATIONS = {"pt2": mutations, "aoti": packages, "onnx": models}
"""What is changed of a file, by format."""
