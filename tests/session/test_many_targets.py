"""Many targets in one call: equal to separate calls, with one forward walk."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo import ZOO

import fxlrp
from fxlrp.capture.explained_output import pick_output

aten = torch.ops.aten
torch.manual_seed(0)
X = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def cnn() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3))
    return nn.Sequential(*layers, nn.GELU(), nn.Flatten(), nn.Linear(24, 5)).double().eval()


def assert_same(found: Any, singles: list[Any]) -> None:
    """Relevance of many targets against that of separate calls."""
    expected = [torch.stack(parts) for parts in zip(*map(tree_leaves, singles), strict=True)]
    for a, b in zip(tree_leaves(found), expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def check(attributor: fxlrp.Attributor, targets: Any, *args: Any, chunk: int = 8, **options: Any) -> None:
    """Relevances, reads and outputs of one call are those of separate calls."""
    found = attributor(*args, targets=targets, chunk=chunk, **options)
    singles = [attributor(*args, target=target, **options) for target in targets]
    assert_same(found.relevance, [one.relevance for one in singles])
    assert_same(found.read, [one.read for one in singles])
    for a, b in zip(tree_leaves(found.output), tree_leaves(singles[0].output), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Strided(nn.Module):
    """Windows that overlap, read as memory."""

    def forward(self, x: Tensor) -> Tensor:
        windows = x.contiguous().as_strided((len(x), 3, 7, 2), (192, 64, 8, 1), 1)
        return (windows * windows.sigmoid()).sum((2, 3))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 1, 3, 2), (3, 2, 1, 0)], ids=str)
@pytest.mark.parametrize("rules", leave_to_slow(["auto", "epsilon_plus"], but={"auto"}))
@pytest.mark.parametrize(
    "make",
    [
        cnn,
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        Strided,
    ],
    ids=["cnn", "mean", "pools", "windows"],
)
def test_inputs_lie_in_memory_in_any_order(make: Any, rules: str, order: tuple[int, ...]) -> None:
    back = [order.index(d) for d in range(4)]
    check(fxlrp.compile(make().double().eval(), rules=rules), [0, 2], X.permute(order).contiguous().permute(back))


@pytest.mark.parametrize("name", leave_to_slow(ZOO, but={"bert"}))
def test_equal_to_separate_calls(name: str) -> None:
    """Three targets, two at a time: the second chunk has a target less."""
    model, args, kwargs = ZOO[name](2)
    with torch.no_grad():
        shape = pick_output(model(*args, **kwargs), None).shape
    positions = [()] * 3 if len(shape) == 2 else [(-1,), (-2,), (-1,)]
    targets = [(*positions[i], (5 * i + 1) % shape[-1]) for i in range(3)]
    check(fxlrp.compile(model), targets, *args, chunk=2, **kwargs)


@pytest.mark.parametrize("rules", ["epsilon_gamma_box", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gradient"])
def test_presets(rules: str) -> None:
    parameters = ("0.bias",) if rules == "gradient" else ()  # others have no rule for these
    check(fxlrp.compile(cnn(), rules=rules, read=("0", "5", *parameters)), range(5), X, chunk=3)


TARGETS = {
    "classes": [3, 1, -1, 3],
    "classes per sample": [[0, 1], [2, 3], [4, 4]],
    "largest": [None, None],
    "contrasts": [fxlrp.contrast(0, 1), fxlrp.contrast([1, 2], 3)],
    "tensor of classes": torch.tensor([2, 0, 1]),
    "tensor of classes per sample": torch.tensor([[2, 0], [1, 1]]),
    "array of numpy": np.array([4, 2]),
    "seeds": torch.randn(3, 2, 5, dtype=torch.float64),
    "list of seeds": list(torch.randn(3, 2, 5)),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_kinds_of_targets(kind: str) -> None:
    check(fxlrp.compile(cnn()), TARGETS[kind], X)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_chunks(chunk: int) -> None:
    check(fxlrp.compile(cnn()), range(5), X, chunk=chunk)


def test_masks_serve_all_targets() -> None:
    mask = torch.zeros(4, 1, 1)
    mask[1:3] = 1
    check(fxlrp.compile(cnn(), read=("2",)), [0, 1, 2], X, keep={"2": mask})


def test_tensor_beside_several_inputs() -> None:
    """Inputs by name, one of which leads nowhere."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 5).double()

        def forward(self, x: Tensor, y: Tensor, unused: Tensor) -> dict[str, Tensor]:
            return {"logits": self.linear(x * y.sigmoid()), "y": y + unused}

    x, y, unused = torch.randn(3, 2, 4, dtype=torch.float64)
    check(fxlrp.compile(Pair().eval()), [0, 3], x, y=y, unused=unused)


