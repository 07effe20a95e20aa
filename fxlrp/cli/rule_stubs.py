"""The three parts of a rule that is yet to be written: the rule, its record and its literal reference."""

from __future__ import annotations

import ast
import keyword
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from fxlrp._torch import OpOverload
from fxlrp.cli.op_samples import Sample, Traits, list_arguments
from fxlrp.errors import RuleError

CASES, REFERENCE = Path("tests/support/cases.py"), Path("tests/support/reference.py")
LISTS = {
    "linear": "SUMS", "products": "PRODUCTS", "reductions": "SCATTERED", "pointwise": "POINTWISE", "norms": "NORMS",
    "softmax": "SOFTMAX", "attention": "ATTENTION", "selection": "WINNERS", "silent": "SILENT", "taylor": "TAYLOR",
}  # fmt: skip
"""Where the records of a kind are."""
REFERENCES = {"linear": "linear", "products": "product", "silent": "nothing", "taylor": "taylor"}
"""Literal references that serve every op of a kind."""
RULE = '''@{rule}({op}{options})
def {name}(site: {site}, c: {tensor}) -> tuple[{tensor}, ...]:
    """{formula}

    Source: {source}
    """
{body}
'''
BODIES = {
    "linear": ("``c_x = J^T c``: of degree 1.", "return site.adjoint(c)"),
    "products": (
        "``c_i = J_i^T c / k``: each of k operands takes the same part.",
        "return tuple(part / len(site.operands) for part in site.adjoint(c))",
    ),
    "pointwise": (
        "``c_x = c * f(x) / x``, continued at 0 by the slope.",
        "(x,) = site.operands\nreturn (c * torch.where(x == 0, {slope}, site.out / torch.where(x == 0, 1.0, x)),)",
    ),
    "silent": ("``c_x = 0``: the derivative is 0.", "return tuple(torch.zeros_like(x) for x in site.operands)"),
    "taylor": ("``c_x = J^T c``: first order Taylor.", "return site.adjoint(c)"),
    "": (
        "``c_x = ...``: what each operand gets.",
        'raise NotImplementedError("a coefficient for each of site.operands, made of c, site.out and site.arguments")',
    ),
}
"""First line and body of a rule, by kind."""
FORMULA = '''def {name}(x: float) -> float:
    """Return ``f(x)`` of {op} as a textbook has it."""
    raise NotImplementedError("f(x), by Python's math alone")
'''
WHOLE = '''def {name}(call: Call, c: Tensor) -> Parts:
    """Return ``c_x`` for each of ``call.operands`` by the definition, in loops and without autograd."""
    raise NotImplementedError("a coefficient per operand")
'''
HEADER = '''"""Rules for ops of {namespace}."""

from __future__ import annotations

import torch

import fxlrp
'''
REASON = "say here why nothing better than first order is known"


@dataclass(frozen=True)
class Stub:
    """One part of a rule and its place.

    Attributes:
        file: Where it goes.
        text: Its source; empty if what is there already serves.
        inside: Name of the list or table that it is an entry of; empty at the end of the file.
    """

    file: Path
    text: str
    inside: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, {f'in {self.inside}' if self.inside else 'at the end'}"
        return f"# {place}\n\n{self.text}"

    def insert_into(self, source: str) -> str:
        """Return a file's source with the stub in its place."""
        if not self.inside:
            return f"{source.rstrip()}\n\n\n{self.text}"
        lines = source.splitlines(keepends=True)
        end = next((node.end_lineno for node in ast.parse(source).body if find_assigned(node) == self.inside), None)
        if end is None:
            raise RuleError(f"{self.file} has no {self.inside} to write a line into")
        return "".join([*lines[: end - 1], self.text, *lines[end - 1 :]])


