"""The command that begins a rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxlrp.cli.options import Debug
from fxlrp.cli.prologue import report_errors
from fxlrp.errors import RuleError
from fxlrp.reports.terminal import make_console

if TYPE_CHECKING:
    from fxlrp.cli.rule_stubs import Stub


@report_errors
def new_rule(
    op: Annotated[str, typer.Argument(help="An op without a rule: aten.add.Tensor, or mylib::op of your own.")],
    module: Annotated[str | None, typer.Option(help="Module that registers the op, imported first.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of the rule. [default: the module of its kind in rules/]")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Root of fxlrp's sources.")] = Path(),
    write: Annotated[bool, typer.Option("--write", help="Write into the files rather than print.")] = False,
    debug: Debug = False,
) -> None:
    """Begin a rule: what its op does, and stubs of the rule, its record in the tests and its literal reference."""
    from fxlrp.api import load_extensions
    from fxlrp.cli.models import import_by_name
    from fxlrp.cli.op_samples import Traits, draw_sample, find_op, list_arguments, measure
    from fxlrp.cli.rule_stubs import write_stubs
    from fxlrp.ir.rule import RULES

    if module is not None:
        import_by_name(module)
    load_extensions()
    found = find_op(op)
    if found in RULES:
        rule = RULES[found]
        raise RuleError(
            f"{found} has a rule already: {rule.apply.__module__}.{rule.name}. Override it in a rule set instead"
        )
    sample = draw_sample(found)
    traits = measure(sample) if sample else Traits()
    own = found.namespace != "aten" or (file is not None and file.parent != Path("rules"))
    if write and file is None and not (own or traits.kind):
        raise RuleError(f"nothing could be measured of {found}: name the file of its rule, --file rules/MODULE.py")
    place = file or Path(f"{found.namespace}_rules.py" if own else f"rules/{traits.kind or 'MODULE'}.py")
    stubs = write_stubs(found, sample, traits, folder, place, own)
    out = make_console()
    tensors, others = list_arguments(found)
    out.print(str(found._schema), markup=False, soft_wrap=True)
    out.print(f"Tensors: {', '.join(tensors)}; other arguments: {', '.join(others) or 'none'}.", soft_wrap=True)
    out.print(f"Kind: {traits.kind or 'unknown'} ({traits.evidence}).\n", soft_wrap=True, markup=False)
    for stub in stubs if not write else ():
        out.print(str(stub), markup=False, soft_wrap=True)
    for path in insert_stubs(stubs[:1] if own else stubs, folder, found.namespace) if write else ():
        out.print(f"Wrote {path}", markup=False, soft_wrap=True)
    if not own:
        out.print("Then: fxlrp rules --markdown rules/README.md && pytest tests/rules", markup=False)


def insert_stubs(stubs: list[Stub], folder: Path, namespace: str) -> list[Path]:
    """Write stubs into their files, all or none, and return the files.

    Raises:
        RuleError: If a file of the project is not there, or one of the user does not import what a rule needs.
    """
    from fxlrp.cli.rule_stubs import HEADER, find_names

    texts: dict[Path, str] = {}
    for stub in stubs:
        path = folder / stub.file
        if path.is_file():
            texts[path] = stub.insert_into(path.read_text())
        elif "@fxlrp.rule" in stub.text:
            texts[path] = stub.insert_into(HEADER.format(namespace=namespace))
        else:
            raise RuleError(f"there is no file {path}: give the root of fxlrp's sources by --folder")
        missing = {"torch", "fxlrp"} - find_names(path) if path.is_file() and "@fxlrp.rule" in stub.text else set()
        if missing:
            raise RuleError(f"{path} does not import {' and '.join(sorted(missing))}, which the rule needs")
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)
