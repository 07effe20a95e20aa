"""Graphs that torch.export would not write: other ops, arguments, names, sizes and trees."""

from __future__ import annotations

import copy
import json
from random import Random

import torch
from hostile_json import NUMBERS, TEXTS, Json, places, scramble, weird

EXPRESSIONS = (
    "2**2**2**40", "LShift(1, 10**12)", "9**9**9**9", "Symbol('s0')", "Symbol('s77') + 1", "1/0", "oo", "-oo", "zoo",
    "-1",    "Max(" * 500 + "1" + ")" * 500, "(" * 10**5, "__import__('os').system('touch canary')", "(lambda: 0)()",
    "1 if 1 else 2",    "Integer(10)**Integer(10)**Integer(10)",
    "FloorDiv(Symbol('s0', positive=True, integer=True), 0)", "s0", "10**400",
    "Symbol('s0', positive=False)", "Piecewise((1, True))", "Symbol('x').__class__", "1.5", "int_oo", "Mod(7, 0)", "",
)  # fmt: skip
CONTEXTS = (
    {"__enum__": True, "fqn": "ctypes:cdll", "name": "./canary"}, {"__enum__": True, "fqn": "this:s", "name": "x"},
    {"__enum__": True, "fqn": "os:environ", "name": "PATH"}, "os.system", ["a"] * 3, None, {"a": 1}, 7, "__class__",
)  # fmt: skip
KINDS_OF_TREES = (
    "builtins.tuple", "builtins.dict", "builtins.list", "collections.OrderedDict", "collections.namedtuple",
    "collections.deque", "collections.defaultdict", "torch.Size", "os.system", "builtins.exec", None, "x.y.Z", 5,
)  # fmt: skip
TARGETS = (
    "torch.ops.aten.from_file.default", "torch.ops.aten.relu_.default", "torch.ops.aten.relu.__class__",
    "torch.ops.aten.relu.overloads", "torch.ops.aten.__init__.__func__", "torch.ops.aten.resize_.default",
    "torch.ops.aten.set_.source_Storage", "torch.ops.aten.add.out", "torch.ops.aten._sparse_coo_tensor_unsafe.default",
    "torch.ops.aten._nested_view_from_buffer.default", "torch.ops.prims.add.default", "torch.os.system", "os.system",
    "torch.load", "torch.ops.load_library", "_operator.pow", "_operator.getitem", "_operator.setitem",
    "_operator.attrgetter",    "builtins.eval", "math.factorial",
    "torch.ops.higher_order.cond", "torch.ops.aten.sym_size.int", "torch.hub.load",
    "torch.ops.mkldnn._linear_pointwise.default", "torch.sym_max", "torch.ops.aten.empty.memory_format", "",
)  # fmt: skip
INDEXED = ("index", "indices", "target", "offsets", "pivots", "offset2bag", "lengths")


def graph_of(model: Json) -> Json:
    return model["graph_module"]["graph"]


def retarget(model: Json, rng: Random) -> None:
    """Another op in the place of one."""
    every = [f"torch.ops.{name.replace('::', '.')}" for name in torch._C._dispatch_get_all_op_names()]
    known = [name if name.count(".") == 3 else f"{name}.default" for name in every]
    rng.choice(graph_of(model)["nodes"])["target"] = rng.choice((rng.choice(TARGETS), rng.choice(known)))


def readdress(model: Json, rng: Random) -> None:
    """Other tensors, or other kinds of values, as arguments."""
    graph = graph_of(model)
    node = rng.choice([node for node in graph["nodes"] if node["inputs"]])
    given = rng.choice(node["inputs"])
    names = list(graph["tensor_values"])
    number, text = rng.choice(NUMBERS), rng.choice(TEXTS)
    kinds: list[Json] = [
        *({"as_tensor": {"name": rng.choice(names)}} for _ in range(4)),
        *({"as_int": number}, {"as_ints": [number] * rng.randrange(6)}, {"as_float": rng.choice((0.0, -1e300, 1e300))}),
        *(
            {"as_bool": True},
            {"as_none": True},
            {"as_string": text},
            {"as_strings": [text]},
            {"as_scalar_type": number},
        ),
        *({"as_device": {"type": text, "index": None}}, {"as_layout": rng.randrange(9)}, {"as_memory_format": number}),
        *({"as_tensors": [{"name": rng.choice(names)}] * 3}, {"as_sym_int": {"as_name": text}}, {"as_operator": text}),
        *({"as_custom_obj": {"name": text, "class_fqn": text}}, {"as_complex": {"real": 1.0, "imag": number}}),
        *(
            {"as_int_lists": [[number]]},
            {"as_optional_tensors": [{"as_none": True}]},
            {"as_graph": {"name": "g", "graph": graph}},
        ),
    ]
    given["arg"] = copy.deepcopy(rng.choice(kinds))
    if rng.random() < 0.2:
        given["name"], given["kind"] = rng.choice((("self", 1), ("out", 2), (text, 1), ("other", number)))