def find_assigned(node: ast.stmt) -> str:
    """Return the name that a statement gives a value to; empty if it is none."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def find_names(path: Path) -> set[str]:
    """Return the names of a module's functions, imports and variables; none of a file that is not there."""
    body = ast.parse(path.read_text()).body if path.is_file() else []
    imported = {
        alias.asname or alias.name for n in body if isinstance(n, (ast.Import, ast.ImportFrom)) for alias in n.names
    }
    return imported | {getattr(node, "name", "") or find_assigned(node) for node in body}


def choose_name(op: OpOverload, *taken: set[str]) -> str:
    """Return a name for functions about an op that no module uses yet."""
    _, packet, overload = str(op).split(".")
    name = packet if overload == "default" else f"{packet}_{overload.lower()}"
    free = not keyword.iskeyword(name) and not any(name in names for names in taken)
    return name if free else f"{name}_rule"


def write_stubs(
    op: OpOverload, sample: Sample | None, traits: Traits, folder: Path, file: Path, own: bool
) -> list[Stub]:
    """Return the rule, its record and, where none that is there serves, its reference.

    Args:
        op: The op.
        sample: A call of it, if one could be made up.
        traits: What was measured.
        folder: Root of the project, in whose files no name must come twice.
        file: File of the rule.
        own: Whether that is no module of `fxlrp.rules`, but a file of the user.
    """
    name = choose_name(op, find_names(folder / file), find_names(folder / REFERENCE))
    reference = REFERENCES.get(traits.kind, name)
    called = f"ref.passing(ref.{name}, {traits.slope!r})" if traits.kind == "pointwise" else f"ref.{reference}"
    rule = Stub(file, write_rule(op, name, traits, own))
    if file.stem == "taylor" and not own:
        rule = Stub(file, f'    "{REASON}": ({op},),\n', "REASONS")
    record = Stub(
        CASES, write_record(op, called, sample, traits), LISTS.get(traits.kind if own else file.stem, "PRODUCTS")
    )
    if traits.kind in REFERENCES:
        return [rule, record]
    stub = FORMULA if traits.kind == "pointwise" else WHOLE
    return [rule, record, Stub(REFERENCE, stub.format(name=name, op=op))]


def write_rule(op: OpOverload, name: str, traits: Traits, own: bool) -> str:
    """Return the source of a rule, in a file of this project or in another."""
    formula, body = BODIES[traits.kind]
    kind = f', kind="{traits.kind or "other"}"' if own else ""
    return RULE.format(
        rule="fxlrp.rule" if own else "rule",
        op=f"torch.ops.{op}" if own or not str(op).startswith("aten.") else op,
        options=kind + (", stops=True" if traits.kind == "silent" else ""),
        name=name,
        site="fxlrp.Site" if own else "Site",
        tensor="torch.Tensor" if own else "Tensor",
        formula=formula,
        source="the paper and its equation.",
        body=indent(body.format(slope=traits.slope), "    "),
    )


def write_record(op: OpOverload, reference: str, sample: Sample | None, traits: Traits) -> str:
    """Return the line of an op in the table of records."""
    texts = sample.texts if sample else [f"normal(2, 3)  # {name}" for name in list_arguments(op)[0]]
    slots = sample.slots if sample else (0,)
    batch = slots if traits.batch else ()
    keeps = "CURVED" if traits.keeps is None else repr(traits.keeps)
    usual = {"live": "(0,)", "keeps": "1.0", "batch": "(0,)", "zero": "True"}
    found = {"live": repr(slots), "keeps": keeps, "batch": repr(batch), "zero": repr(traits.zero)}
    options = [f"{key}={text}" for key, text in found.items() if text != usual[key]]
    name = str(op) if str(op).startswith("aten.") else f"torch.ops.{op}"
    if sample is None:
        rows = "".join(f"        {text.replace('  #', ',  #')}\n" for text in texts)
        return f"    case(\n        {name},\n        {reference},\n{rows}        {', '.join(options)},\n    ),\n"
    line = f"    case({', '.join([name, reference, *texts, *options])}),\n"
    return line if len(line) <= 120 else line.replace(f"{reference}, ", f"{reference},\n         ")
