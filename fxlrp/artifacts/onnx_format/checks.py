"""What an ONNX model from elsewhere may hold: what fxlrp writes and no more, so that nothing but ops on tensors runs.

Every field of every message is compared with one table. What is not in it, such as data in other files, functions,
training, sequences, loops and ops of other domains, is refused wherever it is.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch

from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.description.specs import DTYPE_NAMES, Spec
from fxlrp.errors import ArtifactError
from fxlrp.optional import require

FIELDS = {
    name: frozenset(fields.split())
    for name, fields in {
        "ModelProto": "ir_version producer_name producer_version opset_import graph",
        "OperatorSetIdProto": "domain version",
        "GraphProto": "name node initializer input output",
        "NodeProto": "name domain op_type input output attribute",
        "AttributeProto": "name type f i s t floats ints",
        "TensorProto": "name dims data_type raw_data",
        "ValueInfoProto": "name type",
        "TypeProto": "tensor_type",
        "TypeProto.Tensor": "elem_type shape",
        "TensorShapeProto": "dim",
        "TensorShapeProto.Dimension": "dim_value dim_param",
    }.items()
}
"""The fields of each message that fxlrp writes."""
REMARKS = frozenset({"doc_string", "metadata_props", "value_info"})
"""Fields that the exporter of torch writes and that nothing needs."""
OPS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Col2Im Compress Concat Constant ConstantOfShape
    Conv ConvTranspose Cos Cosh CumSum DFT DepthToSpace Det Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg
    NonZero Not OneHot Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu
    SequenceAt Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence
    Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)
"""The ops that torch's exporter makes of ATen: without loops, random numbers and recurrent cells."""
ONNX_NAMES = {"bfloat16": "BFLOAT16", "float16": "FLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}
"""ONNX's names of types where they are not torch's in capitals."""
MAX_NODES = 200_000
MAX_RANK = 64
MAX_STEP = 2**20
"""Largest number in an attribute, such as a stride."""
MAX_LENGTH = 1000
"""Text in one, and numbers in a constant that are looked at: more are no shape."""


def walk_messages(root: Any) -> Iterator[Any]:
    """Yield a message and all in it, each before those in itself."""
    stack = [root]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend([value] if hasattr(value, "ListFields") else value)


def drop_remarks(model: Any) -> None:
    """Leave out what a program does not need to run."""
    for message in walk_messages(model):
        for field, _ in message.ListFields():
            if field.name in REMARKS:
                message.ClearField(field.name)


def check_model(model: Any, manifest: Manifest) -> None:
    """Compare a model with what fxlrp writes, and its inputs and outputs with the manifest.

    Raises:
        ArtifactError: Naming what is wrong.
    """
    if len(model.graph.node) > MAX_NODES:
        raise ArtifactError(f"the model has {len(model.graph.node)} nodes, and {MAX_NODES} are the most")
    for message in walk_messages(model):
        kind = message.DESCRIPTOR.full_name.removeprefix("onnx.")
        for field, _ in message.ListFields():
            if field.name not in FIELDS.get(kind, ()):
                raise ArtifactError(f"the model has {field.name} in {kind}, which fxlrp does not write")
        if kind in CHECKS:
            CHECKS[kind](message)
    check_needed_inputs(model)
    check_interface("takes", model.graph.input, manifest.inputs)
    check_interface("returns", model.graph.output, manifest.outputs)


def check_tensor(tensor: Any) -> None:
    """Refuse a tensor whose numbers are not all there."""
    dtype = list_dtypes().get(tensor.data_type)
    if dtype is None or len(tensor.dims) > MAX_RANK or min(tensor.dims, default=0) < 0:
        raise ArtifactError(f"the model has a tensor of type {tensor.data_type} and shape {shorten(tensor.dims)}")
    size = math.prod(tensor.dims) * getattr(torch, dtype).itemsize
    if size != len(tensor.raw_data):
        raise ArtifactError(f"the model has a tensor of {size} bytes with {len(tensor.raw_data)} of them")


def check_domain(message: Any) -> None:
    """Refuse ops that are not of ONNX itself."""
    if message.domain not in ("", "ai.onnx"):
        raise ArtifactError(f"the model has ops of {message.domain[:MAX_LENGTH]!r}, which fxlrp does not write")


def check_node(node: Any) -> None:
    """Refuse ops that fxlrp does not write."""
    check_domain(node)
    if node.op_type not in OPS:
        raise ArtifactError(f"the model has the op {node.op_type[:MAX_LENGTH]!r}, which fxlrp does not write")


def check_attribute(attribute: Any) -> None:
    """Refuse numbers and texts that no op of fxlrp's has."""
    numbers = [] if attribute.name in CONSTANT_VALUES else [attribute.i, *attribute.ints]
    if max(map(abs, numbers), default=0) > MAX_STEP or len(attribute.s) > MAX_LENGTH:
        raise ArtifactError(f"the model has {attribute.name[:MAX_LENGTH]} = {shorten(attribute.ints or [attribute.i])}")


def check_needed_inputs(model: Any) -> None:
    """Refuse nodes that leave out an input which their op needs: onnxruntime takes it for granted."""
    defs = require("onnx.defs", "onnx")
    if len(model.opset_import) != 1:
        raise ArtifactError(f"the model has {len(model.opset_import)} sets of ops, and fxlrp writes 1")
    for node in model.graph.node:
        inputs = defs.get_schema(node.op_type, model.opset_import[0].version, "").inputs
        for i, name in enumerate(node.input):
            known = inputs[min(i, len(inputs) - 1)]
            if not name and known.option != defs.OpSchema.FormalParameterOption.Optional:
                raise ArtifactError(f"the model has {node.op_type} without an input that it needs")


def check_interface(verb: str, values: Sequence[Any], specs: Sequence[Spec]) -> None:
    """Compare the inputs or outputs of a graph with what the manifest says of them."""
    if [value.name for value in values] != [spec.name for spec in specs]:
        names = ", ".join(value.name for value in values)
        raise ArtifactError(
            f"the model {verb} {names[:MAX_LENGTH]}, and its manifest says {', '.join(s.name for s in specs)}"
        )
    for value, spec in zip(values, specs, strict=True):
        tensor = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        fits = len(sizes) == len(spec.shape) and list_dtypes().get(tensor.elem_type) == spec.dtype
        if not fits or any(isinstance(n, int) and m not in (n, None) for m, n in zip(sizes, spec.shape, strict=True)):
            found = f"{shorten(sizes)} of {list_dtypes().get(tensor.elem_type)}"
            raise ArtifactError(f"the model {verb} {value.name} of shape {found}, and its manifest says {spec}")


def shorten(numbers: Any) -> str:
    """Write a list of numbers, cut off if it is long."""
    return reprlib.repr(list(numbers))


@cache
def list_dtypes() -> dict[int, str]:
    """Return the types of torch by their numbers in ONNX."""
    numbers = require("onnx", "onnx").TensorProto.DataType
    return {numbers.Value(ONNX_NAMES.get(name, name.upper())): name for name in DTYPE_NAMES}


CONSTANT_VALUES = ("value_int", "value_ints")
"""Attributes that are numbers of the program."""
CHECKS: dict[str, Callable[[Any], None]] = {
    "OperatorSetIdProto": check_domain,
    "NodeProto": check_node,
    "AttributeProto": check_attribute,
    "TensorProto": check_tensor,
}
"""What is looked at in each kind of message beside its fields."""
