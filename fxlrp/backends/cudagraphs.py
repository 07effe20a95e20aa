"""Programs recorded as CUDA graphs: all kernels of a call are launched at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp._torch import generate_code
from fxlrp.backends.constants import ConstantStore, split_constants
from fxlrp.backends.dense import order_operands
from fxlrp.cache import Cache
from fxlrp.ir.program import Program

DEVICE = "cuda"
MAX_RECORDINGS = 8
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

    def results(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Return results for other inputs, in memory of their own and complete, whichever stream reads them next."""
        for kept, given in zip(self.inputs, tensors, strict=True):
            kept.copy_(given)
        self.replay()
        found = [y.clone() if isinstance(y, Tensor) else y for y in self.outputs]
        if any(y.is_cuda for y in self.inputs):
            torch.cuda.current_stream().synchronize()  # another thread may write the memory from another stream
        return found


Recorder = Callable[[Callable[..., Sequence[Any]], tuple[Tensor, ...]], Recording]


def record_call(function: Callable[..., Sequence[Any]], inputs: tuple[Tensor, ...]) -> Recording:
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

    Args:
        function: The program.
        recorder: What records a call.
        read: Tensors besides the inputs that the program reads; where their memory is another one, it is recorded anew.
    """

    def __init__(
        self, function: Callable[..., Sequence[Any]], recorder: Recorder = record_call, read: Iterable[Tensor] = ()
    ) -> None:
        self.function, self.recorder = function, recorder
        self.read = tuple(read)
        self.kept: Cache[Hashable, Recording] = Cache(MAX_RECORDINGS)
        self.failed = False
        self.lock = threading.RLock()

    def __call__(self, *tensors: Tensor) -> Sequence[Any]:
        """Return the results for these inputs, in memory of their own."""
        with self.lock:  # a recording has one memory for its inputs, and one for its results
            recording = None if self.failed else self.find(tensors)
            if recording is not None:
                return recording.results(tensors)
        return self.function(*tensors)

    def find(self, tensors: tuple[Tensor, ...]) -> Recording | None:
        """Find the recording for inputs of these sizes, or make it; None if there can be none."""
        key = (*((x.shape, x.dtype, x.device) for x in tensors), *(t.data_ptr() for t in self.read))
        found = self.kept.find(key)
        if found is None and (found := self.make(tensors)) is not None:
            self.kept.put(key, found)
        return found

    def make(self, tensors: tuple[Tensor, ...]) -> Recording | None:
        """Make a recording, or warn that there can be none."""
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


def record_as_cuda_graphs(program: Program, store: ConstantStore | None = None) -> Callable[..., Any]:
    """Record a program at the first call of each size; what depends on weights alone is not computed at each call."""
    module, constants = split_constants(program.module, store)
    order_operands(module.graph)
    generate_code(module)
    own = (*module.parameters(), *module.buffers())
    memory = {t.untyped_storage().data_ptr() for t in (*program.module.parameters(), *program.module.buffers())}
    fixed = list(constants())
    last = list(fixed)
    lock = threading.RLock()
    recordings = Recordings(lambda *tensors: list(module(*tensors, *fixed)), read=own)

    def call(*tensors: Tensor) -> Sequence[Any]:
        with lock:
            for i, new in enumerate(constants()):
                if new is last[i]:
                    continue
                last[i] = new
                if fixed[i].untyped_storage().data_ptr() not in memory:  # recordings read the memory of the first value
                    fixed[i].copy_(new)
                elif fixed[i].data_ptr() != new.data_ptr():  # a view of the model's own memory, which has moved
                    fixed[i] = new
                    recordings.kept.clear()
            return recordings(*tensors)

    return call
