"""What an artefact says about itself, and whether what it is given fits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp import clauses
from fxlrp.errors import ArtifactError, SignatureError

VERSION = 2
"""Of this format; another one is refused."""
MEMBER = "extra/fxlrp.json"
"""Its name in an archive."""
DIGEST = "digest"
TARGET = "target"
"""Name of the last input."""

Size = int | str
"""A number, or the name of a size that may change between calls."""


@dataclass(frozen=True)
class Range:
    """The values that a size may take; no end if ``max`` is None."""

    min: int
    max: int | None

    def __str__(self) -> str:
        return f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"


@dataclass(frozen=True)
class Spec:
    """A tensor that goes in or comes out.

    Attributes:
        name: Its name.
        dtype: Name of its torch.dtype.
        shape: Its sizes.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        return f"{self.name}: ({', '.join(map(str, self.shape))}) {self.dtype}"


@dataclass(frozen=True)
class Manifest:
    """The description that every artefact carries.

    Attributes:
        version: Version of this description.
        fxlrp: Version of fxlrp that wrote it.
        torch: Version of torch that wrote it.
        format: ``"pt2"``, ``"aoti"`` or ``"onnx"``.
        device: Where it runs.
        model: Class of the model.
        fingerprint: SHA-256 of the model's tensors.
        parameters: How many numbers they hold.
        rules: Name of the rule set.
        table: The rule set in readable form.
        coverage: Ops of the model (``nodes``), those on a path to the output (``live``), and those of them with a
            rule (``covered``).
        target: ``"index"``, ``"seed"``, or ``"none"`` if there is one output per sample.
        inputs: What it takes, in this order; the target is the last.
        fixed: Arguments of the model that are not tensors, with the value they were captured with.
        outputs: What it returns, in this order: the model's outputs, then relevances, then what was read.
        explained: The output that targets select from.
        sizes: Values that each named size may take.
        conditions: What else holds of them, such as ``(batch % 2) == 0``; of a size of 1 whatever holds for 2.
        parts: SHA-256 of everything else in the artefact, by name.
    """

    version: int
    fxlrp: str
    torch: str
    format: str
    device: str
    model: str
    fingerprint: str
    parameters: int
    rules: str
    table: str
    coverage: dict[str, int]
    target: str
    inputs: tuple[Spec, ...]
    fixed: dict[str, str]
    outputs: tuple[Spec, ...]
    explained: Spec
    sizes: dict[str, Range]
    conditions: tuple[str, ...] = ()
    parts: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """As text, sealed with the digest of all the rest."""
        content = dataclasses.asdict(self)
        return json.dumps({**content, DIGEST: seal(content)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: If it is damaged, or of another version.
        """
        try:
            content = json.loads(text)
            found = content.pop(DIGEST)
            version = content["version"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"the manifest is damaged: {type(error).__name__}: {error}") from error
        if version != VERSION:
            raise ArtifactError(
                f"the artefact has version {version!r}, and this fxlrp reads version {VERSION}: "
                "save it again, or install the fxlrp that wrote it"
            )
        if found != seal(content):
            raise ArtifactError("the manifest was changed after it was written: its digest does not fit")
        try:
            for text in content["conditions"]:
                clauses.check(text)
            return cls(
                **{
                    **content,
                    "inputs": specs(content["inputs"]),
                    "outputs": specs(content["outputs"]),
                    "explained": specs([content["explained"]])[0],
                    "sizes": {name: Range(**limits) for name, limits in content["sizes"].items()},
                    "conditions": tuple(content["conditions"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the manifest is incomplete: {error}") from error

    def check_parts(self, parts: Mapping[str, str]) -> None:
        """Compare the digests of what is there with those that were written down.

        Raises:
            ArtifactError: Naming the first part that is missing, unknown or different.
        """
        for name in sorted(self.parts.keys() | parts.keys()):
            if name not in parts:
                raise ArtifactError(f"{name} is missing from the artefact")
            if name not in self.parts:
                raise ArtifactError(f"{name} was added to the artefact after it was written")
            if self.parts[name] != parts[name]:
                raise ArtifactError(f"{name} was changed after the artefact was written: its SHA-256 does not fit")

    def check_inputs(self, tensors: Mapping[str, Any]) -> dict[str, int]:
        """Check the tensors of a call, without the target, and return the value of each named size.

        Raises:
            SignatureError: If a tensor is missing, unknown, of another dtype or shape, or not finite.
        """
        takes = [spec for spec in self.inputs if spec.name != TARGET]
        names = [spec.name for spec in takes]
        if list(tensors) != names:
            given = ", ".join(tensors) or "nothing"
            raise SignatureError(f"the artefact takes {', '.join(names)}, not {given}\n{self.signature()}")
        sizes: dict[str, int] = {}
        for spec in takes:
            tensor = tensors[spec.name]
            if not isinstance(tensor, Tensor):
                raise SignatureError(f"'{spec.name}' must be a tensor, not {type(tensor).__name__}\n{self.signature()}")
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype != spec.dtype or tensor.layout is not torch.strided:
                raise SignatureError(f"'{spec.name}' must be of {spec.dtype}, not {dtype}\n{self.signature()}")
            if not self.matches(spec, tuple(tensor.shape), sizes):
                raise SignatureError(
                    f"'{spec.name}' has shape {tuple(tensor.shape)}, which does not fit\n{self.signature()}"
                )
            if tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any()):
                raise SignatureError(f"'{spec.name}' has NaN or +inf in it; clean it before explaining")
        self.check_sizes({spec.name: (spec, tuple(tensors[spec.name].shape)) for spec in takes}, sizes)
        return sizes

    def check_sizes(self, shapes: Mapping[str, tuple[Spec, tuple[int, ...]]], sizes: Mapping[str, int]) -> None:
        """Check the sizes that are computed of others, and the conditions.

        Raises:
            SignatureError: If one does not hold.
        """
        for name, (spec, shape) in shapes.items():
            for n, size in zip(shape, spec.shape, strict=True):
                if isinstance(size, str) and size not in sizes and clauses.value(size, sizes) not in (n, None):
                    raise SignatureError(f"'{name}' has shape {shape}, which does not fit\n{self.signature()}")
        doubled = {name: max(2, n) for name, n in sizes.items()}  # one sample was compared when this was saved
        for text in self.conditions:
            if not clauses.value(text, doubled):
                raise SignatureError(f"the program holds where {text}, not for {dict(sizes)}\n{self.signature()}")

    def matches(self, spec: Spec, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        """Whether a shape fits; remembers what named sizes stand for."""
        if len(shape) != len(spec.shape):
            return False
        for n, size in zip(shape, spec.shape, strict=True):
            if isinstance(size, int):
                fits = n == size
            else:
                limits = self.sizes.get(size)  # none: a size computed of others, which the program checks
                fits = limits is None or (
                    sizes.setdefault(size, n) == n and limits.min <= n and (limits.max is None or n <= limits.max)
                )
            if not fits:
                return False
        return True

    def explained_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the explained output; a size computed of others has no end here, and the program checks it."""
        return tuple(size if isinstance(size, int) else sizes.get(size, sys.maxsize) for size in self.explained.shape)

    def most_entries(self) -> int | None:
        """How many numbers the largest input can have; None if a size has no end that is known here."""
        sizes = {name: limits.max for name, limits in self.sizes.items()}
        ends = [[size if isinstance(size, int) else sizes.get(size) for size in spec.shape] for spec in self.inputs]
        known = [[end for end in shape if end is not None] for shape in ends]
        return max(map(math.prod, known), default=0) if known == ends else None

    def at_most(self, name: str, largest: int) -> Manifest:
        """The same for smaller values of a size.

        Raises:
            SignatureError: If there is no such size, or it would have no value.
        """
        limits = self.range(name)
        if largest < limits.min:
            raise SignatureError(f"{name} is {limits}, so not at most {largest}")
        limits = Range(limits.min, largest if limits.max is None else min(largest, limits.max))
        return dataclasses.replace(self, sizes={**self.sizes, name: limits})

    def range(self, name: str) -> Range:
        """The values of a size.

        Raises:
            SignatureError: If there is no such size.
        """
        if name not in self.sizes:
            raise SignatureError(f"the artefact has no size '{name}' that may change\n{self.signature()}")
        return self.sizes[name]

    def signature(self) -> str:
        """What it takes."""
        lines = ["It takes", *(f"  {spec}" for spec in self.inputs)]
        lines += [f"  {name} is {limits}" for name, limits in self.sizes.items()]
        lines += [f"  where {text}" for text in self.conditions]
        lines += [f"  {name} was fixed as {value}" for name, value in self.fixed.items()]
        return "\n".join(lines)


def specs(found: Sequence[Mapping[str, Any]]) -> tuple[Spec, ...]:
    """Read descriptions of tensors."""
    return tuple(Spec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in found)


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a description."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
