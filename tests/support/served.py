"""The real command in a process of its own, and clients of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from torch import Tensor, nn

import fxlrp

COMMAND = [sys.executable, "-W", "error", "-c", "from fxlrp.cli.app import main; main()", "serve"]
JSON, BINARY = "application/json", "application/x-safetensors"
NAME = "input_1"


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def save_digits(path: Path) -> Path:
    """A CNN of the size of the digits demo."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.GELU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(64, 10)).eval()
    attributor = fxlrp.compile(model, rules="epsilon_plus", read=("2",), dynamic_shapes="auto")
    return attributor.save(path, images(2))


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Status 0 and nothing on stderr, whatever it was asked."""
        self.process.send_signal(number)
        assert self.process.wait(30) == 0
        assert self.log.read_text() == ""

    def ask(self, body: bytes | None = None, kind: str = JSON, **options: Any) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        with connected(self.port) as client:
            return ask(client, body, kind, **options)

    def metric(self, name: str) -> float:
        status, text = self.ask(method="GET", path="/metrics")
        assert status == 200
        (line,) = re.findall(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
        return float(line)


@contextmanager
def connected(port: int) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        yield client
    finally:
        client.close()


def ask(
    client: http.client.HTTPConnection,
    body: bytes | None,
    kind: str = JSON,
    method: str = "POST",
    path: str = "/explain",
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    client.request(method, path, body, {"Content-Type": kind, **(headers or {})})
    response = client.getresponse()
    return response.status, response.read()


@contextmanager
def serving(path: Path | str, log: Path, *options: str) -> Iterator[Server]:
    """The real command, in a process of its own, on a free port, which ends without waiting for new requests."""
    command = [*COMMAND, str(path), "--port", "0", "--threads", "1", "--drain", "0", *options]
    with log.open("w") as errors, subprocess.Popen(command, stdout=-1, stderr=errors, text=True) as process:
        try:
            said = "".join(until(process, "127.0.0.1:"))
            port = re.search(r"https?://127\.0\.0\.1:(\d+)", said)
            assert port is not None, said + log.read_text()
            yield Server(process, int(port[1]), log)
        finally:
            process.kill()


def until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    """Lines of what a process says, to the first with this text."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if text in line:
            return


async def call(
    application: Starlette,
    parts: Sequence[bytes] = (b"",),
    method: str = "POST",
    path: str = "/explain",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what an application answers without a server."""
    waiting, sent = list(parts), []
    sent_headers = {"content-type": JSON, **(headers or {})}

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(600)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent_headers.items()],
    }
    await application(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message["body"] for message in sent[1:])


def body(inputs: Any, target: Any = None) -> bytes:
    return json.dumps({"inputs": inputs, "target": target}).encode()


def results(answer: bytes) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in json.loads(answer)["results"].items()}


def start(port: int, head: str, content: bytes = b"") -> socket.socket:
    """A request that is not finished."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    lines = f"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n{head}\r\n\r\n"
    sock.sendall(lines.encode() + content)
    return sock


def finish(sock: socket.socket) -> tuple[int, bytes]:
    with sock, http.client.HTTPResponse(sock) as response:
        response.begin()
        return response.status, response.read()
