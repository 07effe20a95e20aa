"""One value of a data set as a tensor, and results as a table of Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxlrp.artifacts.description.manifest import TARGET, Manifest
from fxlrp.datasets.samples import DataRow
from fxlrp.ir.targets import LARGEST
from fxlrp.optional import require

MAX_EXACT = 2**53
"""Whole numbers up to this one are exact in float64."""
WIDER_DTYPES = {"float16": "float32", "bfloat16": "float32"}
"""Types that many readers of Parquet do not know, and what holds them."""


def convert_exactly(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Convert numbers to a tensor without loss, but for rounding of floating point to floating point numbers.

    Raises:
        ValueError: If the type cannot hold them.
    """
    kind = values.dtype.kind
    if kind not in "biuf":
        raise ValueError("holds something else than numbers, or lists of different lengths")
    if kind == "u" and values.size and int(values.max()) > torch.iinfo(torch.int64).max:
        raise ValueError(f"holds {values.max()}, which is too large")
    wide = torch.from_numpy(np.array(values, np.float64 if kind == "f" else np.int64, order="C"))
    tensor = wide.to(dtype)
    if wide.is_floating_point() and dtype.is_floating_point:
        kept = tensor.isfinite() | ~wide.isfinite()
    elif wide.is_floating_point() or dtype.is_floating_point:
        kept = (tensor.double() == wide.double()) & (wide.abs() <= MAX_EXACT)
    else:
        kept = tensor.long() == wide
    if not bool(kept.all()):
        raise ValueError(f"holds {wide[~kept][0].item()}, which {str(dtype).removeprefix('torch.')} cannot represent")
    return tensor


def read_array(value: Any) -> NDArray[Any]:
    """Read the numbers of one value: of JSON, numpy, or a scalar of Arrow with lists to any depth.

    Raises:
        ValueError: If it is missing, ragged, or no numbers.
    """
    if value is None or (hasattr(value, "is_valid") and not value.is_valid):
        raise ValueError("is empty")
    if hasattr(value, "to_numpy"):  # tensors of Arrow and of Ray
        return np.asarray(value.to_numpy())
    if hasattr(value, "type") and is_list(value.type):
        return read_nested_lists(value.values)
    try:
        return np.asarray(value.as_py() if hasattr(value, "as_py") else value)
    except ValueError:
        raise ValueError("holds lists of different lengths") from None


def read_nested_lists(values: Any) -> NDArray[Any]:
    """Read lists of Arrow to any depth, without a Python object for every number."""
    shape = [len(values)]
    while is_list(values.type):
        lengths = require("pyarrow.compute", "ray").list_value_length(values).unique().to_pylist() or [0]
        if len(lengths) > 1 or lengths[0] is None:
            raise ValueError("holds lists of different lengths")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        raise ValueError("has empty places")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def is_list(kind: Any) -> bool:
    """Return whether a type of Arrow is one of lists."""
    types = require("pyarrow.types", "ray")
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def read_row_target(value: Any, dims: int) -> tuple[Any, ...]:
    """Read the target of a row: a class or a list of ``dims`` indices; what is missing stands for the largest."""
    value = value.as_py() if hasattr(value, "as_py") else value
    if value is None:
        return (None,) * dims
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def list_result_columns(about: Manifest) -> list[str]:
    """List the columns that the results of an artefact always have."""
    results = [name for spec in about.outputs for name in (spec.name, f"{spec.name}.shape")]
    return ["row", "file", TARGET, *results]


def make_table(rows: Sequence[tuple[DataRow, Mapping[str, Tensor]]], about: Manifest, kept: Mapping[str, Any]) -> Any:
    """Make a table of results.

    That is: the number of each row, its file, the columns that are kept, the index that was explained, and each result
    as a flat list with its shape beside it.
    """
    arrow = require("pyarrow", "ray")
    columns = {
        "row": arrow.array([row.number for row, _ in rows], arrow.int64()),
        "file": arrow.array([row.file for row, _ in rows], arrow.string()),
    }
    for name, kind in kept.items():
        columns[name] = arrow.concat_arrays([arrow.array([], kind), *(row.kept[name] for row, _ in rows)])
    if about.target == "index":
        columns[TARGET] = make_index_column([results[TARGET] for _, results in rows], len(about.explained.shape) - 1)
    for spec in about.outputs:
        dtype = WIDER_DTYPES.get(spec.dtype, spec.dtype)
        parts = [results[spec.name].to(getattr(torch, dtype)).numpy() for _, results in rows]
        shapes = [np.array(part.shape, np.int64) for part in parts]
        columns[spec.name] = make_list_column([part.ravel() for part in parts], np.dtype(dtype))
        columns[f"{spec.name}.shape"] = make_list_column(shapes, np.dtype(np.int64))
    return arrow.table(columns)


def make_index_column(found: Sequence[Tensor], dims: int) -> Any:
    """Make a column of classes, or of lists of indices; empty where the artefact does not return what it explains."""
    arrow = require("pyarrow", "ray")
    places = [[None if i == LARGEST else i for i in index.tolist()] for index in found]
    if dims == 1:
        return arrow.array([place for (place,) in places], arrow.int64())
    return arrow.array(places, arrow.list_(arrow.int64()))


def make_list_column(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> Any:
    """Make a column of lists."""
    arrow = require("pyarrow", "ray")
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return arrow.LargeListArray.from_arrays(offsets, np.concatenate(parts) if parts else np.empty(0, dtype))
