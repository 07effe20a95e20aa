"""The commands that take an artefact: run and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.prologue import print_line, report_errors, show_progress
from fxlrp.errors import SignatureError
from fxlrp.reports.terminal import make_console


@report_errors
def run(
    artifact: options.Artifact,
    input: options.Input = None,
    target: options.Target = None,
    save: Annotated[Path | None, typer.Option(help="Write the results to this .npz file.")] = None,
    key: options.Key = None,
    allow_native_code: options.NativeCode = False,
    debug: options.Debug = False,
) -> None:
    """Run an artefact on inputs from files, or say what it takes."""
    from fxlrp.cli.arguments import read_inputs, write_arrays

    with show_progress("loading"):
        loaded = fxlrp.load(artifact, allow_native_code=allow_native_code, key=key)
    if not input:
        make_console().print(make_artifact_table(loaded))
        return
    args, kwargs = read_inputs(input)
    wanted = options.parse_target(target)
    with show_progress("explaining"):
        result = loaded.results(*args, target=wanted, **kwargs)
    table = Table("result", "shape", "sum")
    for name, value in result.items():
        table.add_row(Text(name), str(tuple(value.shape)), f"{float(value.double().sum()):+.4f}")
    make_console().print(table)
    if save is not None:
        if save.suffix != ".npz":
            raise SignatureError(f"{save}: results are written to a file that ends in .npz")
        write_arrays(save, result)


@report_errors
def batch(
    artifact: options.Artifact,
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
    key: options.Key = None,
    allow_native_code: options.NativeCode = False,
    debug: options.Debug = False,
) -> None:
    """Attribute a data set with an artefact, on this machine or a cluster of Ray (RAY_ADDRESS)."""
    from fxlrp.reports.drawing.image_pages import find_page_path

    try:
        written = fxlrp.batch(
            artifact,
            source,
            out,
            columns=options.parse_columns(column),
            target=options.parse_target_or_column(target),
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
    print_line(f"Wrote {written} rows to {out}")
    if png:
        print_line(f"Wrote {find_page_path(out)}")


def make_artifact_table(artifact: fxlrp.Artifact) -> Table:
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
