"""Settings of every process that runs tests."""

import gc

import torch

torch.set_num_threads(1)  # the tests run in parallel, one process per core


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not in what was imported: a fifth of the time of making graphs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
