"""A program runs only for the sizes and arguments that it was traced for: oracles are the model and autograd."""

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import fxlrp
from fxlrp._torch import BEFORE_2_13
from fxlrp.artifacts.description import clauses

WIDTH = 4
SIZES = (1, 2, 3, 5)

Step = Callable[[Tensor], Tensor]


def first_alone(x: Tensor) -> Tensor:
    return x * 2 if x.shape[0] == 1 else x


def later_differences(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True) if x.shape[1] > 1 else x


def squeezed(x: Tensor) -> Tensor:
    """What is left depends on which sizes are 1."""
    return x + x.squeeze(1).sum(-1).reshape(x.shape[0], -1).sum(1)[:, None, None]


def stretched(x: Tensor) -> Tensor:
    """The last row broadcasts if it is the only one."""
    return x * (1 + x[-1:].expand_as(x).sin())


def even(x: Tensor) -> Tensor:
    return x.sin() if x.shape[1] % 2 == 0 else x.tanh()


def in_pairs(x: Tensor) -> Tensor:
    n = x.shape[1] // 2
    return torch.cat([x[:, :n] + x[:, n : 2 * n], x], 1) if n else x.exp()


def square(x: Tensor) -> Tensor:
    return x * 3 if x.shape[0] == x.shape[1] else x


def many_entries(x: Tensor) -> Tensor:
    return x.flatten(1).softmax(1).view_as(x) if x.shape[0] * x.shape[1] > 6 else x.cos()


def folded(x: Tensor) -> Tensor:
    return x.reshape(-1, WIDTH).cumsum(0).reshape(x.shape) if x.shape[0] < x.shape[1] else x


STEPS = (first_alone, later_differences, squeezed, stretched, even, in_pairs, square, many_entries, folded)


