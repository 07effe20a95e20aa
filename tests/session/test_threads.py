"""Attributors are shared by threads, first calls included; the model is left as it is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn

import fxlrp
from fxlrp.backends.cudagraphs import Recording, Recordings
from fxlrp.cache import Cache

THREADS = 8


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Let threads take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers).eval()


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Run some work in threads that start at once; raise what one of them raised."""
    barrier, errors = threading.Barrier(threads), list[BaseException]()

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]


def calls() -> list[tuple[Tensor, dict[str, Any]]]:
    """Inputs and options of every kind: several signatures, forms of target, and many targets."""
    images = [torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    mask = {"2": torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1)}
    options: list[dict[str, Any]] = [
        {"target": 3}, {}, {"target": fxlrp.contrast(1, 2)}, {"targets": [1, 2, 3]}, {"target": 3, "keep": mask},
    ]  # fmt: skip
    return [(x, given) for x in images for given in options]


def check_threads(attributors: list[fxlrp.Attributor], model: nn.Module, rounds: int) -> None:
    """Call attributors of one model from many threads, and compare every result with that of one thread alone."""
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    given = calls()
    alone = [fxlrp.compile(network(), rules="epsilon_plus")(x, **options) for x, options in given]

    def work(number: int) -> None:
        for i in range(rounds):
            at = (3 * number + i) % len(given)
            x, options = given[at]
            found = attributors[number % len(attributors)](x, **options)
            torch.testing.assert_close(found.relevance, alone[at].relevance, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.output, alone[at].output, rtol=1e-4, atol=1e-6)

    together(work)
    for name, tensor in model.state_dict(keep_vars=True).items():
        same, value = before[name]
        assert type(tensor) in (nn.Parameter, Tensor)
        assert tensor is same
        assert torch.equal(tensor, value)


@pytest.mark.parametrize("attributors", leave_to_slow([1, 4], but={1}))
def test_first_and_later_calls(attributors: int) -> None:
    model = network()
    check_threads([fxlrp.compile(model, rules="epsilon_plus") for _ in range(attributors)], model, rounds=20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
def test_first_calls_of_inductor() -> None:
    model = network()
    attributor = fxlrp.compile(model, rules="epsilon_plus", backend="inductor")
    x = torch.rand(2, 1, 8, 8)
    alone = fxlrp.compile(network(), rules="epsilon_plus")(x, target=3).relevance
    together(
        lambda _: torch.testing.assert_close(attributor(x, target=3).relevance, alone, rtol=1e-4, atol=1e-6), threads=4
    )


def test_a_model_runs_while_it_is_captured() -> None:
    """What torch puts into a model while it exports it is put into another one."""
    model = network()
    x = torch.rand(2, 1, 8, 8)
    known, stop, seen = model(x).detach(), threading.Event(), []

    def keep_running() -> None:
        while not stop.is_set():
            seen.append(model(x).detach())

    other = threading.Thread(target=keep_running)
    other.start()
    for rules in ("epsilon", "attnlrp"):
        fxlrp.compile(model, rules=rules)(x, target=1)
    stop.set()
    other.join()
    assert all(torch.equal(y, known) for y in seen)


def test_weights_may_change_between_calls_of_threads() -> None:
    """No thread gets an answer for weights that were replaced before its call."""
    model = network()
    attributor = fxlrp.compile(model, rules="epsilon_plus")
    x = torch.rand(2, 1, 8, 8)
    for factor in (1.0, -2.0, 0.5):
        with torch.no_grad():
            model[0].weight.mul_(factor)
        known = model(x).detach()
        together(lambda _, known=known: torch.testing.assert_close(attributor(x, target=1).output, known))


def test_a_failed_capture_leaves_the_model_as_it_is() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y if y.sum() > 0 else -y

    model = Branching().eval()
    x = torch.rand(2, 1, 8, 8)
    known, tensors = model(x), list(model.parameters())

    def fail(_: int) -> None:
        with pytest.raises(fxlrp.CaptureError):
            fxlrp.compile(model)(x, target=1)

    together(fail, threads=4)
    assert all(one is other for one, other in zip(tensors, model.parameters(), strict=True))
    assert torch.equal(model(x), known)


def test_recordings_answer_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording has one memory for the inputs and one for the results of all calls."""
    monkeypatch.setattr("fxlrp.backends.cudagraphs.DEVICE", "cpu")

    def recorder(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Recording:
        outputs = tuple(function(*inputs))

        def replay() -> None:
            time.sleep(1e-4)
            outputs[0].copy_(function(*inputs)[0])

        return Recording(inputs, outputs, replay)

    program = Recordings(lambda x: [2 * x], recorder)

    def work(number: int) -> None:
        for i in range(25):
            value = float(1000 * number + i)
            assert program(torch.tensor([value]))[0].item() == 2 * value

    together(work)


def test_a_cache_makes_each_value_once() -> None:
    made, cache = list[int](), Cache[int, object](4)

    def make(key: int) -> Callable[[], object]:
        def now() -> object:
            made.append(key)
            time.sleep(1e-3)
            return object()

        return now

    found = [dict[int, object]() for _ in range(THREADS)]

    def work(number: int) -> None:
        for key in range(4):
            found[number][key] = cache(key, make(key))

    together(work)
    assert sorted(made) == [0, 1, 2, 3]
    assert all(one == found[0] for one in found)
    cache.put(9, object())
    assert len(cache) == 4


def test_a_model_that_is_reached_by_a_function_keeps_its_parameters() -> None:
    """The function knows the model's own modules, and not those that stand in for them while it is captured."""

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.layer = layer = nn.Linear(4, 3)
            table = self.table
            self.run = lambda ids: layer(table.weight[ids]).sum(1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.run(ids)

    model, ids = Closed().eval(), torch.tensor([[1, 2], [3, 3]])
    attributor = fxlrp.compile(model)
    assert attributor(ids, target=1).relevance.shape == ids.shape
    with torch.no_grad():
        model.layer.weight.mul_(-2)
    torch.testing.assert_close(attributor(ids, target=1).output, model(ids).detach())
