"""Artefacts: what `fxlrp.load` returns, and the checks that come first."""

from __future__ import annotations

import functools
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp import archive
from fxlrp._torch import load_package, without_function_modes
from fxlrp.doubts import Question
from fxlrp.errors import ArtifactError, SignatureError, TargetError
from fxlrp.fitting import check_inputs, named_results
from fxlrp.keys import check_signature, public_keys
from fxlrp.manifest import MEMBER, TARGET, Manifest
from fxlrp.onnx_files import read_onnx
from fxlrp.reading import build
from fxlrp.results import Result
from fxlrp.signatures import plain_mode
from fxlrp.targets import INDEX, SEED, Contrast, Target, numbers, reached
from fxlrp.untrusted import check_model
from fxlrp.weight_files import read_weights

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
            kwargs: Inputs by name. They are moved to the artefact's device.

        Returns:
            The result, on the device of the first input; its output is a tensor, or a dictionary by name if the model
            returns several. It is the same whatever the caller is in: autocast, modes of gradients, a default device.

        Raises:
            SignatureError: If an input is missing or unknown, of another dtype or shape, not finite, or on meta.
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
        with own_mode():
            given = self.bound(args, kwargs)
            return given, self.chosen(given, target)

    def answered(self, given: Mapping[str, Any], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The results by name."""
        with own_mode():
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
        tensor = None if isinstance(target, Contrast) else numbers(target, about.explained_shape(sizes))
        if tensor is None or tensor.is_floating_point() != (about.target == "seed"):
            kinds = {"index": "a class or an index", "seed": "a floating point seed"}
            other = next(kind for kind in kinds if kind != about.target)
            raise TargetError(
                f"the artefact was saved for {kinds[about.target]}: save another one with target={other!r}"
            )
        return {TARGET: tensor.to(getattr(torch, about.inputs[-1].dtype))}

    def check_reached(self, chosen: Mapping[str, Tensor], results: Mapping[str, Tensor]) -> None:
        """Refuse an index beyond a size that is computed of others, and so known only from the results.

        Raises:
            TargetError: If there is one; the relevance of its sample is NaN.
        """
        explained = self.manifest.explained.name
        if self.manifest.target == "index" and explained in results:
            shape = results[explained].shape
            if not bool(reached(shape, chosen[TARGET].to(results[explained].device)).all()):
                raise TargetError(f"the target is out of range: here each sample's output has shape {tuple(shape[1:])}")

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run on named tensors, the target among them, and return the named results, as any other consumer does.

        They are moved to the artefact's device, and the results to that of the first tensor.

        Raises:
            SignatureError: If the program fails on them.
            ArtifactError: If it returns something else than the manifest says.
        """
        here = next(iter(tensors.values())).device
        try:
            with own_mode():
                found = self._run([tensor.to(self.manifest.device).contiguous() for tensor in tensors.values()])
                found = [result.to(here) for result in found]
        except (torch.OutOfMemoryError, ArtifactError):
            raise
        except Exception as error:
            raise SignatureError(
                f"the program failed on these inputs\n  {error}\n{self.manifest.signature()}"
            ) from error
        return named_results(self.manifest, found)


@contextmanager
def own_mode() -> Iterator[None]:
    """The same numbers whatever the caller is in."""
    with plain_mode(), without_function_modes():
        yield


def single(found: dict[str, Tensor]) -> Any:
    """The only entry, or all of them by name."""
    return next(iter(found.values())) if len(found) == 1 else found


def load(path: str | Path, *, allow_native_code: bool = False, key: Any = None) -> Artifact:
    """Load an artefact that `Attributor.save` wrote.

    A ``.pt2`` file is data: what runs are the ops of its graph that are on fxlrp's own list, on tensors whose places
    in the file were checked. It is read once, and nothing of it is unpickled, imported or evaluated.

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
    content = archive.read_file(path)
    if path.suffix == ".onnx":
        return Artifact(*read_onnx(path, content, keys))
    with archive.open_archive(content, path) as members:
        manifest = Manifest.from_json(archive.read(members, MEMBER))
        check_signature(manifest, keys)
        if manifest.format not in FORMATS:
            raise ArtifactError(f"{path} is of format {manifest.format!r}, which is none of {', '.join(FORMATS)}")
        allowed, reader = FORMATS[manifest.format]
        archive.check_members(members, allowed, path)
        manifest.check_parts(archive.digests(members, without=MEMBER))
        if manifest.format == "aoti" and not allow_native_code:
            raise ArtifactError(
                f"{path} holds machine code, which would run with your rights. "
                "If you trust its origin: fxlrp.load(path, allow_native_code=True)"
            )
        check_torch(manifest)
        return Artifact(manifest, reader(members, manifest))


def check_torch(manifest: Manifest) -> None:
    """Refuse what cannot run here.

    Raises:
        ArtifactError: If another minor version of torch has written it, as neither format is stable across them, or if
            there is no such device.
    """
    if manifest.torch.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ArtifactError(
            f"the artefact was written by torch {manifest.torch}, and this is torch {torch.__version__}: save it again "
            "with this one, or as 'onnx'"
        )
    try:
        there = not torch.empty(0, device=manifest.device).is_meta
    except (RuntimeError, AssertionError, TypeError):  # of devices that torch was not built for, and of no device
        there = False
    if not there:
        raise ArtifactError(
            f"the artefact runs on the device {manifest.device!r}, which is not here: move the model to one that is, "
            "and save it again"
        )


def read_pt2(members: zipfile.ZipFile, manifest: Manifest) -> Run:
    """What runs an archive of torch.export: its graph and its weights, looked through."""
    read = functools.partial(archive.read, members)
    if read("data/sample_inputs/model.pt"):
        raise ArtifactError("the artefact has sample inputs, which are pickled and not read")
    model = check_model(read("models/model.json"), manifest)["graph_module"]
    weights = {k: w for kind in ("weights", "constants") for k, w in read_weights(kind, read, manifest.device).items()}
    module = build(model["graph"], model["signature"], weights)
    if len(module.graph.find_nodes(op="placeholder")) != len(manifest.inputs):
        raise ArtifactError("the graph takes other inputs than the manifest says")
    return lambda tensors: module(*tensors)


def read_aoti(members: zipfile.ZipFile, manifest: Manifest) -> Run:
    """What runs a package of AOTInductor, from a copy that has the members that were checked and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.pt2"
        copy.write_bytes(archive.rewritten(members))
        try:
            module = load_package(str(copy))
        except Exception as error:
            raise ArtifactError(f"the machine code cannot be loaded\n  {type(error).__name__}: {error}") from error
    return lambda tensors: list(module(*tensors).values())


FORMATS: dict[str, tuple[Sequence[str], Callable[[zipfile.ZipFile, Manifest], Run]]] = {
    "pt2": (PT2, read_pt2),
    "aoti": (AOTI, read_aoti),
}
"""What each format has for members, and what reads them."""


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
