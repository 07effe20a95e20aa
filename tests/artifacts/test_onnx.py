"""ONNX files from strangers: nothing but ops on tensors, of the sizes and names that the manifest says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile_onnx import mutations, parts, resealed
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import fxlrp
from fxlrp import ArtifactError, FxlrpError
from fxlrp.artifacts.onnx_format.checks import MAX_NODES, walk_messages
from fxlrp.artifacts.onnx_format.sizes import MAX_ENTRIES

Change = Callable[[Any, Path], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    attributor = fxlrp.compile(nn.Sequential(*layers).eval(), rules="epsilon_plus", dynamic_shapes="auto")
    return attributor.save(tmp_path_factory.mktemp("onnx") / "model.onnx", torch.rand(2, 1, 8, 8))


def forged(saved: Path, change: Change, into: Path) -> Path:
    """A file with another model, whose digest fits."""
    model, manifest = parts(saved.read_bytes())
    change(model, into.parent)
    into.write_bytes(resealed(model.SerializeToString(), manifest))
    return into


def elsewhere(folder: Path) -> TensorProto:
    """A tensor whose numbers are in another file."""
    (folder / "secret.bin").write_bytes(b"\x11" * 16)
    tensor = TensorProto(name="leak", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(kind: str, tensor: Any) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Constant", output=["leaked"], attribute=[helper.make_attribute(kind, tensor)])


def sparse(folder: Path) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    return onnx.SparseTensorProto(values=elsewhere(folder), indices=indices, dims=[8])


def graph(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    kind = helper.make_tensor_value_info
    inputs = [kind("i", TensorProto.INT64, []), kind("c", TensorProto.BOOL, []), kind("v", TensorProto.FLOAT, [1])]
    outputs = [kind("c2", TensorProto.BOOL, []), kind("v2", TensorProto.FLOAT, [1])]
    nodes = [*nodes, helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["v", "v"], ["v2"])]
    return helper.make_graph(nodes, "body", inputs, outputs)


def function(model: Any, nodes: list[onnx.NodeProto]) -> None:
    opsets = [helper.make_opsetid("evil", 1), *model.opset_import]
    model.functions.append(helper.make_function("evil", "F", [], ["leaked"], nodes, opsets))


def initializer(model: Any, name: str, value: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))


def sized(op: str, size: Any, before: int = 0) -> Change:
    """A node that makes something of a size that is a constant."""

    def change(model: Any, folder: Path) -> None:
        initializer(model, "size", size)
        model.graph.node.append(helper.make_node(op, [*["input_1"] * before, "size"], ["big"]))

    return change


def loop(model: Any, folder: Path) -> None:
    for name, value in (("trips", 2**62), ("condition", True), ("state", np.ones(1, np.float32))):
        initializer(model, name, value)
    model.graph.node.append(helper.make_node("Loop", ["trips", "condition", "state"], ["endless"], body=graph([])))


def recursive(model: Any, folder: Path) -> None:
    function(model, [helper.make_node("F", [], ["leaked"], domain="evil")] * 2)
    model.graph.node.append(helper.make_node("F", [], ["leaked"], domain="evil"))


def deep(model: Any, folder: Path) -> None:
    inner = graph([])
    for _ in range(15):
        inner = graph([helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner)][:1])
        if inner.ByteSize() > 10**6:
            break
    model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner))


def renamed(which: str) -> Change:
    def change(model: Any, folder: Path) -> None:
        getattr(model.graph, which)[0].name = "other"

    return change


def set_in(change: Callable[[Any], Any]) -> Change:
    return lambda model, folder: change(model) and None


LEAKS: dict[str, Change] = {
    "initializer": lambda m, f: m.graph.initializer.append(elsewhere(f)),
    "sparse initializer": lambda m, f: m.graph.sparse_initializer.append(sparse(f)),
    "attribute": lambda m, f: m.graph.node.append(constant("value", elsewhere(f))),
    "sparse attribute": lambda m, f: m.graph.node.append(constant("sparse_value", sparse(f))),
    "tensors of an attribute": lambda m, f: m.graph.node[0].attribute.append(
        helper.make_attribute("x", [elsewhere(f)])
    ),
    "function": lambda m, f: function(m, [constant("value", elsewhere(f))]),
    "branch": lambda m, f: m.graph.node.append(
        helper.make_node("If", ["c"], ["x"], then_branch=graph([constant("value", elsewhere(f))]))
    ),
    "training": lambda m, f: m.training_info.add().algorithm.initializer.append(elsewhere(f)),
    "location alone": lambda m, f: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
}
TOO_MUCH: dict[str, Change] = {
    "loop": loop,
    "recursive function": recursive,
    "branches in branches": deep,
    "another domain": lambda m, f: m.graph.node.append(helper.make_node("W", ["input_1"], ["w"], domain="evil")),
    "a domain without ops": lambda m, f: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "sequence": lambda m, f: m.graph.node.append(helper.make_node("SequenceEmpty", [], ["s"])),
    "random numbers": lambda m, f: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[2])),
    "huge constant": sized("ConstantOfShape", [1 << 32]),
    "huge product": sized("ConstantOfShape", [1 << 16] * 3),
    "huge expansion": sized("Expand", [1 << 40], 1),
    "huge tiles": sized("Tile", [1, 1, 1, 1 << 40], 1),
    "huge range": lambda m, f: (
        initializer(m, "limit", 1 << 40),
        m.graph.node.append(helper.make_node("Range", ["limit", "limit", "limit"], ["big"])),
    ),
    "huge constant of a node": lambda m, f: m.graph.node.extend(
        [
            helper.make_node("Constant", [], ["size"], value_ints=[MAX_ENTRIES + 1]),
            helper.make_node("ConstantOfShape", ["size"], ["big"]),
        ]
    ),
    "huge padding": lambda m, f: m.graph.node[0].attribute.append(helper.make_attribute("pads", [1 << 40] * 4)),
    "slice with steps backwards": lambda m, f: (
        initializer(m, "one", [-1]),
        m.graph.node.append(helper.make_node("Slice", ["input_1", "one", "one", "one", "one"], ["x"])),
    ),
    "slice with unknown steps": lambda m, f: m.graph.node.append(
        helper.make_node("Slice", ["input_1", "target", "target", "target", "target"], ["x"])
    ),
    "window larger than what it moves over": lambda m, f: m.graph.node.append(
        helper.make_node("MaxPool", ["input_1"], ["x"], kernel_shape=[99, 1])
    ),
    "op without what it needs": lambda m, f: m.graph.node.append(helper.make_node("Min", ["input_1", ""], ["x"])),
    "two sets of ops": lambda m, f: m.opset_import.append(helper.make_opsetid("", 11)),
    "too many nodes": lambda m, f: m.graph.node.extend([helper.make_node("Abs", ["input_1"], ["x"])] * MAX_NODES),
    "tensor that is larger than its numbers": lambda m, f: m.graph.initializer[0].dims.append(1000),
    "tensor of negative size": lambda m, f: m.graph.initializer[0].dims.append(-1),
    "tensor of many dimensions": lambda m, f: m.graph.initializer[0].dims.extend([1] * 1000),
    "tensor of texts": lambda m, f: m.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], ["x"])),
    "tensor of an unknown type": lambda m, f: setattr(m.graph.initializer[0], "data_type", 999),
}
OTHER: dict[str, Change] = {
    "another input": renamed("input"),
    "another output": renamed("output"),
    "one input more": lambda m, f: m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])),
    "one output less": lambda m, f: m.graph.output.pop(),
    "another type": lambda m, f: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
    "another rank": lambda m, f: m.graph.input[0].type.tensor_type.shape.dim.pop() and None,
    "another size": lambda m, f: setattr(m.graph.input[0].type.tensor_type.shape.dim[3], "dim_value", 9),
    "outputs in another order": lambda m, f: m.graph.output.append(m.graph.output.pop(0)),
}


@pytest.mark.parametrize("name", [*LEAKS, *TOO_MUCH, *OTHER])
def test_what_fxlrp_does_not_write_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    change = {**LEAKS, **TOO_MUCH, **OTHER}[name]
    with pytest.raises(ArtifactError, match="its manifest says" if name in OTHER else "the model"):
        fxlrp.load(forged(saved, change, tmp_path / "model.onnx"))


def test_what_is_written_is_what_may_be_read(saved: Path, tmp_path: Path) -> None:
    """A file that was taken apart and put together again is loaded; nothing in it tells of the machine."""
    artifact, again = fxlrp.load(saved), fxlrp.load(forged(saved, lambda m, f: None, tmp_path / "model.onnx"))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(artifact(x, target=1).relevance, again(x, target=1).relevance)
    assert onnx.load(saved).graph.value_info == []
    onnx.checker.check_model(str(saved), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(1,), (2, 3), (-1,)])
def test_dimensions_in_reverse_are_read(tmp_path: Path, dims: tuple[int, ...]) -> None:
    """As an LSTM of two directions has them: slices with steps backwards."""

    class Flipped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flip(dims) * torch.arange(10.0).view(1, 5, 2, 1)).sum((1, 3))

    attributor, x = fxlrp.compile(Flipped().eval()), torch.rand(2, 5, 2, 3)
    artifact = fxlrp.load(attributor.save(tmp_path / "flipped.onnx", x))
    assert torch.allclose(artifact(x, target=1).relevance, attributor(x, target=1).relevance)


def test_a_model_that_looks_like_another_format_is_read_as_onnx(saved: Path, tmp_path: Path) -> None:
    """Onnxruntime takes a file with these letters at its fifth byte for one of its own format."""

    def change(model: Any, folder: Path) -> None:
        model.ClearField("producer_version")
        model.ir_version, model.producer_name = 10, "ORTM"

    path = forged(saved, change, tmp_path / "model.onnx")
    assert path.read_bytes()[4:8] == b"ORTM"
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(fxlrp.load(path)(x, target=1).relevance, fxlrp.load(saved)(x, target=1).relevance)


def test_what_the_package_does_not_know_is_not_handed_on(saved: Path, tmp_path: Path) -> None:
    model, manifest = parts(saved.read_bytes())
    unknown = b"\xfa\x7f\x03abc"  # field 2047
    path = tmp_path / "model.onnx"
    path.write_bytes(resealed(model.SerializeToString() + unknown, manifest))
    fxlrp.load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda content, behind: content + b"\x00", "goes on behind its manifest|damaged"),
        (lambda content, behind: content[:-1], "goes on behind its manifest|damaged"),
        (lambda content, behind: content[: -len(behind)], "no manifest"),
        (lambda content, behind: content + behind, "SHA-256|goes on"),
        (lambda content, behind: behind, "SHA-256"),
        (lambda content, behind: content[1:], "SHA-256"),
        (lambda content, behind: b"", "no manifest"),
    ],
)
def test_files_that_are_cut_or_go_on(saved: Path, tmp_path: Path, change: Callable[..., bytes], text: str) -> None:
    content = saved.read_bytes()
    behind = content[content.rindex(b"r") if False else len(parts(content)[0].SerializeToString()) :]
    (tmp_path / "model.onnx").write_bytes(change(content, behind))
    with pytest.raises(ArtifactError, match=text):
        fxlrp.load(tmp_path / "model.onnx")


def test_a_manifest_of_another_format_is_refused(saved: Path, tmp_path: Path) -> None:
    model, manifest = parts(saved.read_bytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(resealed(model.SerializeToString(), {**manifest, "format": "pt2"}))
    with pytest.raises(ArtifactError, match="of format 'pt2'"):
        fxlrp.load(path)


def test_manifests_of_any_length_are_found(saved: Path, tmp_path: Path) -> None:
    """The bytes of its length may look like the beginning of JSON."""
    model, manifest = parts(saved.read_bytes())
    path = tmp_path / "model.onnx"
    start = len(json.dumps(manifest))
    for more in range(0, 16_000 - start, 61):
        path.write_bytes(resealed(model.SerializeToString(), {**manifest, "table": "x" * more}))
        fxlrp.artifacts.onnx_format.trailer.read_trailer(path.read_bytes())


def test_mutations(saved: Path, tmp_path: Path) -> None:
    """Of messages, manifests and bytes: an error at load, or a call that works or fails as documented."""
    content, chance, x = saved.read_bytes(), random.Random(0), torch.rand(2, 1, 8, 8)
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(300):
        path.write_bytes(mutations(content, chance))
        try:
            artifact = fxlrp.load(path)
        except ArtifactError:
            refused += 1
            continue
        with suppress(FxlrpError):
            artifact(x, target=1)
    assert refused > 150


def test_messages_come_before_what_is_in_them() -> None:
    model = helper.make_model(graph([]))
    found = [message.DESCRIPTOR.name for message in walk_messages(model)]
    assert found[0] == "ModelProto"
    assert found.count("NodeProto") == 2
    assert found.count("ValueInfoProto") == 5
