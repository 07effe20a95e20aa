"""Whether the tensors of a call fit what an artefact says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxlrp.artifacts.description import clauses
from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.artifacts.description.specs import Spec
from fxlrp.errors import ArtifactError, SignatureError
from fxlrp.session.fitting import count_unusable, fit_sizes


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
    for spec in takes:
        check_type(about, spec, tensors[spec.name])
    shapes = [tuple(tensors[name].shape) for name in names]
    sizes, misfit = fit_sizes([spec.shape for spec in takes], shapes, partial(note_size, about), agrees_with_sizes)
    if misfit is not None:
        raise SignatureError(f"'{names[misfit]}' has shape {shapes[misfit]}, which does not fit\n{about.signature()}")
    doubled = {name: max(2, n) for name, n in sizes.items()}  # one sample was compared when this was saved
    for condition in about.conditions:
        if not clauses.evaluate_clause(condition, doubled):
            raise SignatureError(f"the program holds where {condition}, not for {dict(sizes)}\n{about.signature()}")
    for name in names:
        if count_unusable(tensors[name]):
            raise SignatureError(f"'{name}' has NaN or +inf in it; clean it before explaining")
    return sizes


def check_type(about: Manifest, spec: Spec, tensor: Any) -> None:
    """Refuse what is no tensor of the type that an input has, with numbers in it.

    Raises:
        SignatureError: Naming the input.
    """
    if not isinstance(tensor, Tensor):
        raise SignatureError(f"'{spec.name}' must be a tensor, not {type(tensor).__name__}\n{about.signature()}")
    dtype = name_dtype(tensor)
    if dtype != spec.dtype or tensor.layout is not torch.strided:
        raise SignatureError(f"'{spec.name}' must be of {spec.dtype}, not {dtype}\n{about.signature()}")
    if tensor.is_meta:
        raise SignatureError(
            f"'{spec.name}' is on the device meta, where there are no numbers: give it on one that has them"
        )


def note_size(about: Manifest, size: str, n: int, sizes: dict[str, int]) -> bool:
    """Whether a named size may be a number; it is noted. Sizes that are computed of others have no limits and pass."""
    limits = about.sizes.get(size)
    return limits is None or (
        sizes.setdefault(size, n) == n and limits.min <= n and (limits.max is None or n <= limits.max)
    )


def agrees_with_sizes(size: str, n: int, sizes: dict[str, int]) -> bool:
    """Whether a size that is computed of others is a number; where a size is missing, the program tells."""
    return size in sizes or clauses.evaluate_clause(size, sizes) in (n, None)


def name_results(about: Manifest, found: Sequence[Any]) -> dict[str, Tensor]:
    """Give the results of a program their names.

    Raises:
        ArtifactError: If they are not what the artefact says that it returns.
    """
    if len(found) != len(about.outputs):
        raise ArtifactError(f"the program returns {len(found)} results, and its manifest says {len(about.outputs)}")
    for spec, result in zip(about.outputs, found, strict=True):
        fits = isinstance(result, Tensor) and name_dtype(result) == spec.dtype and result.ndim == len(spec.shape)
        if not fits or any(
            isinstance(size, int) and size != n for n, size in zip(result.shape, spec.shape, strict=True)
        ):
            given = (
                f"({', '.join(map(str, result.shape))}) {name_dtype(result)}"
                if isinstance(result, Tensor)
                else "no tensor"
            )
            raise ArtifactError(f"the program returns {given}, and its manifest says {spec}")
    return {spec.name: result for spec, result in zip(about.outputs, found, strict=True)}


def name_dtype(tensor: Tensor) -> str:
    """Return the name of a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.")
