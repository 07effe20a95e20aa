"""From an attributor to an artefact on disk, compared with it before it is put in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fxlrp._torch import tree_unflatten
from fxlrp.artifacts.export import choose_format, export_program, write_artifact
from fxlrp.artifacts.keys import read_private_key
from fxlrp.artifacts.load import check_results
from fxlrp.artifacts.single_samples import find_single_sizes
from fxlrp.errors import SignatureError
from fxlrp.files import find_destination
from fxlrp.ir.rule_set import RuleSet
from fxlrp.ir.targets import FORMS, make_example_targets
from fxlrp.session.programs import Programs
from fxlrp.session.signature import check_finite


def save_artifact(
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
    format = choose_format(path, format)
    find_destination(path)  # what is wrong with it is said before anything is computed
    key = None if sign is None else read_private_key(sign)
    entry, leaves, sizes = programs.open_entry(args, kwargs)
    check_finite(entry, leaves)
    symbols, small = find_single_sizes(programs, entry, leaves, sizes, form)
    program, _ = programs.program(entry, form)
    exported = replace(export_program(entry.plan, program, rules, model, symbols), key=key)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    tensors += make_example_targets(form, entry.shape(sizes), tensors[0].device)
    expected = program.module(*tensors)
    output = entry.plan.captured.output(expected[: program.outputs])
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    programs.verify(entry, ("saved", form), tree_unflatten(leaves, entry.spec), output, given)
    with write_artifact(exported, path, format) as new:
        for given in (tensors, *small):
            check_results(new, given, program.module(*given))
    return path
