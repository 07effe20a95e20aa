"""Programs recorded as CUDA graphs: all kernels of a call are launched at once."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.dense import densify
from fxlrp.prepared import split
from fxlrp.program import Program

DEVICE = "cuda"
RECORDINGS = 8
"""Recordings kept per program, one per size of the inputs, least recently used out first."""


@dataclass(frozen=True)
class Recording:
    """A recorded call.

    Attributes:
        inputs: The memory that it reads.
        outputs: The memory that it writes.
        replay: Does it again.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Any, ...]
    replay: Callable[[], None]


Recorder = Callable[[Callable[..., Sequence[Any]], tuple[Tensor, ...]], Recording]


def record(function: Callable[..., Sequence[Any]], inputs: tuple[Tensor, ...]) -> Recording:
    """Record a call on the current device, after a few on a stream aside that let libraries choose their kernels."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = tuple(function(*inputs))
    return Recording(inputs, outputs, graph.replay)


class Recordings:
    """A program that is recorded at the first call of each size of its inputs, and replayed at the others.

    What cannot be recorded runs eagerly, with one warning.
    """

    def __init__(self, function: Callable[..., Sequence[Any]], recorder: Recorder = record) -> None:
        self.function, self.recorder = function, recorder
        self.kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self.failed = False

    def __call__(self, *tensors: Tensor) -> Sequence[Any]:
        """The results for these inputs, in memory of their own."""
        recording = None if self.failed else self.find(tensors)
        if recording is None:
            return self.function(*tensors)
        for kept, given in zip(recording.inputs, tensors, strict=True):
            kept.copy_(given)
        recording.replay()
        return [y.clone() if isinstance(y, Tensor) else y for y in recording.outputs]

    def find(self, tensors: tuple[Tensor, ...]) -> Recording | None:
        """The recording for inputs of these sizes, made if there is none; None if there can be none."""
        key = tuple((x.shape, x.dtype, x.device) for x in tensors)
        if key not in self.kept:
            made = self.made(tensors)
            if made is None:
                return None
            self.kept[key] = made
            if len(self.kept) > RECORDINGS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def made(self, tensors: tuple[Tensor, ...]) -> Recording | None:
        """A new recording, or the warning that there can be none."""
        devices = {x.device.type for x in tensors} - {DEVICE}
        reason = f"inputs are on {', '.join(sorted(devices))}"
        if not devices:
            try:
                return self.recorder(self.function, tuple(x.clone() for x in tensors))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
        self.refuse(reason)
        return None

    def refuse(self, reason: str) -> None:
        """Run eagerly from now on."""
        self.failed = True
        warnings.warn(
            f"backend='cudagraphs' cannot record this program, which runs eagerly: {reason}\n"
            "Move the model and its inputs to a GPU, or choose another backend.",
            stacklevel=2,
        )


def cudagraphs(program: Program) -> Callable[..., Any]:
    """Recorded at the first call of each size; what depends on weights alone is not computed at each call."""
    module, constants = split(program.module)
    densify(module.graph)
    module.recompile()
    fixed = last = constants()

    def run(*tensors: Tensor) -> Sequence[Any]:
        return list(module(*tensors, *fixed))

    recordings = Recordings(run)

    def call(*tensors: Tensor) -> Sequence[Any]:
        nonlocal last
        now = constants()
        if now is not last:  # weights have changed, and recordings read the memory of the first values
            for old, new in zip(fixed, now, strict=True):
                if old.data_ptr() != new.data_ptr():  # otherwise a view of a weight, and up to date
                    old.copy_(new)
            last = now
        return recordings(*tensors)

    return call
