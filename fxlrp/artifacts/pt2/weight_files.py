"""The weights of a ``.pt2`` file: bytes, and where in them each tensor lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxlrp._torch import export_schema, list_schema_dtypes
from fxlrp.artifacts.pt2 import schema
from fxlrp.artifacts.pt2.untrusted import decode_json
from fxlrp.artifacts.safe_ops.memory_checks import DTYPES
from fxlrp.errors import ArtifactError

MAX_ENTRIES = 2**31
"""Entries of a tensor whose strides are 0, which needs no bytes."""


def read_weights(kind: str, read: Callable[[str], bytes], device: str) -> dict[str, Tensor]:
    """Read the tensors that a file lists as weights or as constants, by name.

    Args:
        kind: ``"weights"`` or ``"constants"``.
        read: Gives the content of a member.
        device: Where they are put.

    Raises:
        ArtifactError: If one is pickled, is missing, or lies beyond its bytes.
    """
    config = decode_json(read(f"data/{kind}/model_{kind}_config.json"))
    schema.check_type(config, export_schema().PayloadConfig, f"the list of {kind}")
    storages: dict[tuple[str, int], Tensor] = {}
    found = {}
    for name, about in config["config"].items():
        if about["use_pickle"] or about["tensor_meta"] is None:
            raise ArtifactError(f"the weight {name[:100]!r} is pickled, which may run code: fxlrp does not write such")
        key = about["path_name"], about["tensor_meta"]["dtype"]
        if key not in storages:
            dtype = list_schema_dtypes().get(key[1])
            storages[key] = make_storage(read(f"data/{kind}/{about['path_name']}"), dtype, name).to(device)
        found[name] = place_tensor(storages[key], about["tensor_meta"], name)
    return found


def make_storage(content: bytes, dtype: torch.dtype | None, name: str) -> Tensor:
    """Make one row of numbers of all bytes of a member, in memory of its own."""
    if dtype not in DTYPES or len(content) % dtype.itemsize:
        raise ArtifactError(f"the weight {name[:100]!r} has {len(content)} bytes, which do not fit its type")
    if dtype is torch.bool and content.strip(b"\0\1"):
        raise ArtifactError(f"the weight {name[:100]!r} has truth values that are neither 0 nor 1")
    whole = torch.empty(len(content) // dtype.itemsize, dtype=dtype)
    whole.view(torch.uint8).numpy()[:] = np.frombuffer(content, np.uint8)
    return whole


def place_tensor(whole: Tensor, about: dict[str, Any], name: str) -> Tensor:
    """Return the tensor that lies in a row of numbers.

    Raises:
        ArtifactError: If it has no plain geometry, or one that leaves the row.
    """
    values = [*about["sizes"], *about["strides"], about["storage_offset"]]
    if not all("as_int" in value and value["as_int"] >= 0 for value in values):
        raise ArtifactError(f"the weight {name[:100]!r} has sizes that are no numbers")
    sizes, strides = ([n["as_int"] for n in about[key]] for key in ("sizes", "strides"))
    offset = about["storage_offset"]["as_int"]
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=False))
    entries = math.prod(sizes)
    if len(sizes) != len(strides) or (entries and last >= whole.numel()) or entries > max(MAX_ENTRIES, whole.numel()):
        raise ArtifactError(f"the weight {name[:100]!r} lies beyond its bytes")
    return whole.as_strided(sizes, strides, offset) if entries else whole.new_empty(sizes)
