"""Good clients of ``fxlrp serve`` while one client means harm: ``python benchmarks/attack.py``.

A CNN of the size of the digits demo. Eight clients ask for one explanation after the other, with a pause between, and
look at every number of every answer; one more asks for /health. Each attack is a process of its own (attackers.py) that
runs behind all others on the machine, and stands beside the same clients alone, just before.

Then the memory of the service over many requests, good and bad; ends of the process under load, of which no client may
notice more than that nobody listens any more; and the public client of Triton. The exit status is 1 if one
of the bounds is broken.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from attackers import ATTACKS, dictionaries, lists, nested, types  # noqa: E402
from measure import finish, surroundings, table  # noqa: E402
from served import JSON, NAME, Server, ask, body, connected, images, results, save_digits, serving  # noqa: E402

import fxlrp  # noqa: E402

CLIENTS = 8
SLOWER = 2.0
"""Times that the median of good clients may grow."""
HEALTH = 0.1
"""Seconds within which 99 of 100 must hear that the process lives."""
GROWTH = 2**25
"""Bytes by which memory may grow from the first fifth of the requests on: the allocators' pools."""
TOLERANCE = 1e-6


class Good:
    """A request with its answer."""

    def __init__(self, artifact: fxlrp.Artifact, seed: int) -> None:
        x = images(1, seed)
        self.body = body({NAME: x.tolist()}, seed % 10)
        self.expected = artifact.results(x, target=seed % 10)

    def wrong(self, status: int, answer: bytes) -> bool:
        if status != 200:
            return True
        found = results(answer)
        return any((found[name] - value).norm() > 1e-5 * value.norm() for name, value in self.expected.items())


def ask_for(seconds: float, pause: float, port: int, requests: list[Good], seed: int) -> tuple[list[float], int]:
    """Seconds of every answer of one client, and how many were wrong."""
    chance, times, wrong, end = random.Random(seed), list[float](), 0, time.monotonic() + seconds
    with connected(port) as client:
        while time.monotonic() < end:
            request = chance.choice(requests)
            start = time.perf_counter()
            try:
                found = ask(client, request.body)
            except (OSError, http.client.HTTPException):
                client.close()
                found = (0, b"")
            times.append(time.perf_counter() - start)
            wrong += request.wrong(*found)
            time.sleep(pause * 2 * chance.random())
    return times, wrong


def watch(seconds: float, port: int) -> list[float]:
    """Seconds of every answer of /health, each on a connection of its own."""
    times, end = list[float](), time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        with connected(port) as client:
            status, _ = ask(client, None, method="GET", path="/health")
        times.append(time.perf_counter() - start if status == 200 else 60.0)
        time.sleep(0.02)
    return times


def phase(options: argparse.Namespace, port: int, requests: list[Good]) -> dict[str, Any]:
    """What good clients see for some seconds."""
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        health = pool.submit(watch, options.seconds, port)
        clients = [
            pool.submit(ask_for, options.seconds, options.pause, port, requests, seed) for seed in range(CLIENTS)
        ]
        found = [client.result() for client in clients]
    times = [time for mine, _ in found for time in mine]
    return {
        "requests": len(times),
        "median": statistics.median(times),
        "wrong": sum(wrong for _, wrong in found),
        "health": statistics.quantiles(health.result(), n=100, method="inclusive")[98],
    }


@contextmanager
def attacked(name: str, port: int) -> Iterator[Counter[str]]:
    """Attack meanwhile; afterwards the result says what became of it."""
    seen: Counter[str] = Counter()
    command = [sys.executable, str(ROOT / "benchmarks" / "attackers.py"), name, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1.0)  # until it has begun
        yield seen
        said, _ = process.communicate()
        seen.update(json.loads(said))


def attacks(options: argparse.Namespace, path: Path, requests: list[Good]) -> Iterator[dict[str, Any]]:
    """Each attack beside none."""
    with serving(path, Path(os.devnull)) as server:
        phase(argparse.Namespace(seconds=2.0, pause=options.pause), server.port, requests)
        for name in options.attacks:
            alone = phase(options, server.port, requests)
            with attacked(name, server.port) as seen:
                beside = phase(options, server.port, requests)
            ratio = beside["median"] / alone["median"]
            ok = ratio <= SLOWER and beside["wrong"] == 0 and beside["health"] <= HEALTH
            yield {"attack": name, "alone": alone, "beside": beside, "ratio": ratio, "seen": dict(seen), "ok": ok}