def test_objective() -> None:
    attributor = fxlrp.compile(cnn(), objective=lambda y: y.square().sum(-1))
    check(attributor, [None, None], X)


@pytest.mark.slow
def test_inputs_of_other_sizes() -> None:
    model, _, kwargs = ZOO["llama"](4)
    free = {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in kwargs}
    attributor = fxlrp.compile(model, dynamic_shapes=free)
    for rows, columns in ((4, 7), (3, 5)):
        inputs = {name: value[:rows, -columns:] for name, value in kwargs.items()}
        check(attributor, [(-1, 4), (-2, 7), (0, 9)], chunk=2, **inputs)
    assert repr(attributor).endswith("1 signatures)")


class Deep(nn.Module):
    """Blocks with wide insides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).double() for _ in range(16)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Calls(TorchDispatchMode):
    """Counts the calls of each op."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("memory", "expected"), [("normal", 16), ("low", None)])
def test_the_model_runs_once(memory: str, expected: int | None) -> None:
    """However many targets; insides of blocks that are not kept run once more for each chunk."""
    x = torch.randn(4, 8, dtype=torch.float64)
    attributor = fxlrp.compile(Deep().eval(), memory=memory)
    check(attributor, range(8), x)
    counts = []
    for n in (4, 8):
        attributor(x, targets=range(n))
        with Calls() as calls:
            attributor(x, targets=range(n))
        counts.append(calls.counts[aten.addmm.default])
    assert counts[0] == counts[1]
    assert 32 <= counts[0] < 64
    assert expected is None or counts[0] == 2 * expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
def test_inductor() -> None:
    eager, compiled = fxlrp.compile(cnn()), fxlrp.compile(cnn(), backend="inductor")
    found, expected = (a(X, targets=range(5), chunk=3).relevance for a in (compiled, eager))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_results_are_the_callers_own() -> None:
    attributor = fxlrp.compile(cnn())
    first = attributor(X, targets=[1, 2])
    expected = first.relevance.clone()
    first.relevance.zero_()
    first.output.zero_()
    torch.testing.assert_close(attributor(X, targets=[1, 2]).relevance, expected, rtol=0, atol=0)


def test_program_and_coverage_of_such_a_call() -> None:
    attributor = fxlrp.compile(cnn())
    attributor(X, targets=[1, 2])
    assert attributor.program.relevances == ("input",)
    assert attributor.coverage().covered


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"targets": []}, "targets=.* is no list of targets"),
        ({"targets": 3}, "targets=3 is no list of targets"),
        ({"targets": "12"}, "targets='12' is no list of targets"),
        ({"targets": torch.tensor(3)}, "is no list of targets"),
        ({"targets": [1, 5]}, "index 5 is out of range"),
        ({"targets": [1, None]}, r"targets\[1\] is of another kind than targets\[0\]"),
        ({"targets": [1, fxlrp.contrast(0, 1)]}, r"targets\[1\] is of another kind"),
        ({"targets": torch.randn(2, 5)}, "a seed has the shape of the output"),
        ({"targets": [1], "target": 1}, "give one of the three"),
        ({"targets": [1], "inject": {"0": torch.ones(())}}, "give one of the three"),
        ({"targets": [1], "chunk": 0}, "chunk=0 is no number of targets"),
        ({"targets": [1], "chunk": 2.0}, "chunk=2.0 is no number of targets"),
        ({"targets": [1], "chunk": True}, "chunk=True is no number of targets"),
    ],
)
def test_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(fxlrp.TargetError, match=text):
        fxlrp.compile(cnn())(X, **options)
