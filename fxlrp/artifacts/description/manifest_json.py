"""Manifests as text: written with a digest, and read with a look at every field."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.fields import Check, integer, list_of, mapping_of, one_of, parse_json, record, text
from fxlrp.artifacts.description.manifest import OBJECTIVE, TARGET, VERSION, Manifest
from fxlrp.artifacts.description.specs import (
    IDENTIFIER,
    NAME,
    RANGE,
    RESULT,
    TARGET_KINDS,
    check_clause_field,
    check_device,
    find_type_and_rank,
    spec_record,
)
from fxlrp.errors import ArtifactError
from fxlrp.ir.targets import LARGEST

DIGEST, SIGNED = "digest", "signed"
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


def write_manifest(manifest: Manifest) -> str:
    """Write a manifest as JSON, sealed with the digest of all the rest."""
    content = asdict(manifest)
    return json.dumps({**content, DIGEST: compute_digest(content)}, indent=1)


def read_manifest(content: str | bytes) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises:
        ArtifactError: If it is damaged, of another version, or says what no artefact of fxlrp would, naming the field.
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
    manifest: Manifest = record(Manifest, FIELDS)(found, "")
    if wrong := next(chain(find_contradictions(manifest), find_contradictions_of_sizes(manifest)), ""):
        raise ArtifactError(f"the manifest contradicts itself: {wrong}")
    return manifest


def write_unsigned(manifest: Manifest) -> bytes:
    """Write everything but the signature, in the one way that a signature is of."""
    content = asdict(manifest)
    del content[SIGNED]
    return write_canonical_json(content)


def write_canonical_json(content: Mapping[str, Any]) -> bytes:
    """Write a description in the one way that digests and signatures are of.

    Raises:
        ArtifactError: If it is nested too deeply.
    """
    try:
        return json.dumps(content, sort_keys=True).encode()
    except RecursionError:
        raise ArtifactError("the manifest is damaged: it is nested too deeply") from None


def compute_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description."""
    return hashlib.sha256(write_canonical_json(content)).hexdigest()


def find_contradictions(about: Manifest) -> Iterator[str]:
    """Find what inputs, outputs and the target say against each other, in sentences."""
    names, results = [one.name for one in about.inputs], {one.name: one for one in about.outputs}
    takes = names if about.target == "none" else names[:-1]
    rank = len(about.explained.shape)
    if len(set(names)) < len(names) or len(results) < len(about.outputs):
        yield "two inputs or two outputs have one name"
    if not rank:
        yield "what it explains has no dimension for samples"
    if not takes or TARGET in takes or names[len(takes) :] not in ([], [TARGET]):
        yield f"its target is {about.target!r}, and its inputs are {', '.join(names) or 'none'}"
    if about.target != "none" and find_type_and_rank(about.inputs[-1]) != TARGET_KINDS[about.target](rank):
        yield f"its target is {about.target!r}, and that input is {about.inputs[-1]}"
    if results.get(about.explained.name, about.explained) != about.explained:
        yield f"it explains {about.explained}, and returns {results[about.explained.name]}"
    if about.explained.name not in results and about.explained.name != OBJECTIVE:
        yield f"it explains {about.explained.name!r}, which it does not return"


def find_contradictions_of_sizes(about: Manifest) -> Iterator[str]:
    """Find what sizes, conditions and counts say against each other, in sentences."""
    seen = {size for one in about.inputs for size in one.shape}
    for name, limits in about.sizes.items():
        if name not in seen:
            yield f"{name} is a size of no input"
        if limits.max is not None and limits.max < limits.min:
            yield f"{name} is {limits}"
    for condition in about.conditions:
        if unknown := sorted(clauses.find_sizes(condition) - about.sizes.keys()):
            yield f"{condition} is of {unknown[0]}, which is no size"
    if not about.coverage["covered"] <= about.coverage["live"] <= about.coverage["nodes"]:
        yield f"its coverage is {about.coverage}"
