"""The Open Inference Protocol, as the specification and a public client have it, and KServe's explanations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from served import NAME, Server, body, call, images, results, save_digits, serving
from torch import Tensor, nn
from tritonclient.utils import InferenceServerException

import fxlrp
from fxlrp.serving import json_workers
from fxlrp.serving.inference_messages import DATATYPES, HEADER_LENGTH
from fxlrp.serving.request_handling import Limits
from fxlrp.serving.service import Service

pytestmark = pytest.mark.external


class Words(nn.Module):
    """Ids and a mask, so that there are several inputs of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head((self.table(ids) * mask[..., None]).mean(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_digits(tmp_path_factory.mktemp("protocol") / "digits.pt2")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("protocol") / "words.pt2"
    example = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.ones(2, 3)
    return fxlrp.compile(Words().eval(), dynamic_shapes="auto").save(path, *example)


@pytest.fixture(scope="module")
def server(saved: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(saved, tmp_path_factory.mktemp("log") / "stderr", f"text={words}") as one:
        yield one
        one.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as one:
        yield one


def tensor(name: str, values: Any, datatype: str, binary: bool) -> Any:
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def test_a_public_client_lists_and_describes(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert [(model["name"], model["state"]) for model in client.get_model_repository_index()] == [
        ("digits", "READY"),
        ("text", "READY"),
    ]
    assert client.is_model_ready("digits")
    assert client.is_model_ready("text", "1")
    assert not client.is_model_ready("none")
    assert not client.is_model_ready("text", "2")
    about = client.get_model_metadata("digits", "1")
    assert (about["name"], about["versions"], about["platform"]) == ("digits", ["1"], "fxlrp_pt2")
    assert about["inputs"] == [
        {"name": NAME, "datatype": "FP32", "shape": [-1, 1, 8, 8]},
        {"name": "target", "datatype": "INT64", "shape": [-1, 1]},
    ]
    assert about["outputs"][0] == {"name": "output", "datatype": "FP32", "shape": [-1, 10]}
    with pytest.raises(InferenceServerException, match="no artefact of this name"):
        client.get_model_metadata("none")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("target", [None, 3, -1])
def test_a_public_client_infers(client: Any, saved: Path, binary: bool, target: int | None) -> None:
    x = images(3)
    expected = fxlrp.load(saved).results(x, target=target)
    inputs = [tensor(NAME, x.numpy(), "FP32", binary)]
    if target is not None:
        inputs.append(tensor("target", np.full((3, 1), target), "INT64", binary))
    wanted = None if binary else [triton.InferRequestedOutput(name, binary_data=name == "output") for name in expected]
    found = client.infer("digits", inputs, outputs=wanted, request_id="the 7th")
    assert found.get_response()["id"] == "the 7th"
    for name, value in expected.items():
        assert np.allclose(found.as_numpy(name), value.numpy(), rtol=1e-6, atol=1e-6)
    one = client.infer("digits", inputs, outputs=[triton.InferRequestedOutput("relevance.input")])
    assert [output["name"] for output in one.get_response()["outputs"]] == ["relevance.input"]


def test_a_public_client_is_told_what_is_wrong(client: Any) -> None:
    for name, values, datatype, text in (
        (NAME, images(1).numpy(), "FP32", "no output"),
        ("image", images(1).numpy(), "FP32", "no input 'image'"),
        (NAME, images(1).double().numpy(), "FP64", "datatype FP32, not 'FP64'"),
        (NAME, images(40).numpy(), "FP32", "does not fit"),
        (NAME, images(1)[:, 0].numpy(), "FP32", "does not fit"),
        (NAME, np.full((1, 1, 8, 8), np.nan, np.float32), "FP32", "NaN"),
    ):
        outputs = [triton.InferRequestedOutput("nothing")] if text == "no output" else None
        with pytest.raises(InferenceServerException, match=text):
            client.infer("digits", [tensor(name, values, datatype, True)], outputs=outputs)


def test_several_inputs(client: Any, words: Path) -> None:
    ids, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.rand(2, 4)
    expected = fxlrp.load(words).results(ids, mask)
    inputs = [tensor("mask", mask.numpy(), "FP32", False), tensor("ids", ids.numpy(), "INT64", True)]
    found = client.infer("text", inputs)
    for name, value in expected.items():
        assert np.allclose(found.as_numpy(name), value.numpy(), rtol=1e-6, atol=1e-6)


def entry(**changes: Any) -> dict[str, Any]:
    first = {"name": NAME, "datatype": "FP32", "shape": [1, 1, 8, 8], "data": images(1).flatten().tolist()}
    return {name: value for name, value in {**first, **changes}.items() if value is not None}


SIZE = {"binary_data_size": 256}
WRONG: dict[str, tuple[int, str, Any, bytes]] = {
    "a list": (400, "the body must be an object", [], b""),
    "no inputs": (400, "inputs must be a list", {}, b""),
    "an input of another type": (400, "an input must be an object", {"inputs": [3]}, b""),
    "no name": (400, "name of an input", {"inputs": [entry(name=3)]}, b""),
    "twice": (400, "comes twice", {"inputs": [entry(), entry()]}, b""),
    "no shape": (400, "shape must be a list", {"inputs": [entry(shape=None)]}, b""),
    "a shape of truth": (400, "list of numbers", {"inputs": [entry(shape=[True, 1, 8, 8])]}, b""),
    "a size of 0": (400, "none of them 0", {"inputs": [entry(shape=[0, 1, 8, 8], data=[])]}, b""),
    "another shape": (400, "of shape", {"inputs": [entry(shape=[1, 1, 8, 7])]}, b""),
    "no data": (400, "must be a list", {"inputs": [entry(data=None)]}, b""),
    "words": (422, "type str", {"inputs": [entry(data=["1"] * 64)]}, b""),
    "too large": (422, "cannot hold", {"inputs": [entry(data=[1e39] * 64)]}, b""),
    "uneven": (400, "nested evenly", {"inputs": [entry(data=[[1.0], 2.0])]}, b""),
    "another type": (422, "datatype FP32", {"inputs": [entry(datatype="FP16")]}, b""),
    "shared memory": (
        400,
        "other parameters",
        {"inputs": [entry(data=None, parameters={**SIZE, "shared_memory_region": "a"})]},
        b"",
    ),
    "both": (400, "has data", {"inputs": [entry(parameters=SIZE)]}, bytes(256)),
    "too few bytes": (400, "has 100 bytes", {"inputs": [entry(data=None, parameters=SIZE)]}, bytes(100)),
    "too many bytes": (400, "follow the JSON", {"inputs": [entry(data=None, parameters=SIZE)]}, bytes(257)),
    "a negative size": (
        400,
        "has 0 bytes",
        {"inputs": [entry(data=None, parameters={"binary_data_size": -1})]},
        bytes(256),
    ),
    "bytes for nothing": (400, "3 bytes follow", {"inputs": [entry()]}, b"abc"),
    "an id of another type": (400, "id must be a string", {"inputs": [entry()], "id": 7}, b""),
    "outputs": (400, "outputs must be a list", {"inputs": [entry()], "outputs": {}}, b""),
    "a class": (
        400,
        "'classification' is not supported",
        {"inputs": [entry()], "outputs": [{"name": "output", "parameters": {"classification": 3}}]},
        b"",
    ),
    "a flag": (400, "true or false", {"inputs": [entry()], "parameters": {"binary_data_output": 1}}, b""),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(server: Server, name: str) -> None:
    wanted, text, document, rest = WRONG[name]
    head = json.dumps(document).encode()
    headers = {HEADER_LENGTH: str(len(head))} if rest else {}
    status, answer = server.ask(head + rest, path="/v2/models/digits/infer", headers=headers)
    assert status == wanted, answer
    assert text in json.loads(answer)["error"]


@pytest.mark.parametrize("length", ["-1", "1e3", "99999", "\N{SUPERSCRIPT TWO}", "9" * 5000, ""])
def test_a_wrong_length_of_the_head(server: Server, length: str) -> None:
    headers = {HEADER_LENGTH: length.encode("latin-1").decode("latin-1")}
    assert server.ask(b"{}", path="/v2/models/digits/infer", headers=headers)[0] == 400


def test_every_type_has_a_name_and_passes() -> None:
    for dtype, datatype in DATATYPES.items():
        spelled = datatype.lower().replace("bf", "bfloat").replace("fp", "float")
        assert spelled == dtype


def test_large_requests_are_read_elsewhere_and_the_same(
    server: Server, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(20)
    assert len(body({NAME: x.tolist()})) < json_workers.MAX_INLINE_BYTES * 2
    padded = body({NAME: x.tolist()}, 3) + b" " * json_workers.MAX_INLINE_BYTES
    expected = fxlrp.load(saved).results(x, target=3)
    document = {"inputs": [entry(shape=[20, 1, 8, 8], data=x.tolist())], "id": "a"}
    for path, content, read in (
        ("/models/digits/explain", padded, results),
        ("/v2/models/digits/infer", json.dumps(document).encode() + b" " * json_workers.MAX_INLINE_BYTES, None),
    ):
        status, answer = server.ask(content, path=path)
        assert status == 200, answer
        if read is not None:
            found = read(answer)
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        else:
            assert [output["shape"][0] for output in json.loads(answer)["outputs"]] == [20] * len(expected)


def test_explanations_of_kserve(server: Server, saved: Path, words: Path) -> None:
    assert json.loads(server.ask(method="GET", path="/v1/models")[1]) == {"models": ["digits", "text"]}
    assert json.loads(server.ask(method="GET", path="/v1/models/text")[1]) == {"name": "text", "ready": True}
    x = images(3)
    for padding in (0, json_workers.MAX_INLINE_BYTES):
        content = json.dumps({"instances": x.tolist(), "target": [3, 1, 2]}).encode() + b" " * padding
        status, answer = server.ask(content, path="/v1/models/digits:explain")
        assert status == 200, answer
        found, expected = json.loads(answer), fxlrp.load(saved).results(x, target=[3, 1, 2])
        for i in range(3):
            assert found["predictions"][i] == {"output": expected["output"][i].tolist()}
            for name, values in found["explanations"][i].items():
                assert torch.equal(torch.tensor(values), expected[name][i])
        assert found["explanations"][0].keys() == expected.keys() - {"output"}
    ids, mask = torch.arange(1, 9).reshape(2, 4), torch.rand(2, 4)
    rows = [{"ids": one, "mask": other} for one, other in zip(ids.tolist(), mask.tolist(), strict=True)]
    status, answer = server.ask(json.dumps({"instances": rows}).encode(), path="/v1/models/text:explain")
    assert status == 200, answer
    for i, found in enumerate(json.loads(answer)["explanations"]):
        expected = fxlrp.load(words).results(ids, mask)
        assert torch.equal(torch.tensor(found["relevance.mask"]), expected["relevance.mask"][i])


@pytest.mark.parametrize(
    ("status", "text", "model", "document"),
    [
        (400, '{"instances"', "digits", {}),
        (400, '{"instances"', "digits", {"instances": 3}),
        (400, '{"instances"', "digits", {"instances": [], "inputs": []}),
        (422, "empty list", "digits", {"instances": []}),
        (422, "nested evenly", "digits", {"instances": [[1.0], [2.0, 3.0]]}),
        (422, "no input 'x'", "digits", {"instances": [{"x": 1}]}),
        (400, "the same names", "text", {"instances": [{"ids": [1]}, {"mask": [1]}]}),
        (400, '{"instances"', "text", {"instances": [[1, 2], [3, 4]]}),
        (422, "takes ids, mask", "text", {"instances": [{"ids": [1, 2]}]}),
        (422, "nested evenly", "text", {"instances": [{"ids": [1, 2], "mask": [1]}, {"ids": [1], "mask": [1]}]}),
    ],
)
def test_wrong_instances(server: Server, status: int, text: str, model: str, document: Any) -> None:
    found, answer = server.ask(json.dumps(document).encode(), path=f"/v1/models/{model}:explain")
    assert (found, text in json.loads(answer)["error"]) == (status, True), answer


def test_instances_with_long_values(words: Path) -> None:
    """They come as arrays, each by itself."""
    artifact = fxlrp.load(words)

    async def story(lengths: tuple[int, int]) -> tuple[int, Any]:
        service = Service({"text": artifact}, Limits(2**22, 8, 8, 0.0))
        application = service.application()
        rows = [{"ids": [1] * length, "mask": [0.5] * length} for length in lengths]
        content = json.dumps({"instances": rows}).encode()
        async with service.lifespan(application):
            status, _, answer = await call(application, [content], path="/v1/models/text:explain")
            return status, json.loads(answer)

    status, found = asyncio.run(story((20_000, 20_000)))
    assert status == 200, found
    assert len(found["explanations"][1]["relevance.mask"]) == 20_000
    status, found = asyncio.run(story((20_000, 19_000)))
    assert status == 422
    assert "same shape" in found["error"]


class Weighted(nn.Module):
    """A product with weights that are the same for all samples."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return x * weights


def test_what_is_not_per_sample_has_no_instances(tmp_path: Path) -> None:
    path = fxlrp.compile(Weighted().eval()).save(tmp_path / "m.pt2", torch.ones(2, 4), torch.ones(4))
    application = Service({"m": fxlrp.load(path)}, Limits(2**20, 8, 8, 0.0)).application()
    status, _, answer = asyncio.run(call(application, [b"{}"], path="/v1/models/m:explain"))
    assert status == 422
    assert "not everything" in json.loads(answer)["error"]
