"""Seconds of one call; nothing but torch is needed here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """How long a call takes; on a GPU between two events around it, for which the processor waits."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1000
