"""The command that answers over HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.artifact_commands import make_artifact_table
from fxlrp.cli.prologue import print_line, report_errors, show_progress
from fxlrp.errors import FxlrpError, SignatureError
from fxlrp.optional import require
from fxlrp.reports.terminal import make_console

PLAIN_NAME = re.compile(r"\w[\w.\-]*", re.ASCII)


@report_errors
def serve(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="Files of `fxlrp export` or of Attributor.save, each as PATH or NAME=PATH.", metavar="FILE..."
        ),
    ],
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
    queue: Annotated[int, typer.Option(min=1, help="Requests that wait or run at a time; others get 503.")] = 64,
    connections: Annotated[
        int, typer.Option(min=1, help="Open connections; where there are more, idle and slow ones are closed.")
    ] = 512,
    drain: Annotated[
        float,
        typer.Option(min=0, help="Seconds for which requests are taken after SIGTERM, while /ready says 503."),
    ] = 5.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; fewer if others use the machine. [default: all cores]")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token per line; requests must have one as Authorization: Bearer.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for TLS, in PEM format.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key. [default: in the same file]")] = None,
    log: Annotated[bool, typer.Option("--log", help="Write a line of JSON for every request to stderr.")] = False,
    key: options.Key = None,
    allow_native_code: options.NativeCode = False,
    debug: options.Debug = False,
) -> None:
    """Answer explanations over HTTP. Without --token-file whoever reaches the address can use it.

    POST /explain takes {"inputs": {NAME: nested lists}, "target": 3}; GET / says what the artefact takes. Several
    artefacts are at /models/NAME/explain. The Open Inference Protocol is at /v2, KServe's explanations are at
    /v1/models/NAME:explain. GET /health, /ready and /metrics (Prometheus) are for those who watch over it.
    """
    for package in ("starlette", "uvicorn", "prometheus_client", "safetensors"):
        require(package, "serve")
    import torch

    from fxlrp.serving import server
    from fxlrp.serving.middleware import log_requests, read_tokens
    from fxlrp.serving.request_handling import Limits
    from fxlrp.serving.service import Service

    if threads is not None:
        torch.set_num_threads(threads)
    if tls_key is not None and tls_cert is None:
        raise FxlrpError("--tls-key needs --tls-cert")
    tokens = frozenset() if token_file is None else read_tokens(token_file)
    context = None if tls_cert is None else server.make_tls_context(tls_cert, tls_key)
    settings = server.ServerSettings(connections, drain=drain, context=context)
    server.check_open_files(settings)
    with show_progress("loading"):
        paths = name_files(artifacts)
        loaded = {n: fxlrp.load(p, allow_native_code=allow_native_code, key=key) for n, p in paths.items()}
    narrow_sizes(loaded, batch_size, options.parse_sizes(size))
    service = Service(loaded, Limits(max_body * 2**20, queue, batch_size, wait / 1000), tokens)
    with server.listen(host, port) as sock:
        for hosted in service.handler.artifacts.values():
            make_console().print(make_artifact_table(hosted.artifact))
            print_line(
                "Requests of equal shapes run together." if hosted.batcher.most > 1 else "Each request runs by itself."
            )
        url = format_address(host, sock.getsockname()[1], tls=context is not None)
        print_line(f"Serving {', '.join(loaded)} on {url}; stop with Ctrl+C")
        if host not in server.LOCAL_ADDRESSES:
            warn_if_open(tokens=bool(tokens), tls=context is not None)
        sys.stdout.flush()
        if log:
            log_requests()
        server.serve_until_stopped(server.make_server(service.application(), settings, service.end), sock)


def name_files(texts: Sequence[str]) -> dict[str, Path]:
    """Find the name of each file in the service: what stands before =, or the file's name without its ending.

    Raises:
        SignatureError: If a name is not plain, or comes twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        before, sign, after = text.partition("=")
        given = bool(sign) and PLAIN_NAME.fullmatch(before) is not None and not Path(text).exists()
        name, path = (before, Path(after)) if given else (Path(text).stem, Path(text))
        if not PLAIN_NAME.fullmatch(name):
            raise SignatureError(f"{name!r} has characters that no name in a URL should have: give NAME={text}")
        if name in found:
            raise SignatureError(f"{name!r} would be the name of two artefacts: give NAME={text}")
        found[name] = path
    return found


def narrow_sizes(artifacts: dict[str, fxlrp.Artifact], batch_size: int, sizes: Sequence[tuple[str, int]]) -> None:
    """Limit sizes, the batch among them.

    Raises:
        SignatureError: If no artefact has such a size.
    """
    for artifact in artifacts.values():
        batch = artifact.manifest.explained.shape[0]
        if isinstance(batch, str) and batch in artifact.manifest.sizes:
            artifact.manifest = artifact.manifest.at_most(batch, batch_size)
    for name, value in sizes:
        having = [artifact for artifact in artifacts.values() if name in artifact.manifest.sizes]
        for artifact in having or artifacts.values():
            artifact.manifest = artifact.manifest.at_most(name, value)


def format_address(host: str, port: int, *, tls: bool) -> str:
    """Write the URL of the service."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def warn_if_open(*, tokens: bool, tls: bool) -> None:
    """Warn of what an address that others can reach is open to."""
    if not tokens:
        make_console(stderr=True).print("Warning: no authentication: whoever reaches this address can use it.")
    elif not tls:
        make_console(stderr=True).print(
            "Warning: tokens can be read on their way: give --tls-cert, or let a proxy do TLS."
        )
