"""What an artefact says about itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.specs import Range, Spec
from fxlrp.errors import ArtifactError, SignatureError

VERSION = 3
"""Of this format; another one is refused."""
MANIFEST_MEMBER = "extra/fxlrp.json"
"""Its name in an archive."""
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

    def find_explained_shape(self, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
        """Return the shape of the explained output; None for a size computed of others, which the program knows.

        Raises:
            SignatureError: If the inputs do not tell how many samples there are.
        """
        first, *rest = self.explained.shape
        samples = first if isinstance(first, int) else clauses.evaluate_clause(first, sizes)
        if first not in sizes and (type(samples) is not int or not 0 <= samples <= MAX_SAMPLES):
            raise SignatureError(f"the inputs do not tell how many samples there are: {first}\n{self.signature()}")
        return (samples, *(size if isinstance(size, int) else sizes.get(size) for size in rest))

    def count_most_entries(self) -> int | None:
        """Count the numbers that the largest input can have; None if a size has no end that is known here."""
        sizes = {name: limits.max for name, limits in self.sizes.items()}
        ends = [[size if isinstance(size, int) else sizes.get(size) for size in spec.shape] for spec in self.inputs]
        known = [[end for end in shape if end is not None] for shape in ends]
        return max(map(math.prod, known), default=0) if known == ends else None

    @property
    def model_inputs(self) -> list[Spec]:
        """The inputs without the target."""
        return [spec for spec in self.inputs if spec.name != TARGET]

    def at_most(self, name: str, largest: int) -> Manifest:
        """Return the same manifest for smaller values of a size.

        Raises:
            SignatureError: If there is no such size, or it would have no value.
        """
        limits = self.find_range(name)
        if largest < limits.min:
            raise SignatureError(f"{name} is {limits}, so not at most {largest}")
        limits = Range(limits.min, largest if limits.max is None else min(largest, limits.max))
        return dataclasses.replace(self, sizes={**self.sizes, name: limits})

    def find_range(self, name: str) -> Range:
        """Return the values of a size.

        Raises:
            SignatureError: If there is no such size.
        """
        if name not in self.sizes:
            raise SignatureError(f"the artefact has no size '{name}' that may change\n{self.signature()}")
        return self.sizes[name]

    def signature(self) -> str:
        """Say what it takes."""
        lines = ["It takes", *(f"  {one}" for one in self.inputs)]
        lines += [f"  {name} is {limits}" for name, limits in self.sizes.items()]
        lines += [f"  where {condition}" for condition in self.conditions]
        lines += [f"  {name} was fixed as {value}" for name, value in self.fixed.items()]
        return "\n".join(lines)
