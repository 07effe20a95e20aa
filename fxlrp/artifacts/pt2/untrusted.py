"""What the parts of a ``.pt2`` file may say: the graph, its sizes and its trees, and where the weights are.

Nothing of this reaches an evaluator of Python: `fxlrp.artifacts.pt2.reading` makes the program of the ops, their
arguments and the weights alone. What it does not need is looked through all the same, so that a file that is accepted
is one that fxlrp could have written.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch.fx.immutable_collections import immutable_dict

from fxlrp._torch import dump_tree, export_schema
from fxlrp.artifacts.description.clauses import parse_clause
from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.pt2 import schema
from fxlrp.errors import ArtifactError

FORBIDDEN = ("as_custom_obj", "as_graph", "as_operator", "as_string_to_argument", "custom_obj", "token")
"""Members of torch's description of graphs that hold graphs, objects and names of functions."""
SYMBOL = re.compile(r"(s|u|zuf|zf)\d{1,6}")
PLAIN_TEXT = re.compile(r"[\w.+\-]{0,200}\Z")
STRING_ARGUMENT = re.compile(r"[ -~]{0,1000}\Z")
CHECKED_ELSEWHERE = ("expr_str", "in_spec", "out_spec")
BOUND = 2**63
EXPONENTS = range(-8, 9)
SIZE_FUNCTIONS = {
    *("Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing"),
    *("CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "ToFloat", "IntTrueDiv", "FloatTrueDiv", "Rational"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Where", "Piecewise", "ExprCondPair"),
}
"""Functions of sizes that stay small: powers and shifts are not among them."""


def check_program(content: bytes, manifest: Manifest) -> dict[str, Any]:
    """Check the graph of a ``.pt2`` archive and return it.

    Raises:
        ArtifactError: Naming the first entry that fxlrp would not have written.
    """
    model: dict[str, Any] = decode_json(content)
    entries = list(walk_entries(model))
    check_entries(entries)
    schema.check_type(model, export_schema().ExportedProgram, "the graph")
    devices = ("cpu", manifest.device.partition(":")[0])
    named = [value.get("type", "cpu") for _, value in entries if isinstance(value, dict)]
    if any(device not in devices for device in named):
        raise ArtifactError(f"the graph is of other devices than {manifest.device}")
    if model.get("guards_code"):
        raise ArtifactError("the graph has guards, which are Python code")
    for name in model["range_constraints"]:
        if not SYMBOL.fullmatch(name):
            raise ArtifactError(f"the graph has an unexpected name of a size: {name[:100]!r}")
    check_trees(model["graph_module"], manifest)
    check_texts(entries)
    return model


def check_entries(entries: Iterable[tuple[str, Any]]) -> None:
    """Refuse entries that fxlrp does not write, wherever they are."""
    for key, value in entries:
        if key in FORBIDDEN and value is not None:
            raise ArtifactError(f"the graph has an entry {key!r}, which fxlrp does not write")
        if key == "metadata" and value:
            raise ArtifactError("the graph has metadata, which fxlrp does not write")
        if key == "expr_str":
            check_size(value)


def check_trees(module: dict[str, Any], manifest: Manifest) -> None:
    """Check how inputs and outputs are nested: as the manifest says, and nowhere else."""
    calls = module["module_call_graph"]
    if [call["fqn"] for call in calls if call.get("signature")] != [""] or module.get("treespec_namedtuple_fields"):
        raise ArtifactError("the graph has trees that fxlrp does not write")
    (signature,) = (call["signature"] for call in calls if call.get("signature"))
    taken = dump_tree((tuple(spec.name for spec in manifest.inputs), {}))
    returned = dump_tree(immutable_dict((spec.name, spec.name) for spec in manifest.outputs))  # as fx returns it
    for found, expected in ((signature["in_spec"], taken), (signature["out_spec"], returned)):
        if decode_json(found.encode(errors="replace")) != decode_json(expected.encode()):
            raise ArtifactError(f"the graph has a tree that is not the manifest's: {found[:100]!r}")


def check_texts(entries: Iterable[tuple[str, Any]]) -> None:
    """Refuse texts that are no plain names, but for those that were looked at and what ops are given to say."""
    for key, value in entries:
        pattern = STRING_ARGUMENT if key == "as_string" else PLAIN_TEXT
        if isinstance(value, str) and key not in CHECKED_ELSEWHERE and not pattern.match(value):
            raise ArtifactError(f"the graph has an unexpected {key}: {value[:100]!r}")


def check_size(text: Any) -> None:
    """Refuse what is no expression of sizes as torch writes it, ``Add(Symbol('s77', positive=True), Integer(1))``.

    Raises:
        ArtifactError: If it is none, or could compute a huge number.
    """
    if not isinstance(text, str) or not is_size(parse_clause(text).body):
        raise ArtifactError(f"the graph has an unexpected size: {str(text)[:100]!r}")


def is_size(node: ast.AST) -> bool:
    """Return whether a syntax tree is one of a size."""
    match node:
        case ast.Call(ast.Name("Symbol"), [ast.Constant(str(name))], keywords):
            plain = all(k.arg in ("positive", "integer", "nonnegative") and is_truth(k.value) for k in keywords)
            return plain and bool(SYMBOL.fullmatch(name))
        case ast.Call(ast.Name("Integer" | "Float"), [number], _):
            return is_number(number)
        case ast.Call(ast.Name("Pow"), [base, ast.Call(ast.Name("Integer"), [exponent], [])], []):
            return is_size(base) and is_number(exponent) and ast.literal_eval(exponent) in EXPONENTS
        case ast.Call(ast.Name(name), arguments, []):
            return name in SIZE_FUNCTIONS and all(map(is_size, arguments))
        case ast.Name("true" | "false" | "int_oo" | "oo"):
            return True
    return is_number(node)


def is_number(node: ast.AST) -> bool:
    """Return whether a syntax tree is a number of 64 bits."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and abs(node.value) < BOUND


def is_truth(node: ast.AST) -> bool:
    """Return whether a syntax tree is True or False."""
    return isinstance(node, ast.Constant) and type(node.value) is bool


def decode_json(content: bytes) -> Any:
    """Read JSON in UTF-8, of whatever content."""
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the graph is damaged: {type(error).__name__}: {error}") from error


def walk_entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with the key that it is under, keys of mappings among them."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            yield from (("a key", name) for name in value)
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)
