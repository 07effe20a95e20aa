"""What a graph from elsewhere may say, so that torch can read it and nothing but ATen ops runs.

`torch.export.load` parses sizes with ``eval``, runs guards as Python code, looks functions up by name and unpickles
where it is told to. None of this is reached by what passes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fxlrp.errors import ArtifactError

FILES = r"from_file|save|load|open"
COMPARE = "lt|le|gt|ge|eq|ne|and_|or_|not_"
OPS = re.compile(
    rf"torch\.ops\.aten\.(?!({FILES})\b)\w+\.\w+"
    rf"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|pos|getitem|{COMPARE})"
    r"|torch\.(sym_(max|min|int|float|not|ite|sqrt)|_sym_\w+)|math\.(ceil|floor|trunc|sqrt)"
)
SIZES = re.compile(
    r"(\s|\d|[-+*/%(),<>=&|~]|Symbol\('[suz]+\d+'|\b([suz]+\d+|positive|integer|Integer|Add|Mul|Pow|int_oo|oo|True|False|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Max|Min|Mod|PythonMod"
    r"|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToFloat|ToFloat|IntTrueDiv|FloatTrueDiv|ModularIndexing"
    r"|Where|PowByNatural|FloatPow|LShift|RShift|IsNonOverlappingAndDenseIndicator)\b)*"
)
WORD = re.compile(r"\w*")
PLAIN = re.compile(r"[\w.+\-]*")
IMMUTABLE = "torch.fx.immutable_collections.immutable"
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", f"{IMMUTABLE}_dict", f"{IMMUTABLE}_list")
NEVER = ("as_custom_obj", "as_graph", "as_operator", "custom_obj", "buffer_mutation", "user_input_mutation")


def check_model(content: bytes) -> None:
    """Check the graph of a ``.pt2`` archive.

    Raises:
        ArtifactError: Naming the first entry that fxlrp would not have written.
    """
    model = parsed(content)
    if not isinstance(model, dict) or model.get("guards_code"):
        raise ArtifactError("the graph has guards, which are Python code")
    for key, value in entries(model):
        if key in NEVER and value is not None:
            raise ArtifactError(f"the graph has an entry {key!r}, which fxlrp does not write")
        if key == "metadata" and value:
            raise ArtifactError("the graph has metadata, which fxlrp does not write")
        if isinstance(value, str) and not allowed(key, value):
            raise ArtifactError(f"the graph has an unexpected {key}: {value[:100]!r}")


def check_payload(content: bytes) -> None:
    """Check where the weights of a ``.pt2`` archive are said to be.

    Raises:
        ArtifactError: If one is pickled, or elsewhere.
    """
    for key, value in entries(parsed(content)):
        if key == "use_pickle" and value is not False:
            raise ArtifactError("a weight is pickled, which may run code: fxlrp does not write such")
        if isinstance(value, str) and not PLAIN.fullmatch(value):
            raise ArtifactError(f"the weights have an unexpected {key}: {value[:100]!r}")


def parsed(content: bytes) -> Any:
    """JSON, of whatever content."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the graph is damaged: {type(error).__name__}: {error}") from error


def entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the key that it is under, keys of mappings among them."""
    stack = [(key, value)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            yield from (("a key", name) for name in value)
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)


def allowed(key: str, value: str) -> bool:
    """Whether a text is what fxlrp writes under a key."""
    if key == "target":
        return bool(OPS.fullmatch(value))
    if key == "expr_str":
        return bool(SIZES.fullmatch(value))
    if key in ("name", "as_name"):
        return bool(WORD.fullmatch(value))
    if key in ("in_spec", "out_spec"):
        return all(
            kind in CONTAINERS or kind is None for name, kind in entries(parsed(value.encode())) if name == "type"
        )
    return bool(PLAIN.fullmatch(value))
