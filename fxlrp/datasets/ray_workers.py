"""Work spread over the workers of Ray Data."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fxlrp import errors
from fxlrp.errors import FxlrpError
from fxlrp.optional import require

MAX_TASKS = 4096
"""At most so many tasks of Ray, of one piece of work each while that is enough."""
QUIET_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
OBJECT_STORE_BYTES = 2**27
"""Bytes for objects of a local Ray: through it go numbers of shards only."""


class RayWorker:
    """A process that works; errors that users can mend are results, which Ray does not wrap, log or try again."""

    def __init__(self, work: Callable[[int], None], threads: int) -> None:
        torch.set_num_threads(threads)
        self.work = work

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Do one piece of work."""
        (number,) = batch["number"]
        error = message = ""
        try:
            self.work(int(number))
        except (FxlrpError, OSError) as caught:
            error, message = type(caught).__name__, str(caught)
        return {"number": [int(number)], "error": [error], "message": [message]}


def spread_work(
    work: Callable[[int], None], numbers: Sequence[int], *, workers: int, threads: int | None, gpu: bool
) -> Iterator[int]:
    """Call ``work`` with every number, and return the numbers as they are done, within `connect_ray`.

    A number whose worker dies is given to another worker, without end.

    Args:
        work: What to do; workers get a copy.
        numbers: Its arguments.
        workers: Processes.
        threads: Of torch in each; by default an equal share of the cores.
        gpu: Whether each needs one.

    Raises:
        FxlrpError: The first one that ``work`` raises, or that a worker failed.
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    workers = min(workers, len(numbers))
    with silence_ray():
        threads = threads or share_cores(workers)
        items = data.from_items([{"number": n} for n in numbers], override_num_blocks=min(len(numbers), MAX_TASKS))
        done = items.map_batches(
            RayWorker,
            batch_size=1,
            fn_constructor_args=(work, threads),
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=threads,
            num_gpus=1 if gpu else 0,
        )
        done.context.enable_progress_bars = False
        try:
            for result in done.iter_batches(batch_size=None, prefetch_batches=0):
                for number, error, message in zip(*(result[k] for k in ("number", "error", "message")), strict=True):
                    if error:
                        raise getattr(errors, error, OSError)(message)
                    yield int(number)
        except ray.exceptions.RayError as error:
            raise FxlrpError(f"a worker failed: {error}") from error


def share_cores(workers: int) -> int:
    """Return how many cores of one machine each worker gets."""
    ray = require("ray", "ray")
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(1, min(max(cores), sum(cores) // workers))


@contextmanager
def connect_ray(cores: int) -> Iterator[None]:
    """Use the Ray that is running in this process, that of ``RAY_ADDRESS``, or start one on this machine."""
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield
        return
    local = {
        "address": "local",
        "num_cpus": max(cores, os.cpu_count() or 1),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    with set_variables(QUIET_VARIABLES):
        with silence_stderr():
            ray.init(**({} if os.environ.get("RAY_ADDRESS") else local), log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def set_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set yet."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def silence_ray() -> Iterator[None]:
    """Silence what Ray Data logs of every run, and its warnings of itself."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Silence standard error, to which code that is not Python writes too, such as Ray's and profilers'."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
