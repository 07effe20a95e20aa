"""JSON with many numbers, read and written here and in another process: the same, whatever is in it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fxlrp
from fxlrp.errors import RequestError
from fxlrp.serving import json_workers
from fxlrp.serving.json_numbers import (
    Numbers,
    TooLarge,
    nest_numbers,
    pack_lists,
    parse_json,
    shrink_document,
    write_json,
)
from fxlrp.serving.json_workers import Busy, JsonWorkers

MEMORY = 2**29
MOST = 10**6
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


def whole(value: Any) -> Any:
    """A document with lists in place of arrays."""
    if isinstance(value, Numbers):
        assert value.code
        return nest_numbers(value)
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    return [whole(part) for part in value] if isinstance(value, list) else value


@settings(max_examples=50)
@given(st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(st.text(), part)))
def test_packing_changes_no_small_document(document: Any) -> None:
    assert whole(shrink_document(parse_json(json.dumps(document).encode()), MOST)) == document


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.lists(NUMBERS, min_size=65, max_size=90))
def test_even_lists_of_numbers_are_packed(outer: int, middle: int, row: list[float]) -> None:
    value = [[row] * middle] * outer
    numbers = shrink_document({"x": value}, MOST)["x"]
    assert numbers == pack_lists(value)
    assert numbers.shape == (outer, middle, len(row))
    assert nest_numbers(numbers) == value


@pytest.fixture
def pool() -> Any:
    made: list[JsonWorkers] = []

    def make(**options: Any) -> JsonWorkers:
        made.append(JsonWorkers(1, **{"memory": MEMORY, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


Pool = Callable[..., JsonWorkers]


def test_a_process_reads_and_writes_what_is_read_and_written_here(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "inputs": {"x": [[1.5, -2e-300], [3, 2**53]] * 50, "truth": [True, False] * 50, "few": [1, 2.5]},
        "target": [[3, None], 4, None],
        "id": "\N{SNOWMAN} \\ {",
    }
    text = json.dumps(document).encode()
    monkeypatch.setattr(json_workers, "MAX_INLINE_BYTES", 0)
    monkeypatch.setattr(json_workers, "MAX_INLINE_NUMBERS", 0)
    one = pool()
    found = asyncio.run(one.parse(text, MOST))
    assert found == shrink_document(parse_json(text), MOST)
    assert whole(found) == document
    assert asyncio.run(one.write(found, 1)) == write_json(found)
    for wrong, message in ((b"[1", "not JSON"), (b'{"a": 1, "a": 2}', "twice"), (b"[" * 10**6, "deeply")):
        with pytest.raises(RequestError, match=message):
            asyncio.run(one.parse(wrong, MOST))


def test_the_process_imports_neither_torch_nor_numpy() -> None:
    imported = "print({'torch', 'numpy'} & sys.modules.keys())"
    code = json_workers.START_CODE.replace("answer_requests(int(sys.argv[2]))", imported)
    command = [sys.executable, "-P", "-c", code, str(Path(fxlrp.__file__).parent)]
    assert subprocess.check_output(command, text=True) == "set()\n"


LARGE = json.dumps([[0.25, 1.5]] * 20_000).encode()


def test_a_process_that_ends_fails_one_text(pool: Pool) -> None:
    one = pool()

    async def story() -> None:
        expected = await one.parse(LARGE, MOST)
        (process,) = one.processes
        process.kill()
        process.wait()
        assert await one.parse(LARGE, MOST) == expected  # it is noticed before anything is sent
        (process,) = one.processes
        process.kill()  # which may be noticed only by what comes back, or not
        for _ in range(2):
            try:
                assert await one.parse(LARGE, MOST) == expected
                break
            except TooLarge:
                pass
        assert await one.parse(LARGE, MOST) == expected
        assert len(one.processes) == 1

    asyncio.run(story())


def test_a_text_that_takes_too_long_is_given_up(pool: Pool) -> None:
    one = pool(seconds=0.0)

    async def story() -> None:
        with pytest.raises(TooLarge, match="safetensors"):
            await one.parse(b"[" + b"0," * 4_000_000 + b"0]", MOST)
        one.seconds = 60.0
        assert isinstance(await one.parse(LARGE, MOST), Numbers)

    asyncio.run(story())


def test_a_text_that_takes_too_much_memory_is_given_up(pool: Pool) -> None:
    one = pool(memory=2**27)

    async def story() -> None:
        with pytest.raises(TooLarge, match="safetensors"):
            await one.parse(b"[" + b"[]," * 3_000_000 + b"0]", MOST)
        assert isinstance(await one.parse(LARGE, MOST), Numbers)

    asyncio.run(story())


def test_few_large_texts_wait(pool: Pool) -> None:
    one = pool()

    async def story() -> None:
        found = await asyncio.gather(*(one.parse(LARGE, MOST) for _ in range(20)), return_exceptions=True)
        busy = [error for error in found if isinstance(error, Busy)]
        assert len(busy) == 20 - json_workers.MAX_WAITING
        assert all(isinstance(numbers, (Numbers, Busy)) for numbers in found)

    asyncio.run(story())


def test_numbers_that_no_input_can_have_are_not_kept(pool: Pool) -> None:
    numbers = asyncio.run(pool().parse(LARGE, 39_999))
    assert numbers == Numbers((20_000, 2), ("float",), "", b"")
    assert asyncio.run(pool().parse(LARGE, 40_000)) == pack_lists(json.loads(LARGE))
