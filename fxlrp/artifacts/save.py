"""From an attributor to an artefact on disk, compared with it before it is put in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fxlrp._torch import tree_unflatten
from fxlrp.artifacts.export import export_program
from fxlrp.artifacts.formats import choose_format, write_artifact
from fxlrp.artifacts.keys import read_private_key
from fxlrp.artifacts.load import load
from fxlrp.artifacts.single_samples import find_single_sizes
from fxlrp.cache import COMPILE_LOCK
from fxlrp.errors import ArtifactError, SignatureError
from fxlrp.files import find_destination
from fxlrp.ir.program import Program
from fxlrp.ir.targets import FORMS, make_example_targets
from fxlrp.session.agreement import is_close
from fxlrp.session.call import Call
from fxlrp.session.programs import Programs
from fxlrp.session.signature import plain_mode


def save_artifact(programs: Programs, path: str | Path, call: Call, format: str | None, target: str, sign: Any) -> Path:
    """Write the program for a kind of target; return the path.

    Args:
        programs: The programs of the model.
        path: The file.
        call: What the model is called with.
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
    with plain_mode(), COMPILE_LOCK:
        signature, leaves, sizes = programs.find_open_signature(call.args, call.kwargs)
        signature.check_finite(leaves)
        single, samples = find_single_sizes(programs, signature, leaves, sizes, form)
        program, _ = programs.find_program(signature, form)
        rules, model = programs.options.rules, type(programs.model).__name__
        exported = replace(export_program(signature.plan, program, rules, model, single), key=key)
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        tensors = [*inputs, *make_example_targets(form, signature.shape(sizes), inputs[0].device)]
        output = signature.plan.captured.output(program.module(*tensors)[: program.outputs])
        programs.compare_with_model(signature, ("saved", form), tree_unflatten(leaves, signature.spec), output, inputs)
        with write_artifact(exported, path, format) as new:
            check_results(new, program, [tensors, *samples])
        return path


def check_results(path: Path, program: Program, samples: Iterable[Sequence[Tensor]]) -> None:
    """Load an artefact again, and compare its results with those of the program that it was made of.

    Raises:
        ArtifactError: If they differ by more than rounding does.
    """
    artifact = load(path, allow_native_code=True)
    names = [spec.name for spec in artifact.manifest.inputs]
    for tensors in samples:
        found = artifact.run(dict(zip(names, tensors, strict=False)))
        for (name, one), other in zip(found.items(), program.module(*tensors), strict=True):
            if not is_close(one, other):
                raise ArtifactError(
                    f"as {artifact.manifest.format!r} the result '{name}' would differ from that of the program: "
                    "choose another format"
                )
