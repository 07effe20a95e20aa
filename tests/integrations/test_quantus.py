"""What Quantus' metrics are given; their figures beside those of `fxlrp.evaluate` are in `benchmarks/parity`."""

from __future__ import annotations

import copy
import doctest
from functools import partial

import numpy as np
import torch
from torch import nn

import fxlrp
import fxlrp.integrations.quantus
from fxlrp.integrations.quantus import Explain

X = np.random.default_rng(0).normal(size=(3, 2, 5, 5))
TARGET = np.array([0, 2, 1])
PREPARE = partial(fxlrp.compile, rules="epsilon")


def cnn() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).double().eval()


def test_relevance_is_the_attributors() -> None:
    """In the model's own type, whatever type the arrays have; with channels, or summed."""
    model = cnn()
    wanted = PREPARE(model)(torch.from_numpy(X), target=TARGET.tolist()).relevance.numpy()
    np.testing.assert_array_equal(Explain(PREPARE)(model, X, TARGET, device="cpu"), wanted)
    summed = Explain(PREPARE, channels=False)(model, X, TARGET)
    np.testing.assert_allclose(summed, wanted.sum(1, keepdims=True))
    assert Explain(PREPARE)(cnn().float(), X, TARGET).dtype == np.float32


def test_it_explains_the_model_that_it_is_given() -> None:
    """A copy, and a copy whose parameters are changed in place between calls, as tests of randomisation do."""
    model, explain = cnn(), Explain(partial(fxlrp.compile, rules="gradient"))  # no stabiliser: exactly linear
    before, other = explain(model, X, TARGET), copy.deepcopy(model)
    np.testing.assert_array_equal(explain(other, X, TARGET), before)
    with torch.no_grad():
        other.get_parameter("3.weight").mul_(-2.0)
        other.get_parameter("3.bias").mul_(-2.0)
    np.testing.assert_allclose(explain(other, X, TARGET), -2 * before, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(explain(model, X, TARGET), before)


def test_the_example_runs() -> None:
    outcome = doctest.testmod(fxlrp.integrations.quantus)
    assert (outcome.attempted, outcome.failed) == (5, 0)
