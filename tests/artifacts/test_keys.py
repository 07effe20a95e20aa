"""Signatures: with a key only what it has signed is loaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hostile_manifest import sealed
from hostile_onnx import parts, resealed
from torch import nn
from typer.testing import CliRunner

import fxlrp
from fxlrp import ArtifactError
from fxlrp.artifacts.description.manifest import MANIFEST_MEMBER
from fxlrp.artifacts.description.manifest_json import write_unsigned
from fxlrp.artifacts.keys import DOMAIN, read_private_key, read_public_keys
from fxlrp.cli.app import app

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    secret = NoEncryption() if password is None else BestAvailableEncryption(password)
    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    return content


def public_pem(key: Any) -> bytes:
    content: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return content


@pytest.fixture(scope="module")
def attributor() -> fxlrp.Attributor:
    torch.manual_seed(0)
    return fxlrp.compile(nn.Sequential(nn.Linear(4, 3)).eval(), rules="epsilon")


@pytest.fixture(scope="module", params=["pt2", "onnx"])
def saved(request: pytest.FixtureRequest, attributor: fxlrp.Attributor, tmp_path_factory: Any) -> Path:
    return attributor.save(tmp_path_factory.mktemp("signed") / f"model.{request.param}", torch.rand(2, 4), sign=KEY)


def resigned(path: Path, into: Path, **changes: Any) -> Path:
    """A file with another manifest, whose digest fits."""
    if path.suffix == ".onnx":
        model, manifest = parts(path.read_bytes())
        into.write_bytes(resealed(model.SerializeToString(), {**manifest, **changes}))
        return into
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, sealed({**json.loads(content), **changes}) if name.endswith(MANIFEST_MEMBER) else content
            )
    return into


def test_a_key_takes_what_it_has_signed_and_no_other(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(public_pem(KEY))
    x = torch.rand(2, 4)
    expected = fxlrp.load(saved)(x, target=1).relevance
    forms = (tmp_path / "public.pem", str(tmp_path / "public.pem"), public_pem(KEY), KEY.public_key())
    for key in (*forms, [OTHER.public_key(), KEY.public_key()], read_public_keys([KEY.public_key()])):
        assert torch.equal(fxlrp.load(saved, key=key)(x, target=1).relevance, expected)
    for wrong in (OTHER.public_key(), [OTHER.public_key(), public_pem(OTHER)]):
        with pytest.raises(ArtifactError, match="of none of the given keys"):
            fxlrp.load(saved, key=wrong)


def test_what_was_changed_or_is_not_signed_is_refused(saved: Path, tmp_path: Path) -> None:
    signature = fxlrp.load(saved).manifest.signed
    path = tmp_path / saved.name
    for changes, problem in (
        ({"model": "Another"}, "changed after it was signed"),
        ({"signed": signature[2:] + signature[:2]}, "of none of the given keys"),
        ({"signed": ""}, "not signed"),
    ):
        fxlrp.load(resigned(saved, path, **changes))  # the digest fits
        with pytest.raises(ArtifactError, match=problem):
            fxlrp.load(path, key=KEY.public_key())


def test_a_signature_of_something_else_is_none_of_an_artefact(saved: Path, tmp_path: Path) -> None:
    about = fxlrp.load(saved).manifest
    KEY.public_key().verify(bytes.fromhex(about.signed), DOMAIN + write_unsigned(about))
    path = resigned(saved, tmp_path / saved.name, signed=KEY.sign(write_unsigned(about)).hex())
    with pytest.raises(ArtifactError, match="of none of the given keys"):
        fxlrp.load(path, key=KEY.public_key())


def test_keys_that_are_none(attributor: fxlrp.Attributor, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_bytes(b"")
    curve = generate_private_key(SECP256R1())
    for key, problem in (
        (tmp_path / "gone.pem", "gone.pem cannot be read"),
        (str(tmp_path / "empty.pem"), "empty.pem cannot be read"),
        (b"no key", "the key cannot be read"),
        (private_pem(KEY, b"secret"), "without a password"),
        (public_pem(KEY), "cannot be read"),
        (curve, "a private key of Ed25519, not"),
        (KEY.public_key(), "a private key of Ed25519, not"),
        (3, "not int"),
    ):
        with pytest.raises(ArtifactError, match=problem):
            attributor.save(tmp_path / "model.pt2", torch.rand(2, 4), sign=key)
        assert not (tmp_path / "model.pt2").exists()
    assert read_private_key(private_pem(KEY)).public_key() == KEY.public_key()
    for key, problem in (
        ([], "no key in key="),
        (KEY, "a public key of Ed25519, not"),
        (private_pem(KEY), "cannot be read"),
        (curve.public_key(), "a public key of Ed25519, not"),
        ([KEY.public_key(), None], "not NoneType"),
    ):
        with pytest.raises(ArtifactError, match=problem):
            fxlrp.load(saved, key=key)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("named.py").write_text(
        "import torch\n\n\ndef model():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 3)), (torch.ones(2, 4),)\n"
    )
    Path("private.pem").write_bytes(private_pem(KEY))
    Path("public.pem").write_bytes(public_pem(KEY))
    Path("other.pem").write_bytes(public_pem(OTHER))
    torch.save(torch.ones(2, 4), "x.pt")
    run = CliRunner().invoke
    done = run(app, ["export", "named:model", "--out", "m.pt2", "--sign", "private.pem"])
    assert done.exit_code == 0, done.output
    for command in (["run", "m.pt2"], ["explain", "m.pt2", "--input", "x.pt"]):
        assert run(app, [*command, "--key", "other.pem", "--key", "public.pem"]).exit_code == 0
        refused = run(app, [*command, "--key", "other.pem"])
        assert refused.exit_code == 2
        assert "of none of the given keys" in refused.output
    for command in (["serve", "m.pt2"], ["batch", "m.pt2", "x.jsonl", "--out", "out"]):
        refused = run(app, [*command, "--key", "other.pem"])
        assert refused.exit_code == 2
        assert "of none of the given keys" in refused.output
