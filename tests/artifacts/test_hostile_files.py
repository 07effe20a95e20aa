"""Files that would run code, reach other memory or never end if they were trusted: each is refused by name."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import hostile
import hostile_zip
import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.artifacts.pt2.untrusted import check_size
from fxlrp.errors import ArtifactError, FxlrpError

Members = dict[str, bytes]
Json = Any
CANARY = "canary"
MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


class Touch:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path(CANARY).touch, ()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
    attributor = fxlrp.compile(nn.Sequential(*layers).eval(), rules="epsilon_plus", dynamic_shapes="auto")
    return attributor.save(tmp_path_factory.mktemp("good") / "base.pt2", images()).read_bytes()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images() -> Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def load(content: bytes) -> fxlrp.Artifact:
    Path("base.pt2").write_bytes(content)
    try:
        return fxlrp.load("base.pt2")
    finally:
        assert not Path(CANARY).exists()


def forged(good: bytes, change: Callable[[Members], None]) -> bytes:
    """A file of other members, whose digests fit."""
    members = hostile_zip.read(good)
    change(members)
    return hostile_zip.pack(hostile_zip.entries(hostile.sealed(members)))


def add(name: str, content: bytes) -> Callable[[Members], None]:
    return lambda members: members.update({name: content})


def model(change: Callable[[Json], None]) -> Callable[[Members], None]:
    """A change of the graph's description."""

    def changed(members: Members) -> None:
        found = json.loads(members[MODEL])
        change(found)
        members[MODEL] = json.dumps(found).encode()

    return changed


def weights(change: Callable[[Json], None]) -> Callable[[Members], None]:
    """A change of what is said of the first weight."""

    def changed(members: Members) -> None:
        found = json.loads(members[WEIGHTS])
        change(next(iter(found["config"].values())))
        members[WEIGHTS] = json.dumps(found).encode()

    return changed


def signature(found: Json) -> Json:
    return found["graph_module"]["module_call_graph"][0]["signature"]


def context(value: Json) -> Callable[[Json], None]:
    """Another context of the tree of inputs, which torch reads as JSON once more and may import modules for."""

    def change(found: Json) -> None:
        version, tree = json.loads(signature(found)["in_spec"])
        tree["context"] = json.dumps(value)
        signature(found)["in_spec"] = json.dumps([version, tree])

    return change


def size(text: str) -> Callable[[Json], None]:
    """Another expression of the first size that may change."""

    def change(found: Json) -> None:
        tensors = found["graph_module"]["graph"]["tensor_values"].values()
        next(s for t in tensors for s in t["sizes"] if "as_expr" in s)["as_expr"]["expr_str"] = text

    return change


def call(target: str, *inputs: Json) -> Callable[[Json], None]:
    """One more call, at the beginning."""

    def change(found: Json) -> None:
        given = [{"name": name, "arg": value, "kind": 1} for name, value in inputs]
        node = {"target": target, "inputs": given, "outputs": [], "metadata": {}, "name": "more"}
        found["graph_module"]["graph"]["nodes"].insert(0, node)

    return change


INPUT = {"as_tensor": {"name": "input_1"}}

