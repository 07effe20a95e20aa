"""Manifests as no one would write them: changes of structure, type and value at random places; the digest fits."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from fxlrp.artifacts.description.manifest_json import DIGEST, compute_digest


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = (
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    2**20,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    float("nan"),
    float("inf"),
)
NAMES = (
    "",
    "x",
    "batch",
    "target",
    "output",
    "relevance.input",
    "objective",
    "index",
    "seed",
    "none",
    "cpu",
    "pt2",
    "onnx",
)
TYPES = ("cuda", "cuda:7", "cuda:-1", "meta", "float32", "int64", "float8_e4m3fn", "qint8", "complex64", "Tensor", "nn")
TEXTS = ("\ud800", "\x1b[31m", "a\nb", "[/red]", "../x", "é" * 2000, "1" * 5000, "(" * 500)
SUMS = (
    "9**9**9",
    "max()",
    "abs(1, 2)",
    "batch // 0",
    "1 << 10**9",
    "-" * 900,
    "batch*" * 600 + "1",
    "batch == batch == 0",
)
PARTS: tuple[Any, ...] = (None, [], {}, [[]] * 3, {"": 1}, ["x"] * 5000, nested(50), nested(300))
ODD: tuple[Any, ...] = (*NUMBERS, *NAMES, *TYPES, *TEXTS, *SUMS, *PARTS)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a description with every key of it."""
    stack = [value]
    while stack:
        found = stack.pop()
        for key in list(found) if isinstance(found, dict) else range(len(found)):
            yield found, key
            if isinstance(found[key], (dict, list)):
                stack.append(found[key])


def mutate(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A manifest, as `json.loads` reads it, with one to three changes; for its digest see `sealed`."""
    manifest = copy.deepcopy(manifest)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change(manifest, rng)
    return manifest


def change(manifest: dict[str, Any], rng: random.Random) -> None:
    """Put something odd or another part into one place, take it away, or add to what it is in."""
    (inside, key), (other, place) = (rng.choice(list(places(manifest))) for _ in range(2))
    new = copy.deepcopy(rng.choice((rng.choice(ODD), other[place])))
    kind = rng.choice(("replace", "replace", "replace", "remove", "add"))
    if kind == "replace":
        inside[key] = new
    elif kind == "remove":
        del inside[key]
    elif isinstance(inside, list):
        inside.insert(key, new)
    else:
        inside[rng.choice((*NAMES, *TEXTS, DIGEST))] = new


def sealed(manifest: dict[str, Any]) -> str:
    """As text, with a digest that fits."""
    content = {name: value for name, value in manifest.items() if name != DIGEST}
    return json.dumps({**content, DIGEST: compute_digest(content)}, indent=1)
