"""What an artefact says about itself, and how that is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.fields import Check, integer, list_of, mapping_of, one_of, parse_json, record, text
from fxlrp.artifacts.description.specs import (
    IDENTIFIER,
    NAME,
    RANGE,
    RESULT,
    TARGET_KINDS,
    Range,
    Spec,
    check_clause_field,
    check_device,
    find_type_and_rank,
    spec_record,
)
from fxlrp.errors import ArtifactError, SignatureError
from fxlrp.ir.targets import LARGEST

VERSION = 3
"""Of this format; another one is refused."""
MANIFEST_MEMBER = "extra/fxlrp.json"
"""Its name in an archive."""
DIGEST, SIGNED = "digest", "signed"
TARGET = "target"
"""Name of the last input."""
OBJECTIVE = "objective"
"""Name of what is explained if it is computed of the outputs."""
MAX_SAMPLES = 2**20
"""Of a call whose inputs do not count them."""


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
        largest: The number in an index that stands for the largest along its dimension. Others are places, negative
            ones counted from the end; the relevance of a sample whose index is out of range is NaN.
        inputs: What it takes, in this order; the target is the last.
        fixed: Arguments of the model that are not tensors, with the value they were captured with.
        outputs: What it returns, in this order: the model's outputs, then relevances, then what was read.
        explained: The output that targets select from.
        sizes: Values that each named size may take.
        conditions: What else holds of them, such as ``(batch % 2) == 0``; of a size of 1 whatever holds for 2.
        parts: SHA-256 of everything else in the artefact, by name.
        signed: Signature of all the rest by Ed25519, in hexadecimal; empty if there is none.
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
    largest: int
    inputs: tuple[Spec, ...]
    fixed: dict[str, str]
    outputs: tuple[Spec, ...]
    explained: Spec
    sizes: dict[str, Range]
    conditions: tuple[str, ...] = ()
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    signed: str = ""

    def to_json(self) -> str:
        """As text, sealed with the digest of all the rest."""
        content = dataclasses.asdict(self)
        return json.dumps({**content, DIGEST: compute_digest(content)}, indent=1)

    @classmethod
    def from_json(cls, content: str | bytes) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: If it is damaged, of another version, or says what no artefact of fxlrp would, naming the
                field.
        """
        found = parse_json(content)
        if (version := found.get("version")) != VERSION:
            raise ArtifactError(
                f"the artefact has version {reprlib.repr(version)}, and this fxlrp reads version {VERSION}: "
                "save it again, or install the fxlrp that wrote it"
            )
        digest = found.pop(DIGEST, None)
        if digest != compute_digest(found):
            raise ArtifactError("the manifest was changed after it was written: its digest does not fit")
        manifest: Manifest = record(cls, FIELDS)(found, "")
        if wrong := next(chain(manifest.contradictions(), manifest.contradictions_of_sizes()), ""):
            raise ArtifactError(f"the manifest contradicts itself: {wrong}")
        return manifest

    def to_sign(self) -> bytes:
        """What a signature is of: everything but itself, in one way to write it."""
        content = dataclasses.asdict(self)
        del content[SIGNED]
        return write_canonical_json(content)

    def contradictions(self) -> Iterator[str]:
        """What the fields say against each other, in sentences."""
        names, results = [one.name for one in self.inputs], {one.name: one for one in self.outputs}
        takes = names if self.target == "none" else names[:-1]
        if len(set(names)) < len(names) or len(results) < len(self.outputs):
            yield "two inputs or two outputs have one name"
        if not self.explained.shape:
            yield "what it explains has no dimension for samples"
        if not takes or TARGET in takes or names[len(takes) :] not in ([], [TARGET]):
            yield f"its target is {self.target!r}, and its inputs are {', '.join(names) or 'none'}"
        if self.target != "none" and find_type_and_rank(self.inputs[-1]) != TARGET_KINDS[self.target](
            len(self.explained.shape)
        ):
            yield f"its target is {self.target!r}, and that input is {self.inputs[-1]}"
        if results.get(self.explained.name, self.explained) != self.explained:
            yield f"it explains {self.explained}, and returns {results[self.explained.name]}"
        if self.explained.name not in results and self.explained.name != OBJECTIVE:
            yield f"it explains {self.explained.name!r}, which it does not return"

    def contradictions_of_sizes(self) -> Iterator[str]:
        """Likewise, of numbers."""
        seen = {size for one in self.inputs for size in one.shape}
        for name, limits in self.sizes.items():
            if name not in seen:
                yield f"{name} is a size of no input"
            if limits.max is not None and limits.max < limits.min:
                yield f"{name} is {limits}"
        for condition in self.conditions:
            if unknown := sorted(clauses.find_sizes(condition) - self.sizes.keys()):
                yield f"{condition} is of {unknown[0]}, which is no size"
        if not self.coverage["covered"] <= self.coverage["live"] <= self.coverage["nodes"]:
            yield f"its coverage is {self.coverage}"

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

    def explained_shape(self, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
        """Shape of the explained output; None for a size computed of others, which the program knows.

        Raises:
            SignatureError: If the inputs do not tell how many samples there are.
        """
        first, *rest = self.explained.shape
        samples = first if isinstance(first, int) else clauses.evaluate_clause(first, sizes)
        if first not in sizes and (type(samples) is not int or not 0 <= samples <= MAX_SAMPLES):
            raise SignatureError(f"the inputs do not tell how many samples there are: {first}\n{self.signature()}")
        return (samples, *(size if isinstance(size, int) else sizes.get(size) for size in rest))

    def most_entries(self) -> int | None:
        """How many numbers the largest input can have; None if a size has no end that is known here."""
        sizes = {name: limits.max for name, limits in self.sizes.items()}
        ends = [[size if isinstance(size, int) else sizes.get(size) for size in spec.shape] for spec in self.inputs]
        known = [[end for end in shape if end is not None] for shape in ends]
        return max(map(math.prod, known), default=0) if known == ends else None

    @property
    def model_inputs(self) -> list[Spec]:
        """The inputs without the target."""
        return [spec for spec in self.inputs if spec.name != TARGET]

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
        lines = ["It takes", *(f"  {one}" for one in self.inputs)]
        lines += [f"  {name} is {limits}" for name, limits in self.sizes.items()]
        lines += [f"  where {condition}" for condition in self.conditions]
        lines += [f"  {name} was fixed as {value}" for name, value in self.fixed.items()]
        return "\n".join(lines)


def write_canonical_json(content: Mapping[str, Any]) -> bytes:
    """A description in the one way that digests and signatures are of."""
    try:
        return json.dumps(content, sort_keys=True).encode()
    except RecursionError:
        raise ArtifactError("the manifest is damaged: it is nested too deeply") from None


def compute_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a description."""
    return hashlib.sha256(write_canonical_json(content)).hexdigest()


SHA256 = text(64, "[0-9a-f]{64}")
COUNT = integer(0)
FIELDS: dict[str, Check] = {
    "version": integer(VERSION, VERSION),
    "fxlrp": text(),
    "torch": text(),
    "format": one_of("pt2", "aoti", "onnx"),
    "device": check_device,
    "model": text(),
    "fingerprint": SHA256,
    "parameters": COUNT,
    "rules": text(),
    "table": text(2**20, lines=True),
    "coverage": record(dict, {"nodes": COUNT, "live": COUNT, "covered": COUNT}),
    "target": one_of("none", *TARGET_KINDS),
    "largest": integer(LARGEST, LARGEST),
    "inputs": list_of(spec_record(IDENTIFIER), most=1000),
    "fixed": mapping_of(NAME, text(10_000, lines=True), most=1000),
    "outputs": list_of(spec_record(RESULT), most=10_000),
    "explained": spec_record(NAME),
    "sizes": mapping_of(IDENTIFIER, RANGE, most=1000),
    "conditions": list_of(check_clause_field, most=1000),
    "parts": mapping_of(NAME, SHA256, most=100_000),
    SIGNED: text(128, "([0-9a-f]{128})?"),
}
"""What each field may hold."""
