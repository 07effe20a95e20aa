"""Signatures of artefacts by Ed25519: who wrote them, for those who know the writer's public key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.description.manifest_json import write_unsigned
from fxlrp.errors import ArtifactError
from fxlrp.optional import require

DOMAIN = b"fxlrp artefact\0"
"""In front of what is signed, so that a signature of something else by the same key is none of an artefact."""

Key = Any
"""A path of a PEM file, its content, or a key of the package cryptography."""


def read_private_key(key: Key) -> Any:
    """Return the key that signs.

    Raises:
        ArtifactError: If it is no private key of Ed25519, or needs a password.
        FxlrpError: If cryptography is not installed.
    """
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign")
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    found = read_key(key, lambda content: serialization.load_pem_private_key(content, None))
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise ArtifactError(f"artefacts are signed by a private key of Ed25519, not {type(found).__name__}")
    return found


def read_public_keys(keys: Key | Sequence[Key]) -> tuple[bytes, ...]:
    """Return the keys that a signature may be of, in PEM; given these it returns them.

    Raises:
        ArtifactError: If there is none, or one is no public key of Ed25519.
        FxlrpError: If cryptography is not installed.
    """
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", "sign")
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    given = keys if isinstance(keys, (list, tuple)) else [keys]
    if not given:
        raise ArtifactError("there is no key in key=: nothing could be loaded")
    found = [read_key(key, serialization.load_pem_public_key) for key in given]
    for key in found:
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise ArtifactError(f"signatures are checked by a public key of Ed25519, not {type(key).__name__}")
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return tuple(key.public_bytes(*form) for key in found)


def read_key(key: Key, load: Any) -> Any:
    """Return the key of a path or of the content of a PEM file; anything else as it is.

    Raises:
        ArtifactError: If there is none.
    """
    if not isinstance(key, (str, Path, bytes)):
        return key
    where = "the key" if isinstance(key, bytes) else f"the key {key}"
    try:
        return load(key if isinstance(key, bytes) else Path(key).read_bytes())
    except Exception as error:  # of the file system, or any of a dozen of the package
        raise ArtifactError(
            f"{where} cannot be read: {error}\n"
            "It is a PEM file without a password: openssl genpkey -algorithm ed25519 -out private.pem, and "
            "openssl pkey -in private.pem -pubout -out public.pem"
        ) from error


def sign_manifest(manifest: Manifest, key: Any | None) -> Manifest:
    """Put the signature of a private key into a manifest; without a key leave it as it is."""
    return manifest if key is None else replace(manifest, signed=key.sign(DOMAIN + write_unsigned(manifest)).hex())


def check_signature(manifest: Manifest, keys: Sequence[bytes] | None) -> None:
    """Refuse what none of some keys has signed; without keys everything passes.

    The manifest holds the digest of every part, so that a signature of it is one of all.

    Args:
        manifest: What the artefact says of itself.
        keys: What `read_public_keys` returned, or None.

    Raises:
        ArtifactError: If there is no signature, or it is of another key or of other content.
    """
    if keys is None:
        return
    if not manifest.signed:
        raise ArtifactError("the artefact is not signed, and only those signed by a given key are to be loaded")
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    invalid = require("cryptography.exceptions", "sign").InvalidSignature
    for key in keys:
        try:
            serialization.load_pem_public_key(key).verify(
                bytes.fromhex(manifest.signed), DOMAIN + write_unsigned(manifest)
            )
        except invalid:
            continue
        return
    raise ArtifactError("the artefact's signature is of none of the given keys, or it was changed after it was signed")
