"""The commands for artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from fxlrp.api import compile
from fxlrp.artifacts.artifact import Artifact
from fxlrp.artifacts.load import load
from fxlrp.cli.arguments import read_inputs
from fxlrp.cli.options import (
    Debug,
    Input,
    Key,
    Model,
    Native,
    Output,
    Rules,
    Strict,
    TargetOption,
    TextInput,
    Trust,
    parse_output,
    parse_target,
)
from fxlrp.cli.prologue import prepare_model, report_errors, show_progress
from fxlrp.datasets import run as datasets
from fxlrp.datasets.shards import RowTarget
from fxlrp.errors import SignatureError, TargetError
from fxlrp.reports.drawing.image_pages import find_page_path
from fxlrp.reports.terminal import make_console

ArtifactFile = Annotated[Path, typer.Argument(help="An artefact of `fxlrp export` or of Attributor.save.")]


@report_errors
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="Where to write: .pt2 or .onnx.")],
    input: Input = None,
    text: TextInput = None,
    rules: Rules = "attnlrp",
    output: Output = None,
    format: Annotated[
        str | None, typer.Option(help="pt2, aoti (machine code in a .pt2 file) or onnx. [default: by the ending]")
    ] = None,
    seeds: Annotated[bool, typer.Option("--seeds", help="Take a seed for every output instead of an index.")] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Take inputs of these sizes only, not other batches and sequences.")
    ] = False,
    read: Annotated[list[str] | None, typer.Option(help="Module whose relevance is returned too.")] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="PEM file of a private key that signs the file (openssl genpkey -algorithm ed25519)."),
    ] = None,
    strict: Strict = True,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Save a model with its explanation as a file that runs without fxlrp."""
    loaded = prepare_model(model, input, text, trust)
    attributor = compile(
        loaded.model,
        rules=rules,
        read=read or (),
        output=parse_output(output),
        dynamic_shapes=None if fixed else "auto",
        strict=strict,
    )
    with show_progress("exporting"):
        kind = "seed" if seeds else "index"
        attributor.save(out, *loaded.args, format=format, target=kind, sign=sign, **loaded.kwargs)
    for size in () if fixed else attributor.fixed_sizes():
        make_console().print(str(size), soft_wrap=True, markup=False)
    make_console().print(make_artifact_table(load(out, allow_native_code=True)))
    make_console().print(f"Wrote {out}, {out.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)


@report_errors
def run(
    artifact: ArtifactFile,
    input: Input = None,
    target: TargetOption = None,
    save: Annotated[Path | None, typer.Option(help="Write the results to this .npz file.")] = None,
    key: Key = None,
    allow_native_code: Native = False,
    debug: Debug = False,
) -> None:
    """Run an artefact on inputs from files, or say what it takes."""
    with show_progress("loading"):
        loaded = load(artifact, allow_native_code=allow_native_code, key=key)
    if not input:
        make_console().print(make_artifact_table(loaded))
        return
    args, kwargs = read_inputs(input)
    wanted = None if target is None else parse_target(target)
    with show_progress("explaining"):
        result = loaded.results(*args, target=wanted, **kwargs)
    table = Table("result", "shape", "sum")
    for name, value in result.items():
        table.add_row(Text(name), str(tuple(value.shape)), f"{float(value.double().sum()):+.4f}")
    make_console().print(table)
    if save is not None:
        if save.suffix != ".npz":
            raise SignatureError(f"{save}: results are written to a file that ends in .npz")
        np.savez(save, allow_pickle=False, **{name: value.numpy() for name, value in result.items()})
        make_console().print(f"Wrote {save}", soft_wrap=True, markup=False)


@report_errors
def batch(
    artifact: ArtifactFile,
    source: Annotated[
        Path,
        typer.Argument(help="A .parquet or .jsonl file, or a folder of .parquet files or of .png and .jpg images."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results; that of a stopped run is gone on with.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="What to explain: a class (281), an index with commas, * for the largest (-1,*), or the column that "
            "has one per row. [default: the largest]"
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN: where an input comes from. [default: the same name]")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="COLUMN of the source, such as an id, that the results have too.")
    ] = None,
    png: Annotated[
        bool, typer.Option("--png", help="Draw every image with its relevance: OUT/_pictures/index.html shows them.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes, each with the artefact in its memory.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Of each process. [default: a share of the cores]")] = None,
    batch_size: Annotated[int, typer.Option(help="Most rows that run together.")] = 32,
    shard: Annotated[int, typer.Option(help="Rows per file of results.")] = 256,
    key: Key = None,
    allow_native_code: Native = False,
    debug: Debug = False,
) -> None:
    """Attribute a data set with an artefact, on this machine or a cluster of Ray (RAY_ADDRESS)."""
    columns = dict(pair.partition("=")[::2] for pair in column or ())
    if not all(columns.values()):
        raise SignatureError("--column is NAME=COLUMN: the input and where it comes from")
    try:
        written = datasets.batch(
            artifact,
            source,
            out,
            target=parse_target_or_column(target),
            columns=columns,
            keep=keep or (),
            png=png,
            batch_size=batch_size,
            shard=shard,
            workers=workers,
            threads=threads,
            allow_native_code=allow_native_code,
            key=key,
        )
    except KeyboardInterrupt:
        make_console(stderr=True).print("Stopped: the same command goes on from here")
        raise typer.Exit(130) from None
    make_console().print(f"Wrote {written} rows to {out}", soft_wrap=True, markup=False)
    if png:
        make_console().print(f"Wrote {find_page_path(out)}", soft_wrap=True, markup=False)


def parse_target_or_column(text: str | None) -> RowTarget:
    """Read a target that may also be the name of a column."""
    if text is None:
        return None
    try:
        return parse_target(text)
    except TargetError:
        return text


def make_artifact_table(artifact: Artifact) -> Table:
    """Make a table of what an artefact takes and returns."""
    manifest = artifact.manifest
    title = Text(f"{manifest.model}, rules {manifest.rules}, format {manifest.format}")
    table = Table(title=title, title_justify="left")
    for column in ("", "name", "dtype", "shape"):
        table.add_column(column)
    for kind, specs in (("takes", manifest.inputs), ("returns", manifest.outputs)):
        for spec in specs:
            table.add_row(kind, *map(Text, (spec.name, spec.dtype, ", ".join(map(str, spec.shape)))))
    table.caption_justify = "left"
    table.caption = Text("\n".join(f"{name}: {limits}" for name, limits in manifest.sizes.items())) or None
    return table