class Branching(nn.Module):
    """Steps that depend on sizes, then a head that sums over the sequence; its width must not matter to steps."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return self.last(x).sum(1)


def branching(seed: int) -> Branching:
    torch.manual_seed(seed)
    return Branching(random.Random(seed).sample(STEPS, 3)).double().eval()


def check(attributor: fxlrp.Attributor, model: nn.Module, *args: Any) -> None:
    """Output is the model's, relevance is input times gradient."""
    result = attributor(*args, target=1)
    inputs = [t.detach().clone().requires_grad_() for t in args if isinstance(t, Tensor)]
    given = iter(inputs)
    output = model(*(next(given) if isinstance(a, Tensor) else a for a in args))
    torch.testing.assert_close(result.output, output.detach(), rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(output[:, 1].sum(), inputs)
    relevances = result.relevance.values() if isinstance(result.relevance, dict) else [result.relevance]
    for found, x, g in zip(relevances, inputs, gradients, strict=True):
        torch.testing.assert_close(found, (x * g).detach(), rtol=1e-8, atol=1e-10)


HINTS = ({0: Dim.AUTO, 1: Dim.AUTO},)


@pytest.mark.parametrize(("seed", "shapes"), [(0, "auto"), (1, HINTS), (2, "auto")], ids=["first", "hints", "third"])
def test_every_size_gets_the_model(seed: int, shapes: Any) -> None:
    """Models that branch on sizes, called with sizes in any order."""
    model, chance = branching(seed), random.Random(seed)
    calls = [(n, length) for n in SIZES for length in SIZES]
    chance.shuffle(calls)
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes=shapes)
    for n, length in calls[:6]:
        check(attributor, model, torch.randn(n, length, WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("step", [first_alone, square, even], ids=lambda step: step.__name__)
@pytest.mark.parametrize("first", [1, 3])
def test_named_sizes(step: Step, first: int) -> None:
    """A size of 1 is fixed, whatever the user's range says; the others stay open."""
    model = Branching([first_alone if step is even else step]).double().eval()
    shapes = {"x": {0: Dim("batch", min=1, max=64), 1: Dim("length", min=1, max=64)}}
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes=shapes)
    for n in (first, 1, 4, 2):
        check(attributor, model, torch.randn(n, 7, WIDTH, dtype=torch.float64))
    if step is first_alone:
        assert len(attributor._programs) == 2


class Pair(nn.Module):
    """Sizes that are computed of one another."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.sin() if x.shape[0] == 1 else x
        return x * y[1:] if y.shape[0] == x.shape[0] + 1 else x * y.reshape(x.shape[0], 2, WIDTH).sum(1)


@pytest.mark.parametrize(("factor", "offset"), [(1, 1), (2, 0)])
@pytest.mark.parametrize("sizes", [(1, 3, 4), (3, 1, 4)])
def test_sizes_computed_of_others(factor: int, offset: int, sizes: tuple[int, ...]) -> None:
    rows = Dim("rows", max=16)
    shapes = {"x": {0: rows}, "y": {0: factor * rows + offset if offset else factor * rows}}
    model = Pair().double().eval()
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes=shapes)
    for n in sizes:
        x, y = (torch.randn(size, WIDTH, dtype=torch.float64) for size in (n, factor * n + offset))
        check(attributor, model, x, y)
    assert len(attributor._programs) == 2


@pytest.mark.parametrize("saved", [False, True])
def test_exported_programs_keep_their_conditions(saved: bool) -> None:
    class Checked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return even(x).sum(1)

    model = Checked().eval()
    open_sizes = ({0: Dim("batch", min=1, max=64), 1: Dim.AUTO},)
    exported = torch.export.export(model, (torch.randn(3, 4, WIDTH, dtype=torch.float64),), dynamic_shapes=open_sizes)
    if saved:
        buffer = io.BytesIO()
        torch.export.save(exported, buffer)
        buffer.seek(0)
        exported = torch.export.load(buffer)
    attributor = fxlrp.compile(exported, rules="gradient")
    for n, length in ((5, 4), (2, 6), (1, 4), (3, 8)):
        check(attributor, model, torch.randn(n, length, WIDTH, dtype=torch.float64))
    for n, length in ((3, 5), (1, 5)):
        with pytest.raises(fxlrp.FxlrpError):
            attributor(torch.randn(n, length, WIDTH, dtype=torch.float64))


def test_sizes_that_only_the_relevance_pass_asks_for() -> None:
    """A rule may branch on sizes too, and so may a program that is made later, for a target of another kind."""
    asking = []

    def rule(site: fxlrp.Site, c: Tensor) -> tuple[Tensor, ...]:
        return (c * (2 if asking and c.shape[0] > 3 else 1),)

    rules = fxlrp.rule_set("epsilon") | {torch.ops.aten.relu.default: fxlrp.Rule("asks", "pointwise", rule)}
    model = nn.Sequential(nn.Linear(WIDTH, 3, bias=False), nn.ReLU()).double().eval()
    attributor = fxlrp.compile(model, rules=rules, dynamic_shapes="auto")
    total = lambda n, target: attributor(torch.ones(n, WIDTH, dtype=torch.float64), target=target).relevance.sum()  # noqa: E731
    once = total(3, 1)
    for n in (3, 5, 2):
        torch.testing.assert_close(total(n, 1) / n, once / 3)
    asking.append(True)
    for n in (5, 2, 3, 6):
        seed = torch.ones(n, 3, dtype=torch.float64) * torch.tensor([0.0, 1.0, 0.0])
        torch.testing.assert_close(total(n, seed) / n, once / 3 * (2 if n > 3 else 1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n: int) -> None:
    model = Branching([first_alone]).double().eval()
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes="auto")
    for size in (3, n, 4):
        check(attributor, model, torch.randn(size, 2, WIDTH, dtype=torch.float64))
    assert len(attributor._programs) == 2


@pytest.mark.parametrize(("steps", "least"), [([first_alone], 2), ([even, square], 1)], ids=["two", "one"])
def test_artifacts_run_for_what_their_programs_admit(steps: list[Step], least: int, tmp_path: Path) -> None:
    """One sample is taken if the program of a batch was found to be the model there, too; else the file says two."""
    model = Branching(steps).double().eval()
    attributor = fxlrp.compile(model, rules="gradient", dynamic_shapes="auto")
    example = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    artifact = fxlrp.load(attributor.save(tmp_path / "model.pt2", example))
    assert artifact.manifest.sizes["batch"].min == least
    taken = set()
    for n, length in itertools.product(SIZES, (1, 2, 3, 4, 6)):
        x = torch.randn(n, length, WIDTH, dtype=torch.float64)
        try:
            found = artifact(x, target=1)
        except fxlrp.SignatureError as error:
            assert "batch is" in str(error)  # noqa: PT017  others are as right
            continue
        taken.add((n, length))
        expected = attributor(x, target=1)
        torch.testing.assert_close(found.output, expected.output)
        torch.testing.assert_close(found.relevance, expected.relevance)
    admitted = {  # conditions hold of one sample if they hold of two
        (n, length)
        for n, length in itertools.product(SIZES, (1, 2, 3, 4, 6))
        if n >= least and (steps == [first_alone] or (length % 2 == 0 and max(n, 2) != length))
    }
    assert taken == admitted


@pytest.mark.parametrize(
    ("text", "sizes", "value"),
    [
        ("(a % 2) == 0", {"a": 4}, True),
        ("max(1, a // b) < 3 and not a == b", {"a": 7, "b": 2}, False),
        ("-a + b**2 != 1 or a >= b", {"a": 3, "b": 2}, True),
        ("a % b == 0", {"a": 3, "b": 0}, None),
        ("9**9**9 == a", {"a": 1}, None),
        ("a == 2", {}, None),
    ],
)
def test_conditions_in_text(text: str, sizes: dict[str, int], value: bool | None) -> None:
    clauses.check_clause(text)
    assert clauses.evaluate_clause(text, sizes) is value


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b", "[a]", "a if b else c", "'x' == a", "max(*a)", "f(a)", "(" * 3000, "a" * 5000, 3],
)
def test_conditions_are_arithmetic(text: Any) -> None:
    with pytest.raises(fxlrp.FxlrpError, match="condition on sizes"):
        clauses.check_clause(text)


# arguments


class Numbered(nn.Module):
    """An argument that is no tensor decides by its type and by every bit of its value."""

    def forward(self, x: Tensor, k: Any) -> Tensor:
        values = k if isinstance(k, (list, tuple)) else list(k.values()) if isinstance(k, dict) else [k]
        for i, value in enumerate(values):
            x = x * (2 + len(str(value)) + sum(map(ord, repr(value))) % 97 + 3 * i)
        return x


ARGUMENTS = [0, False, 0.0, -0.0, None, 1, True, 1.0, "1", [1, 2], [True, 2], (1, 2)]
ARGUMENTS += [{"a": 1, "b": 2}, {"b": 1, "a": 2}, {"a": True, "b": 2}]
ARGUMENTS += [] if BEFORE_2_13 else [float("nan")]  # of which torch 2.12 writes a guard that it cannot read


def test_arguments_are_told_apart_by_type_and_value() -> None:
    model, x = Numbered().eval(), torch.randn(2, 3, dtype=torch.float64)
    attributor = fxlrp.compile(model, rules="gradient")
    order = random.Random(0).sample(ARGUMENTS, len(ARGUMENTS))
    for value in (*order, *order[-3:]):
        check(attributor, model, x, value)
    programs = attributor._programs._captures
    check(attributor, model, x, order[-1])
    assert attributor._programs._captures == programs


class Strided(nn.Module):
    """A model may ask how its input lies in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2 if x.is_contiguous() else x * 3).flatten(1)


