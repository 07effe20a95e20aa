"""ONNX artefacts as no one would write them: changes of every kind of field, under a manifest whose digests fit."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import onnx
from hostile_manifest import mutate, sealed
from onnx import TensorProto, helper

from fxlrp.artifacts.onnx_format.checks import walk_messages
from fxlrp.artifacts.onnx_format.trailer import METADATA_KEY

OPS = (
    "Loop",
    "Scan",
    "If",
    "SequenceMap",
    "SequenceAt",
    "Gather",
    "GatherND",
    "Reshape",
    "Expand",
    "Tile",
    "Pad",
    "Range",
)
MORE_OPS = (
    "ConstantOfShape",
    "Constant",
    "Conv",
    "ConvTranspose",
    "MatMul",
    "ScatterND",
    "TopK",
    "Split",
    "Slice",
    "Nope",
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.training", "evil")
INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 13, 17, 2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1)
TEXTS = ("", "x", "input_1", "target", "output", "/etc/passwd", "../x", "é", "\x00", "a" * 3000)


def parts(content: bytes) -> tuple[Any, dict[str, Any]]:
    """The model in an artefact, and what its manifest says."""
    model = onnx.ModelProto.FromString(content)
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    del model.metadata_props[:]
    return model, json.loads(entry.value)


def resealed(model: bytes, manifest: dict[str, Any]) -> bytes:
    """A file of these parts, whose digests fit."""
    manifest = {**manifest, "parts": {"model": hashlib.sha256(model).hexdigest()}}
    entry = onnx.StringStringEntryProto(key=METADATA_KEY, value=sealed(manifest))
    trailer: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return model + trailer


def mutations(content: bytes, rng: random.Random) -> bytes:
    """An artefact with one to three changes of its messages, its manifest or its bytes."""
    model, manifest = parts(content)
    kind = rng.choice(("fields", "fields", "fields", "structure", "structure", "manifest", "bytes"))
    if kind == "manifest":
        found = mutate(manifest, rng)
        return resealed(model.SerializeToString(), found if isinstance(found.get("parts"), dict) else manifest)
    if kind == "bytes":
        return rng.choice((resealed(scrambled(model.SerializeToString(), rng), manifest), scrambled(content, rng)))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if kind == "fields":
            change_field(model, rng)
        else:
            rng.choice(STRUCTURES)(model, rng)
    return resealed(model.SerializePartialToString(), manifest)


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut off, or doubled."""
    place = rng.randrange(len(content))
    kind = rng.randrange(3)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place : place + 500] + content[place:]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 3, 30))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def change_field(model: Any, rng: random.Random) -> None:
    """Change one field of one message, of whatever kind: another value of its type, none, or one from elsewhere."""
    message = rng.choice(list(walk_messages(model)))
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    repeated = hasattr(value, "append") or hasattr(value, "add")
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        alike = [one for one in walk_messages(model) if one.DESCRIPTOR is field.message_type]
        new = field.message_type._concrete_class()
        if alike:
            new.CopyFrom(rng.choice(alike))
        if not repeated:
            value.CopyFrom(new)
        elif len(value) and rng.random() < 0.5:
            value[rng.randrange(len(value))].CopyFrom(new)
        else:
            value.add().CopyFrom(new)
    elif repeated and len(value) and rng.random() < 0.7:
        value[rng.randrange(len(value))] = scalar(field, rng)
    elif repeated:
        value.append(scalar(field, rng))
    else:
        setattr(message, field.name, scalar(field, rng))


def scalar(field: Any, rng: random.Random) -> Any:
    """A value of the type of a field."""
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    kinds = {field.CPPTYPE_FLOAT: "float", field.CPPTYPE_DOUBLE: "float", field.CPPTYPE_STRING: "text"}
    kind = kinds.get(field.cpp_type, "int")
    if kind == "float":
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if kind == "text":
        chosen = rng.choice((*TEXTS, *OPS, *MORE_OPS, *DOMAINS))
        return chosen.encode() if field.type == field.TYPE_BYTES else chosen
    if field.cpp_type == field.CPPTYPE_UINT64:
        return rng.choice((0, 1, 2**63))
    wide = field.cpp_type == field.CPPTYPE_INT64
    return rng.choice(INTEGERS if wide else [n for n in INTEGERS if abs(n) < 2**31])


