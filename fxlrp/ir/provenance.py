"""Where a graph node comes from: module path and source line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import fx

from fxlrp._torch import annotate, set_current_meta
from fxlrp.errors import FxlrpError
from fxlrp.ir.user_lines import drop_torch_lines, parse_stack


def find_modules(node: fx.Node) -> dict[str, str]:
    """Find the modules that the node runs in, outermost first: call path -> class name.

    The second call of a module has ``@1`` behind its path, the third ``@2``.
    """
    stack = node.meta.get("nn_module_stack") or {}
    found = {}
    for key, (path, kind) in stack.items():
        _, mark, call = key.rpartition("@")
        call_path = f"{path}@{call}" if mark and call.isdigit() else path
        found[call_path] = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return found


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module, empty for the model itself."""
    return next(reversed(find_modules(node)), "")


def find_role(node: fx.Node) -> str:
    """Return ``forward`` or the rule whose twin the node belongs to; empty for what is neither."""
    return str((node.meta.get("custom") or {}).get("fxlrp", ""))


def source_line(node: fx.Node) -> str:
    """Return ``file:line  code`` of the user's line that made the node, or ``unknown source``."""
    lines = drop_torch_lines(parse_stack(node.meta.get("stack_trace") or ""))
    if not lines:
        return "unknown source"
    file, number, code = lines[-1]  # the innermost outside torch is the one that the user can change
    return f"{'/'.join(Path(file).parts[-2:])}:{number}  {code}".rstrip()


def describe(node: fx.Node) -> str:
    """Describe a node in one line that finds it again: op, name, module, source."""
    where = f" in module '{module_path(node)}'" if module_path(node) else ""
    return f"{node.target} (node '{node.name}'{where}, {source_line(node)})"


@contextmanager
def mark_origin(node: fx.Node, role: str) -> Iterator[None]:
    """Let all that is emitted inside remember the forward node that it comes from, and errors name it."""
    try:
        with set_current_meta(node), annotate({"fxlrp": role, "node": node.name}):
            yield
    except Exception as error:
        if not isinstance(error, FxlrpError):
            error.add_note(f"while emitting {role} of {describe(node)}")
        raise