def test_layouts_are_told_apart() -> None:
    model = Strided().eval()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    attributor = fxlrp.compile(model, rules="gradient")
    last, middle = x.contiguous(memory_format=torch.channels_last), x.transpose(1, 2).contiguous().transpose(1, 2)
    for given in (x, last, middle, x):
        result = attributor(given, target=1)
        torch.testing.assert_close(result.output, model(given))
    assert len(attributor._programs) == 3


class Named(nn.Module):
    def forward(self, x: Tensor, *, scale: float = 2.0, parts: dict[str, Tensor] | None = None) -> Tensor:
        parts = parts or {}
        return x * scale + parts.get("a", 0) * 3 - parts.get("b", 0)


def test_keywords_in_any_order() -> None:
    model = Named().eval()
    x, a, b = torch.randn(3, 2, 4, dtype=torch.float64)
    attributor = fxlrp.compile(model, rules="gradient")
    calls: list[dict[str, Any]] = [
        {},
        {"scale": 2.0},
        {"parts": {"a": a, "b": b}, "scale": 3.0},
        {"scale": 3.0, "parts": {"b": b, "a": a}},
        {"parts": {"a": b, "b": a}},
    ]
    for kwargs in calls:
        torch.testing.assert_close(attributor(x, target=1, **kwargs).output, model(x, **kwargs))
