"""Clients that are slow, many or strangers: they are refused, others are answered, and an end loses nobody."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from http.client import HTTPException as ClientError
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import torch
import trustme
from served import JSON, NAME, Server, ask, body, call, connected, images, results, save_digits, serving
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import fxlrp
from fxlrp.cli.serve import name_files
from fxlrp.errors import FxlrpError
from fxlrp.serving import bodies
from fxlrp.serving.bodies import Bodies
from fxlrp.serving.middleware import digest_token, read_tokens
from fxlrp.serving.request_handling import Limits
from fxlrp.serving.server import ServerSettings, check_open_files, listen, make_server, make_tls_context
from fxlrp.serving.service import Service

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("protection") / "digits.pt2")


@pytest.fixture(scope="module")
def artifact(saved: Path) -> fxlrp.Artifact:
    return fxlrp.load(saved)


X = images(1).tolist()


async def echo(request: Request) -> Response:
    """Says how long the body was, once it is there."""
    return PlainTextResponse(str(len(await request.body())))


async def at_once(_: Request) -> Response:
    return PlainTextResponse("done")


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Local:
    """A server in this process, and the clients that it has."""

    def __init__(self, port: int) -> None:
        self.port, self.writers = port, list[asyncio.StreamWriter]()

    async def connect(self, text: bytes) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(text)
        return reader, writer

    async def leave(self) -> None:
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def running(terms: ServerSettings) -> AsyncIterator[Local]:
    routes = [Route("/", echo, methods=["GET", "POST"]), Route("/now", at_once, methods=["POST"])]
    with listen("127.0.0.1", 0) as sock:
        serving = make_server(Starlette(routes=routes), terms, lambda: None)
        task = asyncio.create_task(serving.serve(sockets=[sock]))
        local = Local(sock.getsockname()[1])
        try:
            yield local
        finally:
            await local.leave()
            serving.should_exit = True
            await task


async def rest(streams: Streams) -> bytes:
    """What comes until the other side closes; nothing if it does so roughly."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(streams[0].read(), 30)
    return b""


async def answered(streams: Streams, text: bytes = b"") -> bytes:
    """The next answer, of which the connection is kept."""
    reader, writer = streams
    writer.write(text)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    (length,) = re.findall(rb"content-length: (\d+)", head)
    return head + await reader.readexactly(int(length))


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = GET[:-2]


