"""Whether the tensors of a call fit what an artefact says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Spec
from fxlrp.errors import ArtifactError, SignatureError


def check_inputs(about: Manifest, tensors: Mapping[str, Any]) -> dict[str, int]:
    """Check the tensors of a call, without the target, and return the value of each named size.

    Raises:
        SignatureError: If a tensor is missing, unknown, of another dtype or shape, or not finite.
    """
    takes = [spec for spec in about.inputs if spec.name != TARGET]
    names = [spec.name for spec in takes]
    if list(tensors) != names:
        given = ", ".join(tensors) or "nothing"
        raise SignatureError(f"the artefact takes {', '.join(names)}, not {given}\n{about.signature()}")
    sizes: dict[str, int] = {}
    for spec in takes:
        tensor = tensors[spec.name]
        if not isinstance(tensor, Tensor):
            raise SignatureError(f"'{spec.name}' must be a tensor, not {type(tensor).__name__}\n{about.signature()}")
        dtype = name_of(tensor)
        if dtype != spec.dtype or tensor.layout is not torch.strided:
            raise SignatureError(f"'{spec.name}' must be of {spec.dtype}, not {dtype}\n{about.signature()}")
        if tensor.is_meta:
            raise SignatureError(
                f"'{spec.name}' is on the device meta, where there are no numbers: give it on one that has them"
            )
        if not matches(about, spec, tuple(tensor.shape), sizes):
            raise SignatureError(
                f"'{spec.name}' has shape {tuple(tensor.shape)}, which does not fit\n{about.signature()}"
            )
        if tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any()):
            raise SignatureError(f"'{spec.name}' has NaN or +inf in it; clean it before explaining")
    check_sizes(about, {spec.name: (spec, tuple(tensors[spec.name].shape)) for spec in takes}, sizes)
    return sizes


def check_sizes(about: Manifest, shapes: Mapping[str, tuple[Spec, tuple[int, ...]]], sizes: Mapping[str, int]) -> None:
    """Check the sizes that are computed of others, and the conditions.

    Raises:
        SignatureError: If one does not hold.
    """
    for name, (spec, shape) in shapes.items():
        for n, size in zip(shape, spec.shape, strict=True):
            if isinstance(size, str) and size not in sizes and clauses.evaluate_clause(size, sizes) not in (n, None):
                raise SignatureError(f"'{name}' has shape {shape}, which does not fit\n{about.signature()}")
    doubled = {name: max(2, n) for name, n in sizes.items()}  # one sample was compared when this was saved
    for condition in about.conditions:
        if not clauses.evaluate_clause(condition, doubled):
            raise SignatureError(f"the program holds where {condition}, not for {dict(sizes)}\n{about.signature()}")


def matches(about: Manifest, spec: Spec, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape fits; remembers what named sizes stand for."""
    if len(shape) != len(spec.shape):
        return False
    for n, size in zip(shape, spec.shape, strict=True):
        if isinstance(size, int):
            fits = n == size
        else:
            limits = about.sizes.get(size)  # none: a size computed of others, which the program checks
            fits = limits is None or (
                sizes.setdefault(size, n) == n and limits.min <= n and (limits.max is None or n <= limits.max)
            )
        if not fits:
            return False
    return True


def named_results(about: Manifest, found: Sequence[Any]) -> dict[str, Tensor]:
    """The results of a program by name.

    Raises:
        ArtifactError: If they are not what the artefact says that it returns.
    """
    if len(found) != len(about.outputs):
        raise ArtifactError(f"the program returns {len(found)} results, and its manifest says {len(about.outputs)}")
    for spec, result in zip(about.outputs, found, strict=True):
        fits = isinstance(result, Tensor) and name_of(result) == spec.dtype and result.ndim == len(spec.shape)
        if not fits or any(
            isinstance(size, int) and size != n for n, size in zip(result.shape, spec.shape, strict=True)
        ):
            given = (
                f"({', '.join(map(str, result.shape))}) {name_of(result)}"
                if isinstance(result, Tensor)
                else "no tensor"
            )
            raise ArtifactError(f"the program returns {given}, and its manifest says {spec}")
    return {spec.name: result for spec, result in zip(about.outputs, found, strict=True)}


def name_of(tensor: Tensor) -> str:
    """The name of a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.")
