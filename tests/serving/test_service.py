"""`fxlrp serve`: right answers, a clear 4xx for everything else, and no request that harms another."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load as from_binary
from safetensors.torch import save as to_binary
from served import (
    BINARY,
    JSON,
    NAME,
    Server,
    ask,
    body,
    call,
    connected,
    finish,
    images,
    results,
    save_digits,
    serving,
    start,
)
from starlette.applications import Starlette
from torch import Tensor, nn
from typer.testing import CliRunner

import fxlrp
from fxlrp.cli.app import app
from fxlrp.errors import FxlrpError
from fxlrp.serving.batching import is_joinable
from fxlrp.serving.request_handling import Limits, RequestHandler
from fxlrp.serving.server import ServerSettings, listen, serve_until_stopped
from fxlrp.serving.server import make_server as server_of
from fxlrp.serving.service import Service

pytestmark = pytest.mark.external

MOST = 8


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("serve") / "digits.pt2")


@pytest.fixture(scope="module")
def server(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving(saved, log, "--batch-size", f"{MOST}", "--wait", "2", "--max-body", "1") as server:
        yield server
        server.stop()


@pytest.fixture(scope="module")
def artifact(saved: Path) -> fxlrp.Artifact:
    return fxlrp.load(saved)


@dataclass(frozen=True)
class Good:
    body: bytes
    kind: str
    expected: dict[str, Tensor]

    def check(self, status: int, answer: bytes, tolerance: float) -> None:
        """Equal, or within a tolerance of the norm of each sample: sums over other batches have other orders."""
        assert status == 200, answer
        found = results(answer) if self.kind == JSON else from_binary(answer)
        assert found.keys() == self.expected.keys()
        for name, value in self.expected.items():
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            for one, other in zip(found[name].double(), value.double(), strict=True):
                assert (one - other).norm() <= tolerance * other.norm()


def good(artifact: fxlrp.Artifact, seed: int) -> Good:
    """A request with what it must get: other batches and targets, with huge numbers among them, in both kinds."""
    batch = 1 + seed % 3
    x = images(batch, seed) * (1e30 if seed % 11 == 10 else 1)
    targets: list[Any] = [None, seed % 10, -1, [seed % 10] * batch, [[seed % 10]] * batch, [None] * batch]
    target = targets[seed % len(targets)]
    tuples = [tuple(e) if isinstance(e, list) else e for e in target] if isinstance(target, list) else target
    expected = artifact.results(x, target=tuples)
    if seed % 4 != 3:
        return Good(body({NAME: x.tolist()}, target), JSON, expected)
    lowered = artifact.make_target({NAME: x}, tuples)["target"]
    if (lowered < 0).any():
        return Good(to_binary({NAME: x}), BINARY, expected)
    return Good(to_binary({NAME: x, "target": lowered}), BINARY, expected)


X = images(1).tolist()
NESTED = b'{"inputs": {"input_1": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"


TRUTH = to_binary({NAME: torch.zeros(1, dtype=torch.bool)})[:-1] + b"\2"


def with_entry(entry: str) -> bytes:
    """A body with this as the first of its numbers."""
    return re.sub(rb"\[\[\[\[[^,]+", b"[[[[" + entry.encode(), body({NAME: X}, 3), count=1)


BAD: dict[str, tuple[int, str, bytes, dict[str, Any]]] = {
    "empty": (400, "not JSON", b"", {}),
    "cut off": (400, "not JSON", body({NAME: X})[:-9], {}),
    "not UTF-8": (400, "not JSON", b'{"inputs": "\xff"}', {}),
    "UTF-16": (400, "not JSON", body({NAME: X}).decode().encode("utf-16"), {}),
    "a list": (400, '{"inputs"', b"[1, 2]", {}),
    "no inputs": (400, '{"inputs"', b"{}", {}),
    "inputs are a list": (400, '{"inputs"', body([X]), {}),
    "unknown key": (400, '{"inputs"', b'{"inputs": {}, "targets": 3}', {}),
    "a name twice": (400, "comes twice", b'{"inputs": {}, "target": 1, "target": 2}', {}),
    "an input twice": (400, "comes twice", b'{"inputs": {"input_1": [], "input_1": []}}', {}),
    "NaN": (400, "NaN is no number", with_entry("NaN"), {}),
    "-Infinity": (400, "-Infinity is no number", with_entry("-Infinity"), {}),
    "1e400": (422, "cannot hold", with_entry("1e400"), {}),
    "1e39": (422, "cannot hold", with_entry("1e39"), {}),
    "-1e39": (422, "cannot hold", with_entry("-1e39"), {}),
    "400 digits": (422, "cannot hold", with_entry("9" * 400), {}),
    "9000 digits": (400, "not JSON", with_entry("9" * 9000), {}),
    "nested": (400, "too deeply", NESTED, {}),
    "nested less": (422, "type list", b'{"inputs": {"input_1": ' + b"[" * 90 + b"]" * 90 + b"}}", {}),
    "a word": (422, "type str", with_entry('"1"'), {}),
    "true": (422, "type bool", with_entry("true"), {}),
    "null": (422, "type NoneType", with_entry("null"), {}),
    "a list for a number": (422, "type list", with_entry("[1]"), {}),
    "ragged": (422, "nested evenly", body({NAME: [[[[1.0] * 8] * 7 + [[1.0] * 7]]]}), {}),
    "ragged in depth": (422, "nested evenly", body({NAME: [[[1.0] * 8]]}), {}),
    "empty batch": (422, "empty list", body({NAME: []}), {}),
    "no batch dimension": (422, "nested evenly", body({NAME: X[0]}), {}),
    "a number": (422, "nested evenly", body({NAME: 1.0}), {}),
    "wide": (422, "has shape (1, 1, 8, 9)", body({NAME: images(1).repeat(1, 1, 1, 2)[..., :9].tolist()}), {}),
    "too many samples": (422, f"batch is 1 to {MOST}", body({NAME: images(MOST + 1).tolist()}), {}),
    "unknown input": (422, "no input 'image'", body({NAME: X, "image": X}), {}),
    "surrogate": (422, "no input", b'{"inputs": {"\\ud800": []}}', {}),
    "missing input": (422, "takes input_1, not nothing", body({}), {}),
    "target among inputs": (422, "no input 'target'", body({NAME: X, "target": 3}), {}),
    "target out of range": (422, "out of range", body({NAME: X}, 10), {}),
    "target below range": (422, "out of range", body({NAME: X}, -11), {}),
    "huge target": (422, "out of range", body({NAME: X}, 10**30), {}),
    "target is a float": (422, "a target is", body({NAME: X}, 3.0), {}),
    "target is true": (422, "a target is", body({NAME: X}, True), {}),
    "target is a word": (422, "a target is", body({NAME: X}, "3"), {}),
    "target is an object": (422, "a target is", body({NAME: X}, {}), {}),
    "target is nested": (422, "a target is", body({NAME: X}, [[[3]]]), {}),
    "two targets": (422, "2 targets for a batch of 1", body({NAME: X}, [1, 2]), {}),
    "two indices": (422, "2 indices", body({NAME: X}, [[1, 2]]), {}),
    "binary is JSON": (400, "not safetensors", body({NAME: X}), {"kind": BINARY}),
    "binary of halves": (422, "must be of float32", to_binary({NAME: images(1).half()}), {"kind": BINARY}),
    "binary with NaN": (422, "NaN", to_binary({NAME: images(1) * torch.nan}), {"kind": BINARY}),
    "binary cut off": (400, "not safetensors", to_binary({NAME: images(1)})[:-4], {"kind": BINARY}),
    "binary without input": (422, "takes input_1", to_binary({"x": images(1)}), {"kind": BINARY}),
    "binary seed": (
        422,
        "saved for a class",
        to_binary({NAME: images(1), "target": torch.ones(1, 10)}),
        {"kind": BINARY},
    ),
    "a form": (415, "Content-Type", body({NAME: X}), {"kind": "application/x-www-form-urlencoded"}),
    "no type": (415, "Content-Type", body({NAME: X}), {"kind": ""}),
    "compressed": (415, "compressed", body({NAME: X}), {"headers": {"Content-Encoding": "gzip"}}),
    "dictionaries": (400, "more than", b'{"inputs": [' + b"{}," * 5000 + b"0]}", {}),
    "strings": (400, "more than", b'{"inputs": [' + b'"",' * 40_000 + b"0]}", {}),
    "a long string": (413, "safetensors", b'{"inputs": "' + b"x" * 500_000 + b'"}', {}),
    "many lists": (422, "empty list", b'{"inputs": {"input_1": [' + b"[]," * 30_000 + b"[]]}}", {}),
    "many words": (422, "type str", body({NAME: [[[["1"] * 100] * 100]]}), {}),
    "many targets": (422, "a target is", body({NAME: X}, [[0.5] * 300] * 300), {}),
    "a huge header": (400, "header", (2**17).to_bytes(8, "little") + b" " * 2**17, {"kind": BINARY}),
    "binary truth": (422, "neither 0 nor 1", TRUTH, {"kind": BINARY}),
    "too large": (413, "more than 1048576 bytes", b" " * (2**20 + 1), {}),
    "GET": (405, "Not Allowed", b"", {"method": "GET"}),
    "DELETE": (405, "Not Allowed", b"", {"method": "DELETE"}),
    "POST elsewhere": (405, "Not Allowed", b"", {"path": "/health"}),
    "no such path": (404, "Not Found", body({NAME: X}), {"path": "/explain/3"}),
}


def check_bad(name: str, status: int, answer: bytes) -> None:
    wanted, text, *_ = BAD[name]
    assert status == wanted, (name, answer)
    assert text in json.loads(answer)["error"], name


def test_a_thousand_requests_of_eight_clients(server: Server, artifact: fxlrp.Artifact) -> None:
    """Good and bad in random order: each gets its answer, and memory does not grow.

    Good bodies in JSON are padded to 30 kB. The limit on the growth after request 200, when the allocator's pools are
    full, is 8 MiB: what is measured is about 1, and a service that kept bodies would come to 12.
    """
    asked = [good(artifact, seed) for seed in range(60)]
    lock, left, begun = threading.Lock(), iter(range(1000)), 0.0

    def client(number: int) -> Counter[str]:
        nonlocal begun
        chance, seen = random.Random(number), Counter[str]()
        with connected(server.port) as connection:
            while True:
                with lock:
                    i = next(left, None)
                    begun = server.metric("process_resident_memory_bytes") if i == 200 else begun
                if i is None:
                    return seen
                if chance.random() < 0.7:
                    request = chance.choice(asked)
                    padded = request.body.ljust(30_000) if request.kind == JSON else request.body
                    request.check(*ask(connection, padded, request.kind), tolerance=1e-5)
                    seen["good"] += 1
                else:
                    name = chance.choice(list(BAD))
                    *_, content, options = BAD[name]
                    check_bad(name, *ask(connection, content, **options))
                    seen[name] += 1

    with ThreadPoolExecutor(8) as clients:
        seen = sum(clients.map(client, range(8)), Counter[str]())
    assert seen.total() == 1000
    assert seen["good"] > 600
    assert server.metric("process_resident_memory_bytes") - begun < 2**23
    assert server.metric('fxlrp_batch_samples_count{model="digits"}') < seen["good"]  # some ran together
    assert server.metric("fxlrp_in_flight") == 0
    assert server.ask(method="GET", path="/health") == (200, b'{"status":"alive"}')


def test_an_answer_alone_is_that_of_the_artefact_to_the_last_digit(server: Server, artifact: fxlrp.Artifact) -> None:
    with connected(server.port) as client:
        for seed in range(60):
            request = good(artifact, seed)
            request.check(*ask(client, request.body, request.kind), tolerance=0)


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(server: Server, name: str) -> None:
    *_, content, options = BAD[name]
    check_bad(name, *server.ask(content, **options))


def test_the_service_describes_itself(server: Server, artifact: fxlrp.Artifact) -> None:
    status, text = server.ask(method="GET", path="/")
    about = json.loads(text)
    assert status == 200
    assert about["inputs"] == [{"name": NAME, "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert [output["name"] for output in about["outputs"]] == [spec.name for spec in artifact.manifest.outputs]
    assert about["sizes"] == {"batch": {"min": 1, "max": MOST}}
    assert about["fingerprint"] == artifact.manifest.fingerprint
    assert server.ask(method="GET", path="/ready") == (200, b'{"status":"alive"}')
    status, text = server.ask(method="GET", path="/metrics")
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    assert {
        "fxlrp_requests",
        "fxlrp_request_seconds",
        "fxlrp_batch_samples",
        "process_resident_memory_bytes",
    } <= families


def test_chunks_are_counted_and_joined(server: Server, artifact: fxlrp.Artifact) -> None:
    request = good(artifact, 0)
    pieces = [request.body[i : i + 100] for i in range(0, len(request.body), 100)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    request.check(*finish(start(server.port, "Transfer-Encoding: chunked", chunks)), tolerance=0)
    endless = b"".join(b"10000\r\n%s\r\n" % (b" " * 2**16) for _ in range(17))
    status, _ = finish(start(server.port, "Transfer-Encoding: chunked", endless + b"0\r\n\r\n"))
    assert status == 413
    sock = start(server.port, "Transfer-Encoding: chunked", endless)
    with sock, pytest.raises(ConnectionError):  # the server stops reading, and closes
        sock.sendall(endless * 100)


def test_what_is_no_http_gets_400(server: Server) -> None:
    for content in (b"\x16\x03\x01 hello\r\n\r\n", b"POST /explain HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        sock.sendall(content)
        assert finish(sock)[0] == 400


def test_clients_that_leave_do_no_harm(server: Server, artifact: fxlrp.Artifact) -> None:
    request = good(artifact, 1)
    for _ in range(20):
        start(server.port, "Content-Length: 1000", b'{"inputs"').close()
        start(server.port, f"Content-Length: {len(request.body)}", request.body).close()
        request.check(*server.ask(request.body, request.kind), tolerance=1e-5)


def test_bodies_that_are_not_there_take_no_place(saved: Path, tmp_path: Path, artifact: fxlrp.Artifact) -> None:
    """Half-sent bodies beside a queue of one, which others get; when the rest of them comes they are answered."""
    request = good(artifact, 2)
    half = len(request.body) // 2
    with serving(saved, tmp_path / "stderr", "--queue", "1", "--batch-size", "4") as server:
        slow = [start(server.port, f"Content-Length: {len(request.body)}", request.body[:half]) for _ in range(3)]
        while server.metric("fxlrp_arriving") < 3:
            pass
        assert server.ask(method="GET", path="/ready")[0] == 200
        request.check(*server.ask(request.body), tolerance=1e-5)
        for sock in slow:
            sock.sendall(request.body[half:])
            request.check(*finish(sock), tolerance=1e-5)
        server.stop(signal.SIGINT)


def test_a_full_queue(artifact: fxlrp.Artifact) -> None:
    service = Service({"digits": artifact}, Limits(2**20, 1, 8, 0.0))
    service.handler.in_flight = 1
    status, headers, answer = asyncio.run(call(service.application(), [good(artifact, 2).body]))
    assert (status, headers["retry-after"]) == (503, "1")
    assert "1 requests are being answered" in json.loads(answer)["error"]
    assert asyncio.run(call(service.application(), method="GET", path="/ready"))[0] == 503


def test_an_artefact_of_one_size_runs_one_request_at_a_time(saved: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    path = fxlrp.compile(model).save(tmp_path / "fixed.pt2", torch.ones(2, 4), target="seed")
    artifact = fxlrp.load(path)
    assert not is_joinable(artifact.manifest)
    assert is_joinable(fxlrp.load(saved).manifest)

    async def both() -> None:
        host = RequestHandler({"fixed": artifact}, Limits(2**20, 8, 32, 0.01)).artifacts["fixed"]
        work = asyncio.create_task(host.batcher.run_until_cancelled())
        seeds = torch.eye(3, dtype=torch.float64)[:2], torch.ones(2, 3, dtype=torch.float64)
        calls = [{NAME: torch.ones(2, 4), **artifact.make_target({NAME: torch.ones(2, 4)}, seed)} for seed in seeds]
        for seed, found in zip(seeds, await asyncio.gather(*map(host.batcher.submit, calls)), strict=True):
            expected = artifact.results(torch.ones(2, 4), target=seed)
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert host.batcher.most == 1
        work.cancel()

    asyncio.run(both())


def command(*args: Any) -> Any:
    return CliRunner().invoke(app, ["serve", *map(str, args)])


def test_a_port_that_is_taken(saved: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = command(saved, "--port", port)
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--tls-key", "key.pem"], "needs --tls-cert"),
        (["--token-file", "/none/tokens"], "cannot be read"),
        (["--size", "sequence=8"], "no size 'sequence'"),
        (["--size", "batch"], "NAME=NUMBER"),
        (["--size", "=3"], "NAME=NUMBER"),
        (["--size", "batch=0"], "not at most 0"),
        (["--size", "batch=rows"], "NAME=NUMBER"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_wrong_options(saved: Path, options: list[str], text: str) -> None:
    done = command(saved, *options)
    assert done.exit_code == 2
    assert text in done.stderr


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client", "safetensors"])
def test_a_missing_package(saved: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = command(saved)
    assert done.exit_code == 2
    assert 'pip install "fxlrp[serve]"' in done.stderr


def test_nobody_else_imports_the_server() -> None:
    code = "import sys, fxlrp.cli.app; print({'starlette', 'uvicorn', 'prometheus_client'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_an_application_that_does_not_start_is_an_error() -> None:
    @asynccontextmanager
    async def failing(_: Starlette) -> AsyncIterator[None]:
        raise ValueError("no")
        yield

    with listen("127.0.0.1", 0) as sock, pytest.raises(FxlrpError, match="did not start"):
        serve_until_stopped(server_of(Starlette(lifespan=failing), ServerSettings(), print), sock)


def test_help_says_that_without_tokens_anybody_can_ask() -> None:
    assert "whoever reaches the address can use it" in " ".join(command("--help").output.split())
