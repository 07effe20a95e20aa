"""Arguments of a model or an artefact, from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxlrp._torch import tree_map_only
from fxlrp.cli.models import summarize_error
from fxlrp.cli.prologue import print_line
from fxlrp.errors import SignatureError


def read_inputs(paths: Sequence[Path]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read arguments from files: an array of ``.npy``, named arrays of ``.npz``, or what is in a ``.pt`` file.

    A tuple or list in a ``.pt`` file is several positional arguments, a dictionary keyword arguments.

    Raises:
        SignatureError: If a file is missing or cannot be read.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for path in paths:
        found = read_file(path)
        if isinstance(found, Mapping):
            kwargs.update(found)
        else:
            args.extend(found if isinstance(found, (tuple, list)) else [found])
    return tuple(args), kwargs


def read_file(path: Path) -> Any:
    """Read the tensor or tensors in a file."""
    if not path.is_file():
        raise SignatureError(f"there is no file {path}")
    try:
        if path.suffix == ".pt":
            return torch.load(path, map_location="cpu", weights_only=True)
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:
        raise SignatureError(f"{path} could not be read: {summarize_error(error)}") from error
    raise SignatureError(f"{path}: an input is a .npy, .npz or .pt file")


def find_samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the one tensor that a model takes.

    Raises:
        SignatureError: If it takes anything else.
    """
    given = [*args, *kwargs.values()]
    if len(given) != 1 or not isinstance(given[0], Tensor):
        kinds = ", ".join(type(value).__name__ for value in given)
        raise SignatureError(
            f"this is for models of one tensor, and the model is given ({kinds}): give --input with the samples alone, "
            "or let the callable return a module that takes them alone"
        )
    return given[0]


def convert_to_model_dtype(model: nn.Module | ExportedProgram, inputs: Any) -> Any:
    """Convert the floating point tensors among inputs to the model's own type."""
    weights = model.parameters() if isinstance(model, nn.Module) else model.state_dict.values()
    dtype = next((w.dtype for w in weights if w.is_floating_point()), torch.get_default_dtype())
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, inputs)


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write tensors to an ``.npz`` file, and say so."""
    np.savez(path, allow_pickle=False, **{name: tensor.numpy() for name, tensor in arrays.items()})
    print_line(f"Wrote {path}")
