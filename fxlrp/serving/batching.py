"""Batches: requests of equal shapes run as one call of an artefact, in one thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.artifacts.description.manifest import Manifest

Tensors = Mapping[str, Tensor]
RunTensors = Callable[[Tensors], Tensors]
ObserveCall = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class PendingCall:
    """Tensors that wait to be run, since when, and who waits for the results."""

    tensors: Tensors
    since: float
    results: asyncio.Future[Tensors]

    @property
    def samples(self) -> int:
        """The number of samples; 1 for tensors without a batch dimension, which are never joined."""
        first = next(iter(self.tensors.values()))
        return max(1, first.shape[0]) if first.ndim else 1

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """The shapes of one sample's tensors."""
        return tuple(tensor.shape[1:] for tensor in self.tensors.values())


class Batcher:
    """Runs what is submitted, oldest first, together with others of the same shapes.

    All calls run in one thread, so that an artefact needs not be safe for several. While a call runs, others gather.
    """

    def __init__(self, run: RunTensors, most: int, wait: float, observe: ObserveCall) -> None:
        """Prepare.

        Args:
            run: What runs named tensors.
            most: Samples of one call; 1 if requests must not be joined.
            wait: Seconds that a request waits for others, if there is room in its call.
            observe: Told of the samples and seconds of every call.
        """
        self.run, self.most, self.wait, self.observe = run, most, wait, observe
        self.waiting: deque[PendingCall] = deque()
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "artefact")

    async def submit(self, tensors: Tensors) -> Tensors:
        """Wait for the results for these tensors, whatever becomes of others.

        Raises:
            Exception: What ``run`` raises for these tensors alone.
        """
        loop = asyncio.get_running_loop()
        call = PendingCall(tensors, loop.time(), loop.create_future())
        self.waiting.append(call)
        self.arrived.set()
        return await call.results

    async def run_until_cancelled(self) -> None:
        """Run calls until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                calls = await self.take_next()
                outcomes = await loop.run_in_executor(self.thread, self.run_each, calls)
                for call, outcome in zip(calls, outcomes, strict=True):
                    if call.results.cancelled():
                        continue
                    if isinstance(outcome, Exception):
                        call.results.set_exception(outcome)
                    else:
                        call.results.set_result(outcome)
        finally:
            self.thread.shutdown()

    async def take_next(self) -> list[PendingCall]:
        """Take the oldest call and those that can run with it, once there are enough or it has waited long enough."""
        loop = asyncio.get_running_loop()
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        deadline = self.waiting[0].since + self.wait
        while sum(call.samples for call in self.find_joinable()) < self.most and loop.time() < deadline:
            self.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), deadline - loop.time())
        calls = self.find_joinable()
        for call in calls:
            self.waiting.remove(call)
        return calls

    def find_joinable(self) -> list[PendingCall]:
        """Find the oldest call and those of the same shapes that there is room for beside it."""
        first, *others = self.waiting
        calls, samples = [first], first.samples
        for call in others:
            if samples + call.samples <= self.most and call.shapes == first.shapes:
                calls.append(call)
                samples += call.samples
        return calls

    def run_each(self, calls: Sequence[PendingCall]) -> Sequence[Tensors | Exception]:
        """Return the results or the error of each call; if they fail together each runs alone."""
        try:
            return self.run_together(calls)
        except Exception as error:
            if len(calls) == 1:
                return [error]
        return [self.run_each([call])[0] for call in calls]

    def run_together(self, calls: Sequence[PendingCall]) -> Sequence[Tensors]:
        """Run several calls as one.

        A call alone is passed as it is: an artefact whose samples cannot be joined need not have a batch dimension.
        """
        start = time.perf_counter()
        counts = [call.samples for call in calls]
        first, *others = (call.tensors for call in calls)
        joined = {name: torch.cat([call.tensors[name] for call in calls]) for name in first} if others else first
        results = self.run(joined)
        self.observe(sum(counts), time.perf_counter() - start)
        if not others:
            return [results]
        parts = {name: torch.split(tensor, counts) for name, tensor in results.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(calls))]


def is_batched(about: Manifest) -> bool:
    """Return whether the first size of every input and output is the number of samples."""
    batch = about.explained.shape[:1]
    return all(spec.shape[:1] == batch for spec in (*about.inputs, *about.outputs))


def is_joinable(about: Manifest) -> bool:
    """Return whether samples of several requests can be one batch: all have the same first size, which may change.

    A size computed of others, which has no name, may depend on the batch: then nothing is joined.
    """
    batch = about.explained.shape[0]
    others = [size for spec in (*about.inputs, *about.outputs) for size in spec.shape[1:] if not isinstance(size, int)]
    return is_batched(about) and batch in about.sizes and all(size in about.sizes and size != batch for size in others)
