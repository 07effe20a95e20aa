"""From the graph and the weights of a ``.pt2`` file, which were looked through, to the module that runs them.

It is made of the ops, their arguments and the weights alone. `torch.export.load` would also evaluate sizes, run guards
as Python code and unpickle; nothing of that is needed to compute.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp._torch import find_schema, list_schema_dtypes, list_schema_formats
from fxlrp.artifacts.safe_ops.gate import resolve_op
from fxlrp.errors import ArtifactError

Find = Callable[[str], fx.Node]

POSITIONAL = 1
STRIDED = 7


def read_size(find: Find, value: Mapping[str, Any]) -> Any:
    """Return a number or, by its name, what computes it."""
    (part,) = value.values()
    return find(part) if "as_name" in value else part


def read_tensor(find: Find, value: Mapping[str, Any]) -> fx.Node | None:
    """Find a tensor by its name, or none."""
    return None if "as_none" in value else find(value.get("as_tensor", value)["name"])


def read_device(value: Mapping[str, Any]) -> torch.device:
    """Read a device."""
    index = value.get("index")
    try:
        return torch.device(value["type"] if index is None else f"{value['type']}:{index}")
    except RuntimeError as error:
        raise ArtifactError(f"the graph names a device that torch does not know: {error}") from error


def look_up(table: Mapping[int, Any], number: int) -> Any:
    """Return what a number of torch's description stands for.

    Raises:
        ArtifactError: If it is nothing that fxlrp writes.
    """
    if number not in table:
        raise ArtifactError(f"the graph has the type, layout or format {number}, which fxlrp does not write")
    return table[number]


ARGUMENTS: dict[str, Callable[[Find, Any], Any]] = {
    "as_none": lambda find, _: None,
    "as_tensor": read_tensor,
    "as_tensors": lambda find, x: [read_tensor(find, t) for t in x],
    "as_optional_tensor": read_tensor,
    "as_optional_tensors": lambda find, x: [read_tensor(find, t) for t in x],
    "as_int": lambda find, x: x,
    "as_ints": lambda find, x: x,
    "as_bool": lambda find, x: x,
    "as_bools": lambda find, x: x,
    "as_string": lambda find, x: x,
    # of floating point numbers that JSON does not have torch writes the words that Python reads, such as Infinity
    "as_float": lambda find, x: float(x),
    "as_floats": lambda find, x: [float(n) for n in x],
    "as_complex": lambda find, x: complex(float(x["real"]), float(x["imag"])),
    "as_sym_int": read_size,
    "as_sym_float": read_size,
    "as_sym_bool": read_size,
    "as_sym_ints": lambda find, x: [read_size(find, n) for n in x],
    "as_sym_floats": lambda find, x: [read_size(find, n) for n in x],
    "as_sym_bools": lambda find, x: [read_size(find, n) for n in x],
    "as_scalar_type": lambda find, x: look_up(list_schema_dtypes(), x),
    "as_memory_format": lambda find, x: look_up(list_schema_formats(), x),
    "as_layout": lambda find, x: look_up({STRIDED: torch.strided}, x),
    "as_device": lambda find, x: read_device(x),
}
"""How each kind of argument is read."""
WEIGHT_KEYS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
"""Where the signature names a weight of each kind."""
RESULT_KINDS = ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool")
"""Kinds of results that have a name."""


class NamedNodes:
    """What a graph has computed so far, by name."""

    def __init__(self) -> None:
        self.nodes: dict[str, fx.Node] = {}

    def find(self, name: str) -> fx.Node:
        """Find what has a name.

        Raises:
            ArtifactError: If nothing has.
        """
        if name not in self.nodes:
            raise ArtifactError(f"the graph uses {name[:100]!r}, which nothing before it computes")
        return self.nodes[name]

    def keep(self, name: str, node: fx.Node) -> None:
        """Give something a name.

        Raises:
            ArtifactError: If something else has it.
        """
        if name in self.nodes:
            raise ArtifactError(f"the graph computes {name[:100]!r} twice")
        self.nodes[name] = node


def build_module(
    graph: Mapping[str, Any], signature: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> fx.GraphModule:
    """Build the module of a graph, which takes the user's tensors in order and returns a tuple.

    Names in the file are looked up and nothing else: the code that is made of the graph has names of its own.

    Raises:
        ArtifactError: If something is used before it is there, is not there, or is called in a way that its op is not.
    """
    taken = {
        spec[kind][WEIGHT_KEYS[kind]] for spec in signature["input_specs"] for kind in spec.keys() & WEIGHT_KEYS.keys()
    }
    if unknown := weights.keys() - taken:
        raise ArtifactError(f"the artefact has a weight that its graph does not take: {min(unknown)[:100]!r}")
    made, root, known = fx.Graph(), nn.Module(), NamedNodes()
    for given, spec in zip_equal(graph["inputs"], signature["input_specs"], "inputs"):
        known.keep(read_tensor_name(given), make_input(made, root, spec, given, weights))
    for node in graph["nodes"]:
        call = made.call_function(*read_call(known.find, node))
        for name, result in make_results(made, node, call):
            known.keep(name, result)
    for returned, spec in zip_equal(graph["outputs"], signature["output_specs"], "outputs"):
        if spec != {"user_output": {"arg": returned}}:
            raise ArtifactError("the graph writes to its inputs, or returns what it does not compute")
    made.output(tuple(known.find(read_tensor_name(returned)) for returned in graph["outputs"]))
    return fx.GraphModule(root, made)


def zip_equal(one: list[Any], other: list[Any], what: str) -> Any:
    """Go through both in turn.

    Raises:
        ArtifactError: If one is longer.
    """
    if len(one) != len(other):
        raise ArtifactError(f"the graph has {len(one)} {what}, and its signature {len(other)}")
    return zip(one, other, strict=True)


def read_tensor_name(value: Mapping[str, Any]) -> str:
    """Return the name of a tensor that goes in or comes out.

    Raises:
        ArtifactError: If it is something else.
    """
    if "as_tensor" not in value:
        raise ArtifactError(f"the graph takes or returns {min(value)!r}, where fxlrp writes tensors")
    name: str = value["as_tensor"]["name"]
    return name


def make_input(
    made: fx.Graph, root: nn.Module, spec: Mapping[str, Any], given: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> fx.Node:
    """Make a node for an input: what the user gives, or a weight that the module has."""
    ((kind, content),) = spec.items()
    if content.get("arg") != (given if kind == "user_input" else given["as_tensor"]):
        raise ArtifactError("the signature of the graph names other inputs than the graph")
    if kind == "user_input":
        return made.placeholder(f"input_{len(made.nodes)}")
    if kind not in WEIGHT_KEYS:
        raise ArtifactError(f"the graph takes a {kind}, which fxlrp does not write")
    if (key := content[WEIGHT_KEYS[kind]]) not in weights:
        raise ArtifactError(f"the artefact has no weight {key[:100]!r}")
    name = f"weight_{len(made.nodes)}"
    root.register_buffer(name, weights[key])
    return made.get_attr(name)


def read_call(find: Find, node: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Read the function of a node, and its arguments in the order of the op's schema."""
    target = node["target"]
    function = resolve_op(target)
    values = [(given["name"], given.get("kind"), read_argument(find, given["arg"])) for given in node["inputs"]]
    schema = find_schema(target)
    if schema is None:
        return function, tuple(value for _, _, value in values), {}
    names = [a.name for a in schema.arguments]
    if len({name for name, _, _ in values}) < len(values) or any(name not in names for name, _, _ in values):
        raise ArtifactError(f"{target} is called with {', '.join(n[:40] for n, _, _ in values)}, and takes {names}")
    args = [value for _, kind, value in values if kind == POSITIONAL]
    if [name for name, kind, _ in values if kind == POSITIONAL] != names[: len(args)]:
        raise ArtifactError(f"{target} is called with its arguments in another order than {', '.join(names)}")
    return function, tuple(args), {name: value for name, kind, value in values if kind != POSITIONAL}