FORGED: dict[str, tuple[Callable[[Members], None], str]] = {
    "pickled constants": (add("data/constants/model.pt", pickle.dumps(Touch())), "unexpected member"),
    "pickled weight": (weights(lambda w: w.update(use_pickle=True)), "pickled"),
    "machine code": (add("data/aotinductor/model/evil.wrapper.so", b"\x7fELF"), "unexpected member"),
    "imports": (model(context({"__enum__": True, "fqn": "ctypes:cdll", "name": "./evil.so"})), "tree"),
    "endless size": (model(size("9**9**9**9")), "unexpected size"),
    "shifted size": (model(size("LShift(1, 10**12)")), "unexpected size"),
    "size of code": (model(size("__import__('os').system('touch canary')")), "unexpected size"),
    "long size": (model(size("Add(" + "Integer(1), " * 9999 + ")")), "size"),
    "deep size": (model(size("Not(" * 500 + "Integer(1)" + ")" * 500)), "size"),
    "name of a range": (
        model(lambda g: g["range_constraints"].update(u999999999999={"min_val": 0, "max_val": 5})),
        "unexpected name of a size",
    ),
    "guards": (model(lambda g: g.update(guards_code=["open('canary', 'w')"])), "guards"),
    "writes": (model(call("torch.ops.aten.zero_.default", ("self", INPUT))), "may not call"),
    "attribute of an op": (model(call("torch.ops.aten.relu.__setattr__", ("", {"as_string": "_op"}))), "may not call"),
    "class of an op": (model(call("torch.ops.aten.relu.__class__", ("", {"as_string": "a"}))), "may not call"),
    "system": (model(call("torch.os.system", ("", {"as_string": "reboot"}))), "may not call"),
    "unsafe sparse tensor": (model(call("torch.ops.aten._sparse_csr_tensor_unsafe.default")), "may not call"),
    "renormalising": (model(call("torch.ops.aten.embedding_renorm_.default", ("self", INPUT))), "may not call"),
    "weight without bytes": (
        weights(lambda w: w["tensor_meta"].update(sizes=[{"as_int": 2**40}], strides=[{"as_int": 1}])),
        "beyond its bytes",
    ),
    "weight elsewhere": (weights(lambda w: w["tensor_meta"].update(storage_offset={"as_int": 2**30})), "beyond"),
    "weight outside": (weights(lambda w: w.update(path_name="../../extra/fxlrp.json")), "cannot be read"),
    "one weight more": (
        lambda members: members.update({WEIGHTS: members[WEIGHTS].replace(b'"0_weight"', b'"__class__.forward"')}),
        "does not take",
    ),
    "huge number": (model(lambda g: g["schema_version"].update(minor=10**30)), "schema_version"),
    "another type": (model(lambda g: g["graph_module"]["graph"].update(nodes={})), "graph.nodes"),
    "graph in a graph": (
        model(call("torch.ops.aten.relu.default", ("self", {"as_graph": {"name": "g", "graph": {}}}))),
        "as_graph",
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_members_are_refused(good: bytes, kind: str) -> None:
    change, text = FORGED[kind]
    with pytest.raises(ArtifactError, match=text):
        load(forged(good, change))


def test_a_directory_that_other_readers_do_not_see_is_refused(good: bytes) -> None:
    """Python reads the directory in front of the end, others the one at the place that the end names."""
    members = hostile_zip.read(good)
    config = members[WEIGHTS].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    first = hostile_zip.pack(hostile_zip.entries(hostile.sealed({**members, WEIGHTS: config})))
    second = hostile_zip.pack(hostile_zip.entries(members))
    number, size, place = struct.unpack("<HII", first[-22:][10:20])
    both = first[:-22] + second[:-22] + hostile_zip.ending(number, size, place)
    for content in (both, b"\x7fELF" + bytes(60) + good, good + b"more"):
        with pytest.raises(ArtifactError):
            load(content)


def test_indices_beyond_memory_are_refused(good: bytes) -> None:
    """The winners of a max pooling, as its backward pass takes them on trust."""

    def change(found: Json) -> None:
        graph = found["graph_module"]["graph"]
        target = "torch.ops.aten.max_pool2d_with_indices_backward.default"
        at, node = next((i, n) for i, n in enumerate(graph["nodes"]) if n["target"] == target)
        given = next(x for x in node["inputs"] if x["name"] == "indices")
        inputs = [
            {"name": "self", "arg": given["arg"], "kind": 1},
            {"name": "other", "arg": {"as_int": 10**12}, "kind": 1},
        ]
        added = {"target": "torch.ops.aten.add.Tensor", "inputs": inputs, "metadata": {}, "name": "forged"}
        graph["nodes"].insert(at, {**added, "outputs": [{"as_tensor": {"name": "forged"}}]})
        given["arg"] = {"as_tensor": {"name": "forged"}}

    artifact = load(forged(good, model(change)))
    with pytest.raises(ArtifactError, match="max_pool2d_with_indices_backward"):
        artifact(images(), target=3)


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Integer(-1))",
        "Pow(Symbol('s77', positive=True, integer=True), Integer(2))",
        "FloorDiv(Symbol('u0', integer=True), Integer(3))",
        "GreaterThan(Piecewise(ExprCondPair(1, Eq(Symbol('u0'), 0)), ExprCondPair(Integer(2), true)), Integer(1))",
    ],
)
def test_sizes_of_torch_are_taken(text: str) -> None:
    check_size(text)


def test_samples_of_hostile_files(good: bytes) -> None:
    """The first of those of ``benchmarks/hostile.py``."""
    x, before = images(), images()
    for seed in range(150):
        _, content = hostile.mutations(good, Random(seed))
        try:
            load(content)(x, target=3)
        except FxlrpError:
            continue
    assert torch.equal(x, before)
