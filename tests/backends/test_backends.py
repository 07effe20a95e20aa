"""Backends: each gives what the eager program gives; repeated blocks are compiled once; recordings do not mix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, fx, nn
from zoo import ZOO, enliven, targets

import fxlrp
from fxlrp.backends import cudagraphs, inductor
from fxlrp.backends.cudagraphs import Recording, Recordings
from fxlrp.backends.segments import Segment, cut_segments

aten = torch.ops.aten


class Block(nn.Module):
    """A residual block with a product, so that its twin needs what the forward pass computed."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.gate, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(self.up(y) * nn.functional.silu(self.gate(y)))


class Stack(nn.Module):
    """Blocks between two layers."""

    def __init__(self, inner: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(Block(6, width) for width in inner)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.relu())


def stack(inner: Sequence[int]) -> nn.Module:
    torch.manual_seed(0)
    return enliven(Stack(inner)).double().eval()


def cut(model: nn.Module, *args: Tensor, target: Any = 1, **kwargs: Any) -> tuple[fx.Graph, list[Segment]]:
    attributor = fxlrp.compile(model)
    attributor.compile(*args, target=target, **kwargs)
    graph = attributor.program.module.graph
    return graph, cut_segments(graph)


X = torch.linspace(-1, 2, 8, dtype=torch.float64).view(2, 4)


@pytest.fixture(name="compiled")
def _compiled(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """What was given to the compiler, which is replaced by one that returns the graph as it is."""
    given: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, *_: Any, **__: Any) -> fx.GraphModule:
        given.append(module)
        return module

    monkeypatch.setattr(inductor, "compile_graph", keep)
    monkeypatch.setattr(torch, "compile", keep)
    return given


# segments


@pytest.mark.parametrize("depth", [3, 7])
def test_repeated_blocks_are_of_one_kind(depth: int) -> None:
    """Forward, in reverse, and what comes before, between and behind."""
    _, parts = cut(stack([5] * depth), X)
    assert sorted(Counter(part.key for part in parts).values()) == [1, 1, 1, depth, depth]


def test_blocks_of_another_size_are_of_another_kind() -> None:
    _, parts = cut(stack([5, 5, 5, 7, 7, 7, 7]), X)
    assert sorted(Counter(part.key for part in parts).values()) == [1, 1, 1, 3, 3, 4, 4]


def test_two_blocks_are_not_worth_a_border() -> None:
    graph, (part,) = cut(stack([5, 5]), X)
    assert len(part.nodes) == len([n for n in graph.nodes if n.op == "call_function"])


def test_layers_alone_are_no_blocks() -> None:
    layers = [layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.ReLU())]
    _, parts = cut(nn.Sequential(*layers).double().eval(), X)
    assert len(parts) == 1


@pytest.mark.parametrize("name", leave_to_slow(["bert", "flan_t5", "lstm", "resnet50"], but=()))
def test_segments_are_the_program(name: str) -> None:
    """Every call once, and nothing is used before it is there."""
    model, args, kwargs = ZOO[name](2)
    shape = fxlrp.compile(model)(*args, **kwargs).output
    shape = shape if isinstance(shape, Tensor) else shape["logits"]
    graph, parts = cut(model, *args, target=targets(tuple(shape.shape)), **kwargs)
    calls = [n for n in graph.nodes if n.op == "call_function"]
    assert sorted(n.name for part in parts for n in part.nodes) == sorted(n.name for n in calls)
    there = {n for n in graph.nodes if n.op != "call_function"}
    for part in parts:
        assert there.issuperset(part.inputs)
        there.update(part.outputs)
        assert all(isinstance(n.meta["val"], (Tensor, torch.SymInt)) for n in part.outputs)
    assert there.issuperset(graph.output_node().all_input_nodes)


# inductor


@pytest.mark.slow
def test_each_kind_is_compiled_once(compiled: list[fx.GraphModule]) -> None:
    """However deep the model is."""
    counts = []
    for depth in (5, 9):
        own = stack([5] * depth)
        expected = fxlrp.compile(own, read="blocks.1")(X, target=1)
        attributor = fxlrp.compile(own, read="blocks.1", backend="inductor")
        for _ in range(2):
            found = attributor(X, target=1)
            assert torch.equal(found.output, expected.output)
            assert torch.equal(found.relevance, expected.relevance)
            assert torch.equal(found.read["blocks.1"], expected.read["blocks.1"])
        counts.append(len(compiled))
        compiled.clear()
    assert counts[0] == counts[1] < 10


def test_weights_may_change(compiled: list[fx.GraphModule]) -> None:
    own = stack([5] * 4)
    attributor = fxlrp.compile(own, backend="inductor")
    before = attributor(X, target=1).relevance
    with torch.no_grad():
        own.blocks[2].up.weight.mul_(2)
    after = attributor(X, target=1).relevance
    assert not torch.allclose(before, after)
    assert torch.equal(after, fxlrp.compile(own)(X, target=1).relevance)
    assert compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor_agrees_on_repeated_blocks(dynamic: bool) -> None:
    own = stack([5] * 3)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    attributor = fxlrp.compile(own, backend="inductor", dynamic_shapes=shapes)
    eager = fxlrp.compile(own)
    wide = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5).T  # not contiguous
    for x in (X, X + 1, wide) if dynamic else (X, X.T.contiguous().T):
        expected, found = eager(x, target=1), attributor(x, target=1)
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.output, expected.output, rtol=1e-10, atol=1e-12)


