"""The image and the manifest for Kubernetes: they name what there is, and fit each other and the service."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from served import call
from torch import nn

import fxlrp
from fxlrp.cli.app import app
from fxlrp.serving.middleware import digest_token
from fxlrp.serving.request_handling import Limits
from fxlrp.serving.server import GRACE_SECONDS
from fxlrp.serving.service import Service

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "deploy"


def instructions() -> Iterator[tuple[str, str]]:
    """Each instruction of the Dockerfile and what follows it."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, rest


def documents() -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def container() -> Any:
    deployment, _ = documents()
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    return one


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What `fxlrp serve` makes of a command line, without running it."""
    assert arguments[:2] == ["fxlrp", "serve"]
    command: Any = typer.main.get_command(app)
    serve = command.commands["serve"]
    with serve.make_context("serve", arguments[2:]) as context:
        return dict(context.params)


def entrypoint() -> list[str]:
    return list(json.loads(dict(instructions())["ENTRYPOINT"]))


def test_the_image_is_made_of_what_there_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for name, rest in instructions():
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    packages = (ROOT / "pyproject.toml").read_text()
    assert "\nserve = [" in packages


def test_the_image_runs_the_service() -> None:
    found = dict(instructions())
    options = parsed([*entrypoint(), *json.loads(found["CMD"])])
    assert options["artifacts"] == ["/models/model.pt2"]
    assert str(options["port"]) == found["EXPOSE"]
    assert int(found["USER"]) > 0


def test_the_manifest_fits_the_image() -> None:
    deployment, service = documents()
    pod, one = deployment["spec"]["template"]["spec"], container()
    options = parsed([*entrypoint(), *one["args"]])
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert ports == {"http": options["port"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert pod["terminationGracePeriodSeconds"] > options["drain"] + GRACE_SECONDS
    mounts = {mount["mountPath"]: mount for mount in one["volumeMounts"]}
    for path in (*options["artifacts"], options["token_file"]):
        assert mounts[str(Path(path).parent)]["readOnly"]
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsUser"] == int(dict(instructions())["USER"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert one["securityContext"]["readOnlyRootFilesystem"]
    assert not one["securityContext"]["allowPrivilegeEscalation"]
    assert one["resources"]["limits"]["memory"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_are_answered_without_a_token(probe: str, tmp_path: Path) -> None:
    path = fxlrp.compile(nn.Linear(4, 3).eval()).save(tmp_path / "m.pt2", torch.ones(2, 4))
    asked = container()[probe]["httpGet"]
    assert asked["port"] in {port["name"] for port in container()["ports"]}

    async def status() -> int:
        service = Service({"m": fxlrp.load(path)}, Limits(2**20, 8, 8, 0.0), {digest_token("a")})
        application = service.application()
        async with service.lifespan(application):
            return (await call(application, method="GET", path=asked["path"]))[0]

    assert asyncio.run(status()) == 200
