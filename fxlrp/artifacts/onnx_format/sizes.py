"""How large the tensors of an ONNX model from elsewhere may become, as far as that can be known before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fxlrp.artifacts.onnx_format.checks import MAX_LENGTH, list_dtypes
from fxlrp.errors import ArtifactError
from fxlrp.optional import require

SIZE_INPUTS = {
    "Col2Im": (1,),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1),
    "Resize": (2, 3),
    "Tile": (1,),
}
"""The inputs of some ops that say how large the result becomes."""
MAX_ENTRIES = 2**28
"""Entries that constants may ask for, all together."""
STEPS_INPUT = 4
"""The input of a slice that holds its steps."""
ZERO = np.zeros(1)


def check_sizes(model: Any) -> None:
    """Refuse sizes that fxlrp does not write, in a model whose ops and tensors were looked at.

    Raises:
        ArtifactError: If there is one.
    """
    check_constants(model.graph)
    check_shapes(model)


def check_constants(graph: Any) -> None:
    """Refuse constants that ask for huge tensors, or for steps backwards; what a graph computes cannot be known."""
    known = dict(find_constants(graph))
    asked = 0.0
    for node in graph.node:
        for place in SIZE_INPUTS.get(node.op_type, ()):
            if place < len(node.input) and node.input[place] in known:
                asked += float(np.maximum(np.abs(known[node.input[place]]), 1).prod())
        if node.op_type == "Slice" and not (goes_forwards(node, known) or is_flip(node, known)):
            raise ArtifactError("the model has a slice with steps backwards, or unknown, of which some abort")
    if not asked <= MAX_ENTRIES:
        raise ArtifactError(f"the model asks for tensors of {asked:.3g} entries, and {MAX_ENTRIES:.3g} are the most")


def goes_forwards(node: Any, known: Mapping[str, Any]) -> bool:
    """Return whether all steps of a slice are known and go forwards."""
    return all((known.get(name, ZERO) >= 1).all() for name in node.input[STEPS_INPUT:] if name)


def is_flip(node: Any, known: Mapping[str, Any]) -> bool:
    """Return whether a slice reverses some dimensions whole: no other one backwards is written by torch's exporter."""
    starts, ends, steps = (known.get(node.input[place], ZERO) for place in (1, 2, STEPS_INPUT))
    return bool((starts == -1).all() and (ends == -(2.0**63)).all() and (steps == -1).all())


def check_shapes(model: Any) -> None:
    """Refuse windows that are larger than what they move over: on shapes below zero, inference of slices aborts.

    So slices are left out here, and shapes behind them are not known.
    """
    onnx = require("onnx", "onnx")
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.node.extend(node for node in model.graph.node if node.op_type != "Slice")
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        bare.graph.initializer.extend([tensor] if math.prod(tensor.dims) <= MAX_LENGTH else [])
    for value in require("onnx.shape_inference", "onnx").infer_shapes(bare).graph.value_info:
        if any(dim.dim_value < 0 for dim in value.type.tensor_type.shape.dim):
            raise ArtifactError(f"the model has a tensor of a size below zero, {value.name[:MAX_LENGTH]!r}")


def find_constants(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the short tensors of numbers that are constants, by name."""
    for tensor in graph.initializer:
        yield from read_if_short(tensor.name, tensor)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield from read_if_short(node.output[0], attribute.t)
            else:
                yield (
                    node.output[0],
                    np.array([attribute.i, attribute.f, *attribute.ints, *attribute.floats], np.float64),
                )


def read_if_short(name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield a tensor as an array, if it may be a shape."""
    dtype = list_dtypes()[tensor.data_type]
    if dtype in ("int32", "int64", "float32", "float64") and math.prod(tensor.dims) <= MAX_LENGTH:
        yield name, np.frombuffer(tensor.raw_data, dtype).astype(np.float64)
