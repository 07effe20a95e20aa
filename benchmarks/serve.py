"""Requests per second of ``fxlrp serve`` beside calls of its artefact: ``python benchmarks/serve.py``.

The CNN of the digits demo on one image of 8 x 8, and ResNet-18 on one of 224 x 224. Every request is one sample.
Clients are threads of this process, on connections that are kept, and look at the status only; they share the cores of
the machine with the server. *In process* is a loop over ``artifact.results`` without HTTP. The exit status is 1 if an
answer is not 200, or if the first one differs from that of the artefact.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from measure import finish, surroundings, table  # noqa: E402
from safetensors.torch import load, save  # noqa: E402
from torchvision_ops import import_torchvision  # noqa: E402

import fxlrp  # noqa: E402
from fxlrp.demos import digits  # noqa: E402
from fxlrp.serving.messages import JSON, SAFETENSORS  # noqa: E402

COMMAND = [sys.executable, "-c", "from fxlrp.cli.app import main; main()", "serve"]


def resnet18() -> torch.nn.Module:
    import_torchvision()
    from torchvision.models import resnet18 as build

    return build().eval()


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], int]] = {
    "digits": (lambda: digits.make_network().eval(), (1, 8, 8), 400),
    "resnet18": (resnet18, (3, 224, 224), 16),
}
"""The model, the shape of one sample, and how many requests are timed."""


@contextmanager
def serving(path: Path, threads: int, *options: str) -> Iterator[int]:
    """The port of a service in a process of its own."""
    command = [*COMMAND, str(path), "--port", "0", "--threads", str(threads), "--drain", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)", line)
        yield int(port)
        process.terminate()


def ask(client: http.client.HTTPConnection, body: bytes, kind: str) -> bytes:
    client.request("POST", "/explain", body, {"Content-Type": kind})
    response = client.getresponse()
    answer = response.read()
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {answer!r}")
    return answer


def rate(port: int, body: bytes, kind: str, clients: int, count: int) -> float:
    """Requests per second."""

    def client(requests: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            for _ in range(requests):
                ask(connection, body, kind)

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        list(pool.map(client, [count // clients] * clients))
        return count // clients * clients / (time.perf_counter() - start)


def check(port: int, body: bytes, kind: str, expected: dict[str, torch.Tensor]) -> None:
    """Compare an answer with that of the artefact."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        answer = ask(connection, body, kind)
    found = (
        load(answer) if kind == SAFETENSORS else {k: torch.tensor(v) for k, v in json.loads(answer)["results"].items()}
    )
    for name, value in expected.items():
        if (found[name] - value).norm() > 1e-5 * value.norm():
            raise SystemExit(f"{name} differs from that of the artefact")


def measured(name: str, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of one model."""
    build, shape, count = MODELS[name]
    count = min(count, options.requests)
    torch.manual_seed(0)
    x = torch.rand(1, *shape)
    attributor = fxlrp.compile(build(), dynamic_shapes="auto")
    path = attributor.save(folder / f"{name}.pt2", x.repeat(2, *(1 for _ in shape)))
    artifact = fxlrp.load(path)
    (given,) = (spec.name for spec in artifact.manifest.inputs if spec.name != "target")
    expected = artifact.results(x, target=3)
    for batch in (1, 8):
        calls, many = max(count // batch, 2), x.repeat(batch, *(1 for _ in shape))
        artifact.results(many, target=3)
        start = time.perf_counter()
        for _ in range(calls):
            artifact.results(many, target=3)
        yield {
            "model": name,
            "how": f"in process, batches of {batch}",
            "rates": [calls * batch / (time.perf_counter() - start)],
        }
    bodies = {
        JSON: json.dumps({"inputs": {given: x.tolist()}, "target": 3}).encode(),
        SAFETENSORS: save({given: x, "target": torch.tensor([3])}),
    }
    for batching, settings in (("off", ["--batch-size", "1"]), ("on", ["--batch-size", "32"])):
        with serving(path, options.threads, *settings) as port:
            for (kind, body), clients in itertools.product(bodies.items(), options.clients):
                check(port, body, kind, expected)
                rates = [rate(port, body, kind, clients, count) for _ in range(options.repeats)]
                short = "JSON" if kind == JSON else "binary"
                yield {"model": name, "how": f"{short}, {clients} clients, batching {batching}", "rates": rates}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--requests", type=int, default=400, help="at most so many are timed at once (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--out", type=Path, help="write JSON")
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report = surroundings(options)
    with tempfile.TemporaryDirectory() as folder:
        report["rows"] = [row for name in options.models for row in measured(name, options, Path(folder))]
    rows = [(row["model"], row["how"], f"{statistics.median(row['rates']):.1f}") for row in report["rows"]]
    finish(options, report, [table("", ["model", "how", "requests per second"], rows, texts=2)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
