"""Artefacts: what `fxlrp.load` returns, and the checks that come first."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp import archive
from fxlrp._torch import load_package
from fxlrp.doubts import Question
from fxlrp.errors import ArtifactError, SignatureError, TargetError
from fxlrp.fitting import check_inputs, named_results
from fxlrp.keys import check_signature, public_keys
from fxlrp.manifest import MEMBER, TARGET, Manifest
from fxlrp.onnx_files import read_onnx
from fxlrp.results import Result
from fxlrp.targets import INDEX, SEED, Target, lower
from fxlrp.untrusted import check_model, check_payload

COMMON = [
    re.escape(MEMBER),
    "archive_format",
    "archive_version",
    "byteorder",
    r"\.data/version",
    r"\.data/serialization_id",
]
PT2 = [
    *COMMON,
    r"models/model\.json",
    r"data/sample_inputs/model\.pt",
    r"data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)",
]
AOTI = [*COMMON, r"data/aotinductor/model/[\w.\-]+", r"data/(weights|constants)/[\w.\-]+"]

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Artifact:
    """A saved relevance program: call it with the model's inputs and a target.

    Attributes:
        manifest: What it says about itself.
    """

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self.manifest = manifest
        self._run = run

    def __repr__(self) -> str:
        about = self.manifest
        return f"Artifact({about.model}, rules={about.rules!r}, format={about.format!r})"

    def __call__(self, *args: Tensor, target: Target = None, **kwargs: Tensor) -> Result:
        """Run the model and attribute one number per sample of its output to the inputs.

        Args:
            args: The inputs, in the order of ``manifest.inputs``.
            target: As in `Attributor.__call__`: None (the largest), a class, an index tuple with None for the largest,
                one of these per sample; or a floating point seed, if the artefact was saved for seeds.
            kwargs: Inputs by name.

        Returns:
            The result; its output is a tensor, or a dictionary by name if the model returns several.

        Raises:
            SignatureError: If an input is missing or unknown, of another dtype or shape, or not finite.
            TargetError: If the target selects nothing, or is of a kind that the artefact was not saved for.
        """
        given, chosen = self.asked(args, kwargs, target)
        values = self.answered(given, chosen)
        parts = {
            kind: {name.removeprefix(kind).removeprefix("."): t for name, t in values.items() if name.startswith(kind)}
            for kind in ("output", "relevance", "read")
        }
        question = None
        if (explained := self.manifest.explained.name) in values:
            form = SEED if self.manifest.target == "seed" else INDEX
            question = Question(lambda _: values[explained], form, tuple(chosen.values()))
        return Result(single(parts["relevance"]), single(parts["output"]), parts["read"], question)

    def results(self, *args: Tensor, target: Target = None, **kwargs: Tensor) -> dict[str, Tensor]:
        """As a call, but every result by the name that it has in ``manifest.outputs``."""
        return self.answered(*self.asked(args, kwargs, target))

    def asked(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], target: Target
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The inputs, and the tensor of the target if there is one to choose, by name."""
        given = self.bound(args, kwargs)
        return given, self.chosen(given, target)

    def answered(self, given: Mapping[str, Any], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The results by name."""
        results = self.run({**given, **chosen})
        self.check_reached(chosen, results)
        return results

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name, in order."""
        names = [spec.name for spec in self.manifest.inputs if spec.name != TARGET]
        if len(args) > len(names):
            raise SignatureError(f"{len(args)} inputs for {len(names)}\n{self.manifest.signature()}")
        given = dict(zip(names, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise SignatureError(f"'{min(twice)}' is given twice\n{self.manifest.signature()}")
        given.update(kwargs)
        ordered = {name: given.pop(name) for name in names if name in given}
        return {**ordered, **given}

    def chosen(self, given: Mapping[str, Any], target: Target) -> dict[str, Tensor]:
        """The tensor of a target."""
        about = self.manifest
        sizes = check_inputs(about, given)
        if about.target == "none":
            if target is not None:
                raise TargetError("the artefact has one output per sample: there is no target to choose")
            return {}
        form, numbers = lower(target, about.explained_shape(sizes))
        if (form == SEED) != (about.target == "seed") or len(numbers) != 1:
            kinds = {"index": "a class or an index", "seed": "a floating point seed"}
            raise TargetError(f"the artefact was saved for {kinds[about.target]}: save another one with target_kind=")
        dtype = getattr(torch, about.inputs[-1].dtype)
        return {TARGET: numbers[0].to(dtype=dtype, device=about.device)}

    def check_reached(self, chosen: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> None:
        """Refuse an index beyond a size that is computed of others, and so known only from the results.

        Raises:
            TargetError: If there is one; the relevance of its sample is NaN.
        """
        explained = self.manifest.explained.name
        if self.manifest.target == "index" and explained in results:
            shape = results[explained].shape[1:]
            if bool((chosen[TARGET].cpu() >= torch.tensor(shape, dtype=torch.int64)).any()):
                raise TargetError(
                    f"the target is out of range: here each sample's output has shape {tuple(shape)}, and an index "
                    "counts from the beginning"
                )

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run on named tensors, the target among them, and return the named results, as any other consumer does.

        Raises:
            SignatureError: If the program fails on them.
            ArtifactError: If it returns something else than the manifest says.
        """
        try:
            with torch.inference_mode(False), torch.no_grad():
                found = self._run([tensor.contiguous() for tensor in tensors.values()])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise SignatureError(
                f"the program failed on these inputs\n  {error}\n{self.manifest.signature()}"
            ) from error
        return named_results(self.manifest, found)


def single(found: dict[str, Tensor]) -> Any:
    """The only entry, or all of them by name."""
    return next(iter(found.values())) if len(found) == 1 else found


def load(path: str | Path, *, allow_native_code: bool = False, key: Any = None) -> Artifact:
    """Load an artefact that `Attributor.save` wrote.

    Nothing in a ``.pt2`` or ``.onnx`` file is executed but the ATen or ONNX ops of its graph.

    Args:
        path: The file.
        allow_native_code: Whether to load a package of AOTInductor, whose machine code runs with your rights.
        key: A public key of Ed25519 (the path of a PEM file, its content, or a key of ``cryptography``), or a list of
            them: the file must be signed by one. Without, a signature is not looked at.

    Raises:
        ArtifactError: If the file is missing, damaged, changed, not signed by a key, or not what fxlrp writes.
    """
    path = Path(path)
    keys = None if key is None else public_keys(key)
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}")
    if path.suffix == ".onnx":
        return Artifact(*read_onnx(path, keys))
    with archive.open_archive(path, [*PT2, *AOTI]) as members:
        manifest = Manifest.from_json(archive.read(members, MEMBER))
        check_signature(manifest, keys)
        manifest.check_parts(archive.digests(members, without=MEMBER))
        if manifest.format not in LOADERS:
            raise ArtifactError(f"{path} is of format {manifest.format!r}, which is none of {', '.join(LOADERS)}")
        if manifest.format == "aoti" and not allow_native_code:
            raise ArtifactError(
                f"{path} holds machine code, which would run with your rights. "
                "If you trust its origin: fxlrp.load(path, allow_native_code=True)"
            )
        check_torch(manifest)
        return Artifact(manifest, LOADERS[manifest.format](path, members))


def check_torch(manifest: Manifest) -> None:
    """Refuse what another minor version of torch has written: neither format is stable across them."""
    if manifest.torch.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ArtifactError(
            f"the artefact was written by torch {manifest.torch}, and this is torch {torch.__version__}: save it again "
            "with this one, or as 'onnx'"
        )


def load_pt2(path: Path, members: zipfile.ZipFile) -> Run:
    """Of an archive of torch.export, whose graph and weights are looked through first."""
    check_model(archive.read(members, "models/model.json"))
    for kind in ("weights", "constants"):
        check_payload(archive.read(members, f"data/{kind}/model_{kind}_config.json"))
    if archive.read(members, "data/sample_inputs/model.pt"):
        raise ArtifactError("the artefact has sample inputs, which are pickled and not read")
    try:
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:
        raise ArtifactError(f"{path} cannot be loaded\n  {type(error).__name__}: {error}") from error
    return lambda tensors: list(module(*tensors).values())


def load_aoti(path: Path, members: zipfile.ZipFile) -> Run:
    """Of a package of AOTInductor."""
    try:
        module = load_package(str(path))
    except Exception as error:
        raise ArtifactError(f"{path} cannot be loaded\n  {type(error).__name__}: {error}") from error
    return lambda tensors: list(module(*tensors).values())


LOADERS: dict[str, Callable[[Path, zipfile.ZipFile], Run]] = {"pt2": load_pt2, "aoti": load_aoti}


TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference of an artefact from its program, relative to the largest entry; 0.05 for half precision."""


def check_same(path: Path, tensors: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare the results of an artefact with those of the program that it was made of.

    Raises:
        ArtifactError: If they differ by more than rounding does.
    """
    artifact = load(path, allow_native_code=True)
    names = [spec.name for spec in artifact.manifest.inputs]
    found = artifact.run(dict(zip(names, tensors, strict=False)))
    for (name, one), other in zip(found.items(), expected, strict=True):
        if not agree(one, other):
            raise ArtifactError(
                f"as {artifact.manifest.format!r} the result '{name}' would differ from that of the program: "
                "choose another format"
            )


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    if one.shape != other.shape:
        return False
    largest = float(other.detach().nan_to_num(0.0, 0.0, 0.0).abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=TOLERANCE.get(other.dtype, 0.05) * largest, equal_nan=True)