def test_erfc_is_accurate_in_its_tail() -> None:
    """Its logarithm to the last digits of float32, those of ``y * y`` included."""
    y = torch.linspace(-10, 9, 20001)
    exact = torch.special.erfcx(y.double().clamp(min=0)).log() - y.double().clamp(min=0).square()
    found = inductor.compute_erfc(y.double()).log()
    positive = y >= 0
    torch.testing.assert_close(found[positive], exact[positive], rtol=0, atol=1e-7)
    single = inductor.compute_erfc(y).double()
    torch.testing.assert_close(single[~positive], torch.erfc(y.double())[~positive], rtol=5e-7, atol=0)
    assert ((single[positive].log() - exact[positive]).abs() <= 1e-6 * (1 + y[positive].square())).all()


def test_erfc_of_single_precision_is_written_out(compiled: list[fx.GraphModule]) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        own = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)).to(dtype).eval()
        found = fxlrp.compile(own, backend="inductor")(X.to(dtype), target=1).relevance
        torch.testing.assert_close(found, fxlrp.compile(own)(X.to(dtype), target=1).relevance)
    assert [aten.erfc.default in {n.target for n in module.graph.nodes} for module in compiled] == [False, True]


# cudagraphs


class Recorder:
    """Replays a call on the memory that it was recorded with, as a CUDA graph does."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[..., Sequence[Any]], inputs: tuple[Tensor, ...]) -> Recording:
        self.count += 1
        outputs = tuple(function(*inputs))

        def replay() -> None:
            for old, new in zip(outputs, function(*inputs), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)

        return Recording(inputs, outputs, replay)


def double(x: Tensor) -> list[Any]:
    return [2 * x, None]


@pytest.fixture(name="anywhere")
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inputs on the CPU be recorded."""
    monkeypatch.setattr(cudagraphs, "DEVICE", "cpu")


@pytest.mark.usefixtures("anywhere")
def test_one_recording_for_each_size() -> None:
    recorder = Recorder()
    program = Recordings(double, recorder)
    for n in (2, 3, 2, 3, 2):
        x = torch.rand(n)
        assert torch.equal(program(x)[0], 2 * x)
    assert recorder.count == 2


@pytest.mark.usefixtures("anywhere")
def test_results_are_not_overwritten() -> None:
    """Nor does the recording keep the memory of the inputs."""
    program = Recordings(double, Recorder())
    x = torch.ones(2)
    first = program(x)
    second = program(torch.full((2,), 3.0))
    assert first[1] is None
    assert torch.equal(first[0], torch.full((2,), 2.0))
    assert torch.equal(second[0], torch.full((2,), 6.0))
    assert torch.equal(x, torch.ones(2))


@pytest.mark.usefixtures("anywhere")
def test_least_recently_used_recording_goes() -> None:
    recorder = Recorder()
    program = Recordings(double, recorder)
    sizes = range(1, cudagraphs.MAX_RECORDINGS + 1)
    for n in sizes:
        program(torch.rand(n))
    program(torch.rand(1))
    program(torch.rand(100))  # in place of the size 2
    assert recorder.count == len(sizes) + 1
    program(torch.rand(1))
    assert recorder.count == len(sizes) + 1
    program(torch.rand(2))
    assert recorder.count == len(sizes) + 2
    assert len(program.kept) == cudagraphs.MAX_RECORDINGS


def test_cpu_falls_back_with_one_warning() -> None:
    own = stack([5])
    attributor = fxlrp.compile(own, backend="cudagraphs")
    with pytest.warns(UserWarning, match="cannot record this program, which runs eagerly: inputs are on cpu") as caught:
        results = [attributor(x, target=1).relevance for x in (X, X + 1)]
    assert len(caught) == 1
    for x, found in zip((X, X + 1), results, strict=True):
        assert torch.equal(found, fxlrp.compile(own)(x, target=1).relevance)


@pytest.mark.slow
@pytest.mark.usefixtures("anywhere")
def test_recordings_follow_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of batch norm are folded once, into memory that recordings read."""
    monkeypatch.setattr(Recordings.__init__, "__defaults__", (recorder := Recorder(), ()))
    own = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    attributor = fxlrp.compile(own, backend="cudagraphs")
    for _ in range(3):
        for _ in range(2):
            assert torch.equal(attributor(X, target=1).relevance, fxlrp.compile(own)(X, target=1).relevance)
        with torch.no_grad():
            for weight in own.parameters():
                weight.mul_(-2)
        versions = [weight._version for weight in own.parameters()]
        attributor(X, target=1)
        assert versions == [weight._version for weight in own.parameters()]
    assert recorder.count == 1


@pytest.mark.usefixtures("anywhere")
def test_failing_recording_falls_back_with_one_warning() -> None:
    def fails(*_: Any) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    program = Recordings(double, fails)
    with pytest.warns(UserWarning, match=r"eagerly: operation not permitted when stream is capturing\nMove") as caught:
        results = [program(torch.ones(n))[0] for n in (2, 3)]
    assert [y.tolist() for y in results] == [[2.0] * 2, [2.0] * 3]
    assert len(caught) == 1


@pytest.mark.usefixtures("anywhere")
def test_lack_of_memory_is_not_hidden() -> None:
    def fails(*_: Any) -> Recording:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        Recordings(double, fails)(torch.ones(2))