def test_a_head_that_does_not_come_ends_the_connection() -> None:
    async def story() -> None:
        async with running(ServerSettings(seconds=0.2)) as local:
            kept = await local.connect(GET)
            assert b"200 OK" in await answered(kept)
            assert b"200 OK" in await answered(kept, GET)
            for text in (b"", b"G", HALF):
                assert await rest(await local.connect(text)) == b""
            kept[1].write(HALF)
            assert await rest(kept) == b""
            dripping = await local.connect(b"POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
            assert b"done" in await answered(dripping)  # and then the body, of which nobody wants to know

            async def drip() -> None:
                for _ in range(50):
                    dripping[1].write(b" ")
                    await asyncio.sleep(0.1)

            task = asyncio.create_task(drip())
            assert await rest(dripping) == b""
            task.cancel()

    asyncio.run(story())


def test_a_body_may_come_later_than_a_head() -> None:
    async def story() -> None:
        async with running(ServerSettings(seconds=0.1)) as local:
            slow = await local.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab")
            await asyncio.sleep(0.3)
            assert (await answered(slow, b"c")).endswith(b"\r\n\r\n3")

    asyncio.run(story())


def test_where_there_are_too_many_connections_slow_ones_make_room() -> None:
    async def story() -> None:
        async with running(ServerSettings(connections=6)) as local:
            kept = await local.connect(GET)
            await answered(kept)
            slow = [await local.connect(HALF) for _ in range(40)]
            assert b"200 OK" in await answered(kept, GET)
            for _ in range(3):
                assert b"200 OK" in await answered(await local.connect(GET))
            gone = await asyncio.gather(*map(rest, slow[:30]))
            assert set(gone) == {b""}
            # bodies make room too, when there is nobody else
            for_body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
            bodies = [await local.connect(for_body) for _ in range(20)]
            assert b"200 OK" in await answered(await local.connect(GET))
            assert await rest(bodies[0]) == b""
            assert (await answered(bodies[-1], b"abc")).endswith(b"3")

    asyncio.run(story())


def test_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    check_open_files(ServerSettings(connections=800))
    with pytest.raises(FxlrpError, match="ulimit -n"):
        check_open_files(ServerSettings(connections=900))


class Sender:
    """The messages of a request whose body comes in parts."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.request = Request({"type": "http"}, self.receive)

    async def receive(self) -> Any:
        part = await self.parts.get()
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(seconds: float) -> None:
        room, sender = Bodies(10, 100, seconds), Sender()
        sender.parts.put_nowait(b"123")
        with pytest.raises(HTTPException, match="did not arrive") as error:
            async with room.read_whole(sender.request):
                raise AssertionError
        assert (error.value.status_code, room.held, room.arriving) == (408, 0, {})

    asyncio.run(story(0.01))
    monkeypatch.setattr(bodies, "FREE_SECONDS", 0.01)
    asyncio.run(story(600.0))


def test_bodies_that_arrive_have_room_together_and_the_oldest_makes_room() -> None:
    async def story() -> None:
        room = Bodies(100, 250, 60.0)
        slow = Sender()

        async def take(sender: Sender) -> bytes:
            async with room.read_whole(sender.request) as content:
                await asyncio.sleep(0)
                return content

        first = asyncio.create_task(take(slow))
        slow.parts.put_nowait(b"a" * 99)
        await asyncio.sleep(0)
        others = [Sender() for _ in range(3)]
        tasks = [asyncio.create_task(take(sender)) for sender in others]
        for sender in others:
            sender.parts.put_nowait(b"b" * 70)
        with pytest.raises(HTTPException, match="too much arrives") as error:
            await first
        assert error.value.status_code == 503
        for sender in others:
            sender.parts.put_nowait(None)
        assert await asyncio.gather(*tasks) == [b"b" * 70] * 3
        assert (room.held, room.arriving) == (0, {})
        fast = Sender()
        for part in (b"c" * 101, None):
            fast.parts.put_nowait(part)
        async with room.read_whole(fast.request):
            raise AssertionError

    with pytest.raises(HTTPException, match="more than 100 bytes"):
        asyncio.run(story())


def test_large_bodies_take_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part beyond what is small waits for those before it, whichever body they are of."""
    pauses: list[float] = []

    async def record(seconds: float) -> None:
        pauses.append(seconds)

    async def story() -> None:
        monkeypatch.setattr(asyncio, "sleep", record)
        room = Bodies(10 * bodies.UNPACED_BYTES, 100 * bodies.UNPACED_BYTES, 60.0)
        for count in (
            bodies.UNPACED_BYTES,
            2 * bodies.UNPACED_BYTES,
            2 * bodies.UNPACED_BYTES,
            3 * bodies.UNPACED_BYTES,
        ):
            await room.pace(bodies.UNPACED_BYTES, count)

    asyncio.run(story())
    due = [(n + 1) * bodies.UNPACED_BYTES / bodies.MAX_RATE for n in range(3)]
    assert len(pauses) == len(due)
    assert all(0 < pause <= most for pause, most in zip(pauses, due, strict=True))


def test_tokens(artifact: fxlrp.Artifact, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first\n\n  second  \n")
    tokens = read_tokens(tmp_path / "tokens")
    assert tokens == {digest_token("first"), digest_token("second")}
    application = Service({"digits": artifact}, Limits(2**20, 8, 8, 0.0), tokens).application()

    def status(method: str, path: str, authorization: str | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        found, sent, content = asyncio.run(call(application, [b"{}"], method, path, headers))
        assert (found == 401) == ("www-authenticate" in sent)
        assert found != 401 or "Bearer" in json.loads(content)["error"]
        return found

    for method, path in (("POST", "/explain"), ("GET", "/"), ("GET", "/metrics"), ("GET", "/v2"), ("GET", "/nothing")):
        for wrong in (None, "", "Bearer", "Bearer third", "Basic first", "Bearer first second", "first", "Bearer firs"):
            assert status(method, path, wrong) == 401
        for right in ("Bearer first", "bearer second", "Bearer  first"):
            assert status(method, path, right) != 401
    for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready"):
        assert status("GET", path, None) != 401
    for text in ("", "\n\n", "two words\n", "\N{SNOWMAN}\n"):
        (tmp_path / "tokens").write_text(text)
        with pytest.raises(FxlrpError, match="token of plain characters"):
            read_tokens(tmp_path / "tokens")
    with pytest.raises(FxlrpError, match="cannot be read"):
        read_tokens(tmp_path / "none")


def test_a_body_without_a_token_is_taken_before_the_answer(artifact: fxlrp.Artifact) -> None:
    application = Service({"digits": artifact}, Limits(100, 8, 8, 0.0), {digest_token("a")}).application()
    assert asyncio.run(call(application, [b"x" * 90] * 2))[0] == 401
    assert (
        asyncio.run(call(application, [b"x" * 90] * 2, path="/nothing", headers={"Authorization": "Bearer a"}))[0]
        == 404
    )


def test_requests_have_ids_and_lines_in_the_log(saved: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(saved, log, "--log") as one:
        with connected(one.port) as client:
            for wanted in ("mine-1", "x" * 65, "a b", None):
                client.request("POST", "/explain", body({NAME: X}), {"Content-Type": JSON} | given_id(wanted))
                response = client.getresponse()
                response.read()
                assert response.status == 200
                found = response.headers["X-Request-Id"]
                assert found == "mine-1" if wanted == "mine-1" else re.fullmatch("[0-9a-f]{32}", found)
        assert one.ask(b"no")[0] == 400
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["path"], line["status"], line["samples"]) for line in lines] == [("/explain", 200, 1)] * 4 + [
        ("/explain", 400, 0)
    ]
    assert lines[0]["id"] == "mine-1"
    assert lines[0]["bytes_in"] == len(body({NAME: X}))
    assert all(line["seconds"] > 0 and line["time"].endswith("Z") and line["bytes_out"] > 0 for line in lines)


def given_id(text: str | None) -> dict[str, str]:
    return {} if text is None else {"X-Request-Id": text}


def test_tls(saved: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(saved, tmp_path / "log", "--tls-cert", str(tmp_path / "both.pem"), "--connections", "4") as one:
        silent = [ask_nothing(one.port) for _ in range(8)]  # who never agrees on a key
        client = HTTPSConnection("localhost", one.port, context=trusting, timeout=60)
        for _ in range(3):
            assert ask(client, body({NAME: X}))[0] == 200
        client.close()
        for sock in silent:
            sock.close()
        with connected(one.port) as plain, pytest.raises((ClientError, ConnectionError)):
            ask(plain, body({NAME: X}))
        one.stop()
    with pytest.raises(FxlrpError, match="no certificate and key"):
        make_tls_context(saved, None)


def ask_nothing(port: int) -> Any:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def test_several_artefacts(saved: Path, tmp_path: Path) -> None:
    assert name_files(["a/b.pt2", f"c={saved}"]) == {"b": Path("a/b.pt2"), "c": saved}
    for wrong, text in (
        (["a.pt2", "b/a.onnx"], "two artefacts"),
        (["a b.pt2"], "characters"),
        (["/=x.pt2"], "characters"),
    ):
        with pytest.raises(FxlrpError, match=text):
            name_files(wrong)
    expected = fxlrp.load(saved).results(torch.tensor(X), target=3)["relevance.input"]
    with serving(saved, tmp_path / "log", f"other={saved}", "--size", "batch=2") as one:
        assert set(json.loads(one.ask(method="GET", path="/")[1])["models"]) == {"digits", "other"}
        status, text = one.ask(body({NAME: X}, 3))
        assert status == 404
        assert "/models/NAME/explain with one of digits, other" in json.loads(text)["error"]
        for name in ("digits", "other"):
            assert json.loads(one.ask(method="GET", path=f"/models/{name}")[1])["sizes"]["batch"]["max"] == 2
            status, text = one.ask(body({NAME: X}, 3), path=f"/models/{name}/explain")
            assert status == 200
            assert torch.equal(results(text)["relevance.input"], expected)
            samples = one.metric(f'fxlrp_batch_samples_count{{model="{name}"}}')
            assert samples == 1
        assert one.ask(body({NAME: X}), path="/models/none/explain")[0] == 404
        one.stop()


def test_an_end_under_load_loses_nothing(saved: Path, tmp_path: Path) -> None:
    """While it ends it says so, and takes requests all the same; then nobody is cut off."""
    content = body({NAME: X}, 3)

    def client(one: Server) -> tuple[int, int]:
        """How many answers it got, and how many of them told it to go elsewhere, until nobody listened any more."""
        answers = closing = 0
        while one.process.poll() is None:
            with connected(one.port) as connection:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    break
                for _ in range(5):
                    connection.request("POST", "/explain", content, {"Content-Type": JSON})
                    response = connection.getresponse()
                    response.read()
                    assert response.status == 200
                    answers += 1
                    if response.headers["Connection"] == "close":
                        closing += 1
                        break
        return answers, closing

    with serving(saved, tmp_path / "log", "--drain", "1") as one, ThreadPoolExecutor(4) as threads:
        assert one.ask(content)[0] == 200
        clients = [threads.submit(client, one) for _ in range(4)]
        try:
            while one.metric('fxlrp_batch_samples_count{model="digits"}') < 20:
                pass
        finally:
            one.process.send_signal(signal.SIGTERM)
        while one.ask(method="GET", path="/ready")[0] == 200:
            pass
        found = [future.result() for future in clients]
        assert one.process.wait(30) == 0
        assert all(answers > closing > 0 for answers, closing in found)
        assert one.log.read_text() == ""
