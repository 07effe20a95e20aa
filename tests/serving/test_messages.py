"""Bodies of requests and answers, and batches made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxlrp
from fxlrp.artifacts.description.fitting import check_inputs
from fxlrp.artifacts.description.manifest import Manifest
from fxlrp.artifacts.description.specs import Range, Spec
from fxlrp.errors import SignatureError, TargetError
from fxlrp.serving.batching import Batcher, Tensors, is_joinable
from fxlrp.serving.json_numbers import parse_json, write_json
from fxlrp.serving.messages import (
    pack_tensor,
    read_document,
    read_index,
    read_safetensors,
    read_tensor,
    write_safetensors,
)

FLOATS = {"float16": 16, "bfloat16": 32, "float32": 32, "float64": 64}
INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")


@given(st.data(), st.sampled_from([*FLOATS, *INTEGERS[:5], "bool"]))
def test_tensors_pass_json_unchanged(data: st.DataObject, dtype: str) -> None:
    kind = getattr(torch, dtype)
    shape = data.draw(st.lists(st.integers(1, 3), max_size=4))
    count = torch.Size(shape).numel()
    if dtype in FLOATS:
        width = FLOATS[dtype]
        entry: st.SearchStrategy[Any] = st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    else:
        entry = st.booleans() if kind is torch.bool else st.integers(torch.iinfo(kind).min, torch.iinfo(kind).max)
    tensor = torch.tensor(data.draw(st.lists(entry, min_size=count, max_size=count)), dtype=kind).reshape(shape)
    if not tensor.isfinite().all():  # rounded up to infinity as bfloat16
        tensor = torch.zeros_like(tensor)
    read = json.loads(write_json({"x": pack_tensor(tensor)}))["x"]
    found = read_tensor(read, Spec("x", dtype, tuple(shape)))
    assert found.dtype == kind
    assert torch.equal(found, tensor)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("wrong", [2**64, -(2**63) - 1, 10**400, 1.0, True, None, "1"])
def test_integers_that_do_not_fit(dtype: str, wrong: Any) -> None:
    spec = Spec("x", dtype, ("batch",))
    limits = torch.iinfo(getattr(torch, dtype))
    for value in (wrong, limits.max + 1, limits.min - 1):
        with pytest.raises(SignatureError, match="'x' has"):
            read_tensor([0, value], spec)
    assert read_tensor([limits.min, limits.max], spec).tolist() == [limits.min, limits.max]


def test_truth_values_are_no_numbers() -> None:
    assert read_tensor([True, False], Spec("x", "bool", (2,))).dtype is torch.bool
    for wrong in (1, 0.0, "true"):
        with pytest.raises(SignatureError, match="takes bool"):
            read_tensor([True, wrong], Spec("x", "bool", (2,)))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_lists_of_anything_are_read_or_refused(value: Any) -> None:
    for spec in (Spec("x", "float32", ("batch", 2)), Spec("x", "int64", ("batch",)), Spec("x", "bool", ())):
        with suppress(SignatureError):
            found = read_tensor(value, spec)
            assert found.ndim == len(spec.shape)
            assert found.tolist() == torch.tensor(value, dtype=found.dtype).tolist()
    with suppress(TargetError):
        read_index(value)


def test_targets_of_json() -> None:
    for json_form, python in ((None, None), (3, 3), ([1, -1], [1, -1]), ([[-1, None], [2, 3]], [(-1, None), (2, 3)])):
        assert read_index(json_form) == python


def test_numbers_that_are_not_finite_are_spelled() -> None:
    values = torch.tensor([[1.5, torch.inf], [-torch.inf, torch.nan]])
    assert json.loads(write_json({"x": pack_tensor(values)})) == {"x": [[1.5, "Infinity"], ["-Infinity", "NaN"]]}


def run_all(run: Callable[[Tensors], Tensors], jobs: list[Tensors], most: int, wait: float = 0.0) -> tuple[Any, Any]:
    """What came of jobs submitted at once, and the samples of each call."""
    calls: list[int] = []

    async def everything() -> Any:
        batcher = Batcher(run, most, wait, lambda samples, _: calls.append(samples))
        work = asyncio.create_task(batcher.run_until_cancelled())
        waiting: list[Awaitable[Any]] = [batcher.submit(job) for job in jobs]
        found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
        work.cancel()
        return found

    return asyncio.run(everything()), calls


def double(tensors: Tensors) -> Tensors:
    return {"y": 2 * tensors["x"]}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=12), st.integers(1, 8))
def test_every_job_gets_its_own_results(shapes: list[tuple[int, int]], most: int) -> None:
    jobs = [{"x": torch.full(shape, float(i))} for i, shape in enumerate(shapes)]
    found, calls = run_all(double, jobs, most)
    for job, result in zip(jobs, found, strict=True):
        assert torch.equal(result["y"], 2 * job["x"])
    assert sum(calls) == sum(batch for batch, _ in shapes)
    assert all(samples <= max(most, 4) for samples in calls)


def test_equal_shapes_run_as_one_call() -> None:
    jobs = [{"x": torch.ones(1, 2)}, {"x": torch.ones(2, 3)}, {"x": torch.ones(2, 2)}, {"x": torch.ones(6, 2)}]
    assert run_all(double, jobs, most=8)[1] == [3, 2, 6]
    assert run_all(double, jobs, most=9, wait=0.001)[1] == [9, 2]
    assert run_all(double, jobs, most=1)[1] == [1, 2, 2, 6]
    numbers = [{"x": torch.tensor(1.0)}, {"x": torch.tensor(2.0)}]  # without a batch dimension
    assert [float(found["y"]) for found in run_all(double, numbers, most=1)[0]] == [2, 4]


def test_one_that_fails_fails_alone() -> None:
    def run(tensors: Tensors) -> Tensors:
        if (tensors["x"] == 3).any():
            raise SignatureError("a 3")
        return double(tensors)

    found, _ = run_all(run, [{"x": torch.full((1,), float(i))} for i in range(6)], most=6)
    assert [float(f["y"]) for i, f in enumerate(found) if i != 3] == [0, 2, 4, 8, 10]
    assert isinstance(found[3], SignatureError)


def test_an_id_that_no_table_has_fails_alone(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).mean(1))

    ids = torch.tensor([[1, 2, 3]])
    path = fxlrp.compile(Words().eval(), dynamic_shapes="auto").save(tmp_path / "words.pt2", ids.repeat(2, 1))
    artifact = fxlrp.load(path)
    with pytest.raises(SignatureError, match="ids_1 is 1 to 2"):
        check_inputs(artifact.manifest.at_most("ids_1", 2), {"ids": ids})
    jobs = [{"ids": ids + shift, **artifact.make_target({"ids": ids}, 1)} for shift in (0, 7, 1)]
    (one, bad, two), calls = run_all(artifact.run, jobs, most=8)
    assert calls == [1, 1]
    assert isinstance(bad, SignatureError)
    for found, shift in ((one, 0), (two, 1)):
        expected = artifact(ids + shift, target=1).relevance
        assert torch.equal(found["relevance.ids"], expected)
    content = json.dumps({"inputs": {"ids": [[1.0, 2]]}}).encode()
    with pytest.raises(SignatureError, match="type float"):
        read_document(parse_json(content), artifact.manifest)


def test_binary_bodies() -> None:
    tensors = {"input_1": torch.rand(2, 4), "target": torch.tensor([1, 2])}
    call = read_safetensors(write_safetensors(tensors))
    assert torch.equal(call.inputs["input_1"], tensors["input_1"])
    assert torch.equal(call.target, tensors["target"])
    assert read_safetensors(write_safetensors({"input_1": tensors["input_1"]})).target is None


def test_sizes_can_be_narrowed() -> None:
    inputs = (Spec("mask", "int64", ("batch", "length")), Spec("ids", "int64", ("batch", "length")))
    explained = Spec("output", "float32", ("batch", 3))
    known: tuple[Any, ...] = (1, "", "", "pt2", "cpu", "", "", 0, "", "", {}, "none", 0)
    about = Manifest(*known, inputs, {}, (explained,), explained, {"batch": Range(1, None), "length": Range(2, 64)})
    assert is_joinable(about)
    narrow = about.at_most("batch", 5).at_most("length", 10**6)
    assert narrow.sizes == {"batch": Range(1, 5), "length": Range(2, 64)}
    ids = torch.ones(3, 6, dtype=torch.int64)
    assert check_inputs(narrow, {"mask": ids, "ids": ids}) == {"batch": 3, "length": 6}
    for mask, rows in ((ids.repeat(2, 1), ids), (ids.repeat(2, 1), ids.repeat(2, 1))):
        with pytest.raises(SignatureError, match="does not fit"):
            check_inputs(narrow, {"mask": mask, "ids": rows})
    for change, text in (
        (lambda: about.at_most("tokens", 3), "no size 'tokens'"),
        (lambda: about.at_most("batch", 0), "batch is 1 or more, so not at most 0"),
    ):
        with pytest.raises(SignatureError, match=text):
            change()
