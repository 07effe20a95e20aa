"""From an attributor to an artefact on disk, compared with it before it is put in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fxlrp._torch import tree_unflatten
from fxlrp.artifacts.export import export, format_of, write
from fxlrp.artifacts.keys import private_key
from fxlrp.artifacts.load import check_same
from fxlrp.artifacts.single_samples import ones
from fxlrp.errors import SignatureError
from fxlrp.files import destination
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import FORMS, example_targets
from fxlrp.session.programs import Programs
from fxlrp.session.signature import check_finite


def save(
    programs: Programs,
    rules: RuleSet,
    model: str,
    path: str | Path,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    format: str | None,
    target: str,
    sign: Any,
) -> Path:
    """Write the program for a kind of target; return the path.

    Args:
        programs: The programs of the model.
        rules: The rule set.
        model: Class of the model.
        path: The file.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        format: Format of the file, None for what its ending says.
        target: The kind of target.
        sign: What signs the file, see `fxlrp.artifacts.keys`; None for no signature.

    Raises:
        ArtifactError: If the program cannot be written in this format, its results differ, the file cannot be there,
            or ``sign`` is no key.
        SignatureError: If ``format`` or ``target`` name nothing, or the inputs do not fit the model.
    """
    if target not in FORMS:
        raise SignatureError(f"target={target!r} is none of {', '.join(map(repr, FORMS))}: which kind it shall take")
    path, form = Path(path), FORMS[target]
    format = format_of(path, format)
    destination(path)  # what is wrong with it is said before anything is computed
    key = None if sign is None else private_key(sign)
    entry, leaves, sizes = programs.open_entry(args, kwargs)
    check_finite(entry, leaves)
    symbols, small = ones(programs, entry, leaves, sizes, form)
    program, _ = programs.program(entry, form)
    exported = replace(export(entry.plan, program, rules, model, symbols), key=key)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    tensors += example_targets(form, entry.shape(sizes), tensors[0].device)
    expected = program.module(*tensors)
    output = entry.plan.captured.output(expected[: program.outputs])
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    programs.verify(entry, ("saved", form), tree_unflatten(leaves, entry.spec), output, given)
    with write(exported, path, format) as new:
        for given in (tensors, *small):
            check_same(new, given, program.module(*given))
    return path