def memory(options: argparse.Namespace, path: Path, requests: list[Good]) -> dict[str, Any]:
    """Resident bytes of the service while good and bad requests come, some of them large."""
    large = [text for kind in (lists, dictionaries, nested, types) for text in kind()]
    small = [text for text in large if len(text) < 2**18]
    numbers, lock, marks = iter(range(options.requests)), threading.Lock(), dict[int, float]()
    every = max(1, options.requests // 10)

    def client(seed: int, server: Server) -> Counter[str]:
        chance, seen = random.Random(seed), Counter[str]()
        with connected(server.port) as connection:
            while True:
                with lock:
                    i = next(numbers, None)
                    if i is None:
                        return seen
                    if i % every == 0:
                        marks[i] = server.metric("process_resident_memory_bytes")
                if i % 100 == 0:
                    ask(connection, chance.choice(large))
                    seen["large"] += 1
                elif chance.random() < 0.2:
                    ask(connection, chance.choice(small))
                    seen["small"] += 1
                else:
                    request = chance.choice(requests)
                    seen["wrong" if request.wrong(*ask(connection, request.body)) else "good"] += 1

    with serving(path, Path(os.devnull)) as server, ThreadPoolExecutor(CLIENTS) as pool:
        kinds = sum(pool.map(client, range(CLIENTS), itertools.repeat(server)), Counter[str]())
        last = server.metric("process_resident_memory_bytes")
    settled = marks.get(2 * every, last)
    ok = last - settled <= GROWTH and not kinds["wrong"]
    return {"kinds": dict(kinds), "bytes": {**marks, options.requests: last}, "growth": last - settled, "ok": ok}


def ends(options: argparse.Namespace, path: Path, requests: list[Good]) -> dict[str, Any]:
    """What clients that ask without pause notice when the service is told to end."""
    seen: Counter[str] = Counter()

    def client(seed: int, server: Server) -> Counter[str]:
        chance, found = random.Random(seed), Counter[str]()
        while server.process.poll() is None:
            with connected(server.port) as connection:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    found["refused"] += 1
                    return found
                try:
                    while True:
                        request = chance.choice(requests)
                        connection.request("POST", "/explain", request.body, {"Content-Type": JSON})
                        response = connection.getresponse()
                        found["wrong" if request.wrong(response.status, response.read()) else "right"] += 1
                        if response.headers["Connection"] == "close":
                            found["sent away"] += 1
                            break
                except (OSError, http.client.HTTPException) as error:
                    found[f"lost: {type(error).__name__}"] += 1
        return found

    for _ in range(options.repeats):
        with (
            serving(path, Path(os.devnull), "--drain", str(options.drain)) as server,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            clients = [pool.submit(client, seed, server) for seed in range(CLIENTS)]
            time.sleep(1.0)
            server.process.send_signal(signal.SIGTERM)
            seen.update(sum((future.result() for future in clients), Counter[str]()))
            seen["ended"] += server.process.wait(30) == 0
    ok = seen["ended"] == options.repeats and not any(name.startswith(("lost", "wrong")) for name in seen)
    return {"seen": dict(seen), "ok": ok}


def triton(path: Path, artifact: fxlrp.Artifact) -> dict[str, Any]:
    """The largest difference that Triton's client sees, with binary tensors and with JSON."""
    import tritonclient.http as client

    x, largest = images(4), 0.0
    expected = artifact.results(x, target=3)
    with serving(path, Path(os.devnull)) as server, client.InferenceServerClient(f"127.0.0.1:{server.port}") as one:
        listed = [model["name"] for model in one.get_model_repository_index()]
        about = one.get_model_metadata("digits")
        for binary in (True, False):
            inputs = [client.InferInput(NAME, [4, 1, 8, 8], "FP32"), client.InferInput("target", [4, 1], "INT64")]
            inputs[0].set_data_from_numpy(x.numpy(), binary_data=binary)
            inputs[1].set_data_from_numpy(torch.full((4, 1), 3).numpy(), binary_data=binary)
            outputs = [client.InferRequestedOutput(name, binary_data=binary) for name in expected]
            found = one.infer("digits", inputs, outputs=outputs)
            for name, value in expected.items():
                largest = max(largest, float((torch.from_numpy(found.as_numpy(name).copy()) - value).abs().max()))
    ok = listed == ["digits"] and about["name"] == "digits" and largest <= TOLERANCE
    return {"listed": listed, "inputs": about["inputs"], "difference": largest, "ok": ok}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack, and alone (%(default)s)")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between a client's requests (%(default)s)")
    parser.add_argument("--requests", type=int, default=10_000, help="over which memory is watched (%(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="ends under load (%(default)s)")
    parser.add_argument("--drain", type=float, default=1.0, help="seconds of each end (%(default)s)")
    parser.add_argument("--out", type=Path, help="write JSON")
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = surroundings(options)
    with tempfile.TemporaryDirectory() as folder:
        path = save_digits(Path(folder) / "digits.pt2")
        artifact = fxlrp.load(path)
        requests = [Good(artifact, seed) for seed in range(20)]
        report["attacks"] = list(attacks(options, path, requests))
        report["memory"] = memory(options, path, requests)
        report["ends"] = ends(options, path, requests)
        report["triton"] = triton(path, artifact)
    rows = [
        (
            row["attack"],
            f"{1e3 * row['alone']['median']:.1f}",
            f"{1e3 * row['beside']['median']:.1f}",
            f"{row['ratio']:.2f}",
            row["beside"]["wrong"],
            f"{1e3 * row['beside']['health']:.0f}",
            ", ".join(f"{name} {count}" for name, count in row["seen"].items()),
            "yes" if row["ok"] else "NO",
        )
        for row in report["attacks"]
    ]
    columns = ["attack", "alone, ms", "beside, ms", "ratio", "wrong", "health p99, ms", "its answers", "holds"]
    others = [
        (
            name,
            json.dumps({key: value for key, value in report[name].items() if key not in ("ok", "inputs")}),
            "yes" if report[name]["ok"] else "NO",
        )
        for name in ("memory", "ends", "triton")
    ]
    finish(options, report, [table("", columns, rows), table("", ["", "found", "holds"], others, texts=3)])
    parts = [*report["attacks"], report["memory"], report["ends"], report["triton"]]
    return 0 if all(part["ok"] for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