def forge(model: Json, rng: Random) -> None:
    """Numbers far out of range where an op takes indices."""
    graph = graph_of(model)
    taking = [(n, i) for n in graph["nodes"] for i in n["inputs"] if i["name"] in INDEXED and "as_tensor" in i["arg"]]
    node, given = rng.choice(taking or [(n, i) for n in graph["nodes"] for i in n["inputs"] if "as_tensor" in i["arg"]])
    name = given["arg"]["as_tensor"]["name"]
    forged = f"forged_{rng.randrange(10**6)}"
    other = {"name": "other", "arg": {"as_int": rng.choice((10**12, -(10**12), 10**5, -5, 2**62))}, "kind": 1}
    op = rng.choice(("add", "mul"))
    first = {"name": "self", "arg": {"as_tensor": {"name": name}}, "kind": 1}
    add(graph, graph["nodes"].index(node), f"torch.ops.aten.{op}.Tensor", [first, other], forged, name)
    given["arg"] = {"as_tensor": {"name": forged}}


def add(graph: Json, at: int, target: str, inputs: Json, name: str, like: str) -> None:
    """One more node before another."""
    graph["tensor_values"][name] = graph["tensor_values"][like]
    node = {
        "target": target,
        "inputs": inputs,
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {},
        "name": name,
    }
    graph["nodes"].insert(at, {**node, "is_hop_single_tensor_return": None})


def intrude(model: Json, rng: Random) -> None:
    """A call of any op of ATen on what is there, with any numbers; its result takes the place of one of the results."""
    graph = graph_of(model)
    schema = rng.choice([s for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")])
    names = [node["outputs"][0]["as_tensor"]["name"] for node in graph["nodes"] if "as_tensor" in node["outputs"][0]]

    def made(kind: str) -> Json:
        number = rng.choice(NUMBERS[:12])
        if kind.startswith(("Tensor", "Optional[Tensor]")):
            return {"as_tensor": {"name": rng.choice(names)}}
        if kind.startswith("List[Tensor]"):
            return {"as_tensors": [{"name": rng.choice(names)} for _ in range(2)]}
        by_kind = {"List[int]": {"as_ints": [number] * 2}, "float": {"as_float": 0.5}, "bool": {"as_bool": True},
                   "str": {"as_string": rng.choice(TEXTS)}}  # fmt: skip
        return by_kind.get(kind.removeprefix("Optional[").removesuffix("]"), {"as_int": number})

    inputs = [
        {"name": a.name, "arg": made(str(a.type)), "kind": 2 if a.kwarg_only else 1}
        for a in schema.arguments
        if not a.has_default_value() or rng.random() < 0.2
    ]
    target = f"torch.ops.aten.{schema.name.removeprefix('aten::')}.{schema.overload_name or 'default'}"
    add(graph, len(graph["nodes"]), target, inputs, "intruder", rng.choice(names))
    at = rng.randrange(len(graph["outputs"]))
    graph["outputs"][at] = {"as_tensor": {"name": "intruder"}}
    outputs = model["graph_module"]["signature"]["output_specs"]
    outputs[at]["user_output"]["arg"] = {"as_tensor": {"name": "intruder"}}


def rename(model: Json, rng: Random) -> None:
    """Names that are twice, nowhere, or strange."""
    scramble(model["graph_module"], rng, lambda place: place[1] in ("name", "as_name", "parameter_name", "buffer_name"))


def reorder(model: Json, rng: Random) -> None:
    """Nodes, inputs or results in another order, removed or double."""
    graph, signature = graph_of(model), model["graph_module"]["signature"]
    lists = (graph["nodes"], graph["inputs"], graph["outputs"], signature["input_specs"], signature["output_specs"])
    values = rng.choice(lists)
    at = rng.randrange(len(values))
    how = rng.randrange(4)
    if how == 0:
        rng.shuffle(values)
    elif how == 1:
        del values[at]
    else:
        values.insert(rng.randrange(len(values) + 1), copy.deepcopy(values[at]))


def describe(model: Json, rng: Random) -> None:
    """Wrong types, sizes or devices of tensors."""
    scramble(graph_of(model)["tensor_values"], rng)


def resize(model: Json, rng: Random) -> None:
    """Expressions of sizes, or their ranges."""
    found = [place for place in places(model) if place[1] == "expr_str"]
    if found and rng.random() < 0.7:
        inside, key = rng.choice(found)
        inside[key] = rng.choice((rng.choice(EXPRESSIONS), inside[key] + rng.choice((" + 1", "*0", ")", "**9**9**9"))))
    else:
        ranges = model["range_constraints"]
        limits = {"min_val": rng.choice(NUMBERS), "max_val": rng.choice((None, *NUMBERS))}
        ranges[rng.choice([*ranges, "s99", rng.choice(TEXTS)])] = rng.choice((limits, weird(rng)))


def respecify(model: Json, rng: Random) -> None:
    """Other trees of inputs and results."""
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    key = rng.choice(("in_spec", "out_spec"))
    spec = json.loads(signature[key])
    nodes = [place for place in places(spec) if place[1] in ("type", "context")]
    for inside, name in rng.choices(nodes, k=rng.choice((1, 1, 3))) if nodes else []:
        inside[name] = rng.choice(KINDS_OF_TREES) if name == "type" else json.dumps(rng.choice(CONTEXTS))
    if rng.random() < 0.3:
        scramble(spec, rng)
    deep = "[" * 10**5
    signature[key] = rng.choice((json.dumps(spec), json.dumps(spec), json.dumps(spec), deep, "", "null"))
