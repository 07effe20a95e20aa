"""The commands for artefacts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table
from rich.text import Text

from fxlrp import datasets
from fxlrp.api import compile
from fxlrp.arguments import read_inputs
from fxlrp.commands import prepared, reported, working
from fxlrp.errors import SignatureError, TargetError
from fxlrp.extras import require
from fxlrp.loading import Artifact, load
from fxlrp.options import (
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
    parse_sizes,
    parse_target,
)
from fxlrp.pictures import page
from fxlrp.shards import RowTarget
from fxlrp.terminal import console

File = Annotated[Path, typer.Argument(help="An artefact of `fxlrp export` or of Attributor.save.")]


@reported
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
    loaded = prepared(model, input, text, trust)
    attributor = compile(
        loaded.model,
        rules=rules,
        read=read or (),
        output=parse_output(output),
        dynamic_shapes=None if fixed else "auto",
        strict=strict,
    )
    with working("exporting"):
        kind = "seed" if seeds else "index"
        attributor.save(out, *loaded.args, format=format, target=kind, sign=sign, **loaded.kwargs)
    for size in () if fixed else attributor.fixed_sizes():
        console().print(str(size), soft_wrap=True, markup=False)
    console().print(about(load(out, allow_native_code=True)))
    console().print(f"Wrote {out}, {out.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)


@reported
def run(
    artifact: File,
    input: Input = None,
    target: TargetOption = None,
    save: Annotated[Path | None, typer.Option(help="Write the results to this .npz file.")] = None,
    key: Key = None,
    allow_native_code: Native = False,
    debug: Debug = False,
) -> None:
    """Run an artefact on inputs from files, or say what it takes."""
    with working("loading"):
        loaded = load(artifact, allow_native_code=allow_native_code, key=key)
    if not input:
        console().print(about(loaded))
        return
    args, kwargs = read_inputs(input)
    wanted = None if target is None else parse_target(target)
    with working("explaining"):
        result = loaded.results(*args, target=wanted, **kwargs)
    table = Table("result", "shape", "sum")
    for name, value in result.items():
        table.add_row(Text(name), str(tuple(value.shape)), f"{float(value.double().sum()):+.4f}")
    console().print(table)
    if save is not None:
        if save.suffix != ".npz":
            raise SignatureError(f"{save}: results are written to a file that ends in .npz")
        np.savez(save, allow_pickle=False, **{name: value.numpy() for name, value in result.items()})
        console().print(f"Wrote {save}", soft_wrap=True, markup=False)


@reported
def serve(
    artifact: File,
    host: Annotated[str, typer.Option(help="Address to listen on; by default this machine's alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples of one call: those of a request, and of requests that run together.")
    ] = 32,
    wait: Annotated[
        float, typer.Option(min=0, max=10_000, help="Milliseconds that a request waits for others of the same shapes.")
    ] = 0.0,
    size: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER: largest value of a size, such as a sequence's length."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest body of a request, in MiB.")] = 16,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that are read, wait or run at a time; others get 503.")
    ] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; fewer if others use the machine. [default: all cores]")
    ] = None,
    key: Key = None,
    allow_native_code: Native = False,
    debug: Debug = False,
) -> None:
    """Answer explanations over HTTP. There is NO AUTHENTICATION: whoever reaches the address can use it.

    POST /explain takes {"inputs": {NAME: nested lists}, "target": 3}; GET / says what the artefact takes.
    GET /health, /ready and /metrics (Prometheus) are for those who watch over it.
    """
    for package in ("starlette", "uvicorn", "prometheus_client", "safetensors"):
        require(package, "serve")
    from fxlrp.server import LOCAL, listen, serve_until_stopped
    from fxlrp.service import Limits, Service

    if threads is not None:
        torch.set_num_threads(threads)
    with working("loading"):
        loaded = load(artifact, allow_native_code=allow_native_code, key=key)
    batch = loaded.manifest.explained.shape[0]
    limits = [(batch, batch_size)] if isinstance(batch, str) and batch in loaded.manifest.sizes else []
    for name, value in [*limits, *parse_sizes(size or ())]:
        loaded.manifest = loaded.manifest.at_most(name, value)
    service = Service(loaded, Limits(max_body * 2**20, queue, batch_size, wait / 1000))
    with listen(host, port) as sock:
        console().print(about(loaded))
        together = service.batcher.most > 1
        console().print("Requests of equal shapes run together." if together else "Each request runs by itself.")
        where = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
        console().print(f"Serving {artifact} on {where}; stop with Ctrl+C", soft_wrap=True, markup=False)
        if host not in LOCAL:
            console(stderr=True).print("Warning: no authentication: whoever reaches this address can use it.")
        sys.stdout.flush()
        serve_until_stopped(service.application(), sock)


@reported
def batch(
    artifact: File,
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
            target=index_or_column(target),
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
        console(stderr=True).print("Stopped: the same command goes on from here")
        raise typer.Exit(130) from None
    console().print(f"Wrote {written} rows to {out}", soft_wrap=True, markup=False)
    if png:
        console().print(f"Wrote {page(out)}", soft_wrap=True, markup=False)


def index_or_column(text: str | None) -> RowTarget:
    """A target of a command that can also be the name of a column."""
    if text is None:
        return None
    try:
        return parse_target(text)
    except TargetError:
        return text


def about(artifact: Artifact) -> Table:
    """What an artefact says about itself."""
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