def read_argument(find: Find, value: Mapping[str, Any]) -> Any:
    """Read an argument of an op.

    Raises:
        ArtifactError: If it is of a kind that fxlrp does not write.
    """
    ((kind, content),) = value.items()
    if kind not in ARGUMENTS:
        raise ArtifactError(f"the graph has an argument {kind!r}, which fxlrp does not write")
    return ARGUMENTS[kind](find, content)


def make_results(made: fx.Graph, node: Mapping[str, Any], call: fx.Node) -> list[tuple[str, fx.Node]]:
    """Make a node for each thing that a call returns; return them with their names."""
    outputs = node["outputs"]
    schema = find_schema(node["target"])
    several = len(outputs) > 1 or (schema is not None and len(schema.returns) > 1)
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        outputs, several = [{"as_tensor": t} for t in outputs[0]["as_tensors"]], True
    found = []
    for i, output in enumerate(outputs):
        ((kind, content),) = output.items()
        if kind == "as_none":
            continue
        if kind not in RESULT_KINDS:
            raise ArtifactError(f"the graph computes {kind!r}, which fxlrp does not write")
        name = content.get("name", content.get("as_name"))
        if name is None:
            raise ArtifactError(f"{node['target']} returns a number, which fxlrp does not write")
        found.append((name, made.call_function(operator.getitem, (call, i)) if several else call))
    return found
