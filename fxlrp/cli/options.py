"""What several commands take, and how it is read and completed; nothing here needs torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fxlrp.errors import SignatureError, TargetError

PRESETS = (
    "auto", "attnlrp", "attnlrp_gamma", "cp_lrp", "epsilon", "epsilon_plus", "epsilon_plus_flat",
    "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "gradient", "guided_backprop",
    "deconvnet", "rectgrad", "beta_smooth", "excitation_backprop", "dtd", "relp", "relp_ah", "reslrp", "mamba_lrp",
    "arras_lstm", "arras_lstm_shared", "lfp", "dynamiclrp", "chefer", "gnn_lrp", "pa_lrp", "libragrad",
)  # fmt: skip
BACKENDS = ("eager", "inductor", "cudagraphs")
METRICS = ("flipping", "leave_one_out")
FORMATS = ("pt2", "aoti", "onnx")


def complete(*names: str) -> Callable[[str], list[str]]:
    """Make what completes one of these names in a shell."""

    def matching(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return matching


Model = Annotated[
    str,
    typer.Argument(
        help="package.module:callable (a function without arguments that returns a module, (module, args) or "
        "(module, args, kwargs)), a .pt2 file of torch.export.save (with --trust), or hf:FOLDER_OR_NAME (transformers)."
    ),
]
Artifact = Annotated[Path, typer.Argument(help="An artefact of `fxlrp export` or of Attributor.save.")]
Input = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        help="File of an input, to be given once per argument: .npy, .npz (keyword arguments), or .pt (a tensor, a "
        "tuple or a dictionary). Floating point numbers are converted to the model's type.",
    ),
]
Text = Annotated[str | None, typer.Option("--text", help="Input text, for hf: models that read text.")]
Rules = Annotated[str, typer.Option(help="Rule set, one of `fxlrp presets`.", autocompletion=complete(*PRESETS))]
Backend = Annotated[
    str,
    typer.Option(
        help="What runs the program: eager, inductor or cudagraphs.",
        autocompletion=complete(*BACKENDS),
    ),
]
Output = Annotated[
    str | None, typer.Option(help="Name or index of the model's output to explain. [default: logits or the first]")
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="What to explain: a class (281), or an index with commas, * for the largest (-1,*). "
        "[default: the largest, or the next token]",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Fail for ops without a rule, or use the plain adjoint there.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Load a .pt2 file of torch.export.save, which can run any code with your rights."),
]
NativeCode = Annotated[
    bool, typer.Option("--allow-native-code", help="Load machine code (format aoti), which runs with your rights.")
]
Key = Annotated[
    list[Path] | None,
    typer.Option("--key", help="PEM file of a public key: load only what it has signed. May be given several times."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def parse_target(text: str | None) -> int | tuple[int | None, ...] | None:
    """Read a class, or an index tuple in which * is the largest; None, the largest of all, if nothing is given.

    Raises:
        TargetError: If the text is neither.
    """
    if text is None:
        return None
    try:
        index = tuple(None if part.strip() == "*" else int(part) for part in text.split(","))
    except ValueError:
        raise TargetError(
            f"--target {text!r} is neither a class (281) nor an index with commas, * for the largest (-1,*)"
        ) from None
    return index if len(index) > 1 else index[0]


def parse_output(text: str | None) -> str | int | None:
    """Read a name, or an index if it is a number."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def parse_columns(texts: Sequence[str] | None) -> dict[str, str]:
    """Read NAME=COLUMN, several times.

    Raises:
        SignatureError: If a column is missing.
    """
    columns = dict(text.partition("=")[::2] for text in texts or ())
    if not all(columns.values()):
        raise SignatureError("--column is NAME=COLUMN: the input and where it comes from")
    return columns


def parse_sizes(texts: Sequence[str] | None) -> list[tuple[str, int]]:
    """Read NAME=NUMBER, several times.

    Raises:
        SignatureError: If one is not of this form.
    """
    pairs = [text.partition("=") for text in texts or ()]
    if wrong := ["".join(pair) for pair in pairs if not (pair[0] and pair[2].isdecimal())]:
        raise SignatureError(f"--size {wrong[0]!r} is not NAME=NUMBER")
    return [(name, int(value)) for name, _, value in pairs]


def parse_target_or_column(text: str | None) -> str | int | tuple[int | None, ...] | None:
    """Read a target that may also be the name of a column."""
    try:
        return parse_target(text)
    except TargetError:
        return text