def other_data(model: Any, rng: random.Random) -> None:
    """Let a tensor read another file."""
    tensor = rng.choice([one for one in walk_messages(model) if one.DESCRIPTOR is TensorProto.DESCRIPTOR])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=rng.choice(("/etc/passwd", "../x", "*/_ORT_MEM_ADDR_/*")))
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")


def other_shape(model: Any, rng: random.Random) -> None:
    """Let a tensor or an input be of another shape."""
    kinds = (TensorProto.DESCRIPTOR, onnx.TensorShapeProto.DESCRIPTOR)
    shape = rng.choice([one for one in walk_messages(model) if one.DESCRIPTOR in kinds])
    if shape.DESCRIPTOR is TensorProto.DESCRIPTOR:
        shape.dims[:] = [rng.choice(INTEGERS) for _ in range(rng.randrange(4))]
    else:
        del shape.dim[:]
        for _ in range(rng.randrange(4)):
            shape.dim.add(dim_value=rng.choice(INTEGERS))


def other_numbers(model: Any, rng: random.Random) -> None:
    """Put odd numbers into a tensor of them: sizes, indices, or weights."""
    tensors = [one for one in walk_messages(model) if one.DESCRIPTOR is TensorProto.DESCRIPTOR]
    whole = [one for one in tensors if one.data_type == TensorProto.INT64 and one.raw_data]
    tensor = rng.choice(whole or tensors)
    count = len(tensor.raw_data) // 8
    tensor.raw_data = b"".join(rng.choice(INTEGERS).to_bytes(8, "little", signed=True) for _ in range(count))


def other_op(model: Any, rng: random.Random) -> None:
    """Let a node run another op, or one of another domain."""
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice((*OPS, *MORE_OPS, rng.choice(model.graph.node).op_type))
    node.domain = rng.choice(DOMAINS)


def other_wiring(model: Any, rng: random.Random) -> None:
    """Let a node take or give another value."""
    one, other = (rng.choice(model.graph.node) for _ in range(2))
    names = rng.choice((one.input, one.output))
    given = [*other.input, *other.output, "", "nowhere"]
    if len(names) and rng.random() < 0.8:
        names[rng.randrange(len(names))] = rng.choice(given)
    else:
        names.append(rng.choice(given))


def inner_graph(model: Any, rng: random.Random) -> None:
    """Hide the whole graph in an attribute of a node, or of nodes in nodes."""
    name = rng.choice(("body", "then_branch", "value"))
    for _ in range(rng.choice((1, 1, 3, 9))):
        inner = onnx.GraphProto()
        inner.CopyFrom(model.graph)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.append(helper.make_node(rng.choice(("Loop", "If", "Identity")), ["input_1"], ["output"]))
        model.graph.node[0].attribute.append(helper.make_attribute(name, inner))


def function(model: Any, rng: random.Random) -> None:
    """Add a function, one that calls itself, or training."""
    nodes = [rng.choice(model.graph.node) for _ in range(2)]
    nodes[0].domain, nodes[0].op_type = "evil", "F"
    opset = helper.make_opsetid("evil", 1)
    model.functions.append(helper.make_function("evil", "F", ["a"], ["b"], nodes, [opset, *model.opset_import]))
    model.opset_import.append(opset)
    if rng.random() < 0.3:
        model.training_info.add().algorithm.CopyFrom(model.graph)


def order(model: Any, rng: random.Random) -> None:
    """Put nodes, inputs or outputs into another order, or double one."""
    listed = rng.choice((model.graph.node, model.graph.input, model.graph.output, model.graph.initializer))
    found = [type(one).FromString(one.SerializeToString()) for one in listed]
    rng.shuffle(found)
    del listed[:]
    listed.extend(found[rng.randrange(2) :] + found[: rng.randrange(2)])


STRUCTURES: tuple[Callable[[Any, random.Random], None], ...] = (
    other_data,
    other_shape,
    other_numbers,
    other_op,
    other_wiring,
    inner_graph,
    function,
    order,
)
