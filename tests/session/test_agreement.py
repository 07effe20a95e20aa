"""The first call of every program compares its output with the model's own: defects that are put back are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
from fxlrp import passes
from fxlrp.backends import packed_filters
from fxlrp.ir import guards
from fxlrp.passes.canonical import batch_norm
from fxlrp.session import programs, signature
from fxlrp.session.agreement import check_output, measure_difference, measure_distance, shake

aten = torch.ops.aten


class Network(nn.Module):
    """Modules within modules, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, stride=(1, 2)), nn.BatchNorm2d(4), nn.ReLU())
        self.body, self.shared = nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(self.body(self.shared(self.stem(x))))
        return self.head(y.mean((2, 3)))


def network() -> nn.Module:
    model = Network().eval()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(1)
    return model


def image(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(2))


def wrong(op: Any, amount: float) -> Callable[[fx.GraphModule, Any], dict[str, int]]:
    """Canonical passes that end with a defect: what an op returns is multiplied."""
    original = passes.run_passes

    def run(module: fx.GraphModule, table: Any, *args: Any) -> dict[str, int]:
        counts = original(module, table, *args)
        if table is passes.CANONICAL:
            for node in module.graph.find_nodes(op="call_function", target=op)[-1:]:
                with module.graph.inserting_after(node):
                    new = module.graph.call_function(aten.mul.Scalar, (node, amount))
                new.meta = dict(node.meta)
                node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
                node.meta = {**node.meta, "reads": []}
        return counts

    return run


@pytest.mark.parametrize(
    ("op", "place"),
    [(aten.conv2d.default, r"'body' \(Conv2d\)"), (aten.tanh.default, r"'shared@1' \(Tanh\)"),
     (aten.linear.default, r"'head' \(Linear\)"), (aten.mean.dim, r"'head' \(Linear\)")],
)  # fmt: skip
def test_the_first_module_that_differs_is_named(monkeypatch: pytest.MonkeyPatch, op: Any, place: str) -> None:
    monkeypatch.setattr(passes, "run_passes", wrong(op, 1.5))
    expected = rf"does not compute what Network does: .*\n  for inputs of sizes \(2, 1, 8, 8\)\n  .*differs is {place}"
    with pytest.raises(fxlrp.VerificationError, match=expected):
        fxlrp.compile(network())(image(2, 1, 8, 8), target=1)


@pytest.mark.parametrize("amount", [1.01, 1 + 2e-3, float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("call", ["one", "many", "save"])
def test_every_way_to_call_is_verified(
    monkeypatch: pytest.MonkeyPatch, amount: float, call: str, tmp_path: Any
) -> None:
    monkeypatch.setattr(passes, "run_passes", wrong(aten.linear.default, amount))
    attributor, x = fxlrp.compile(network()), image(2, 1, 8, 8)
    calls: dict[str, Callable[[], Any]] = {
        "one": lambda: attributor(x, target=1),
        "many": lambda: attributor(x, targets=[0, 1]),
        "save": lambda: attributor.save(tmp_path / "model.pt2", x),
    }
    with pytest.raises(fxlrp.VerificationError):
        calls[call]()


def test_never_goes_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "run_passes", wrong(aten.linear.default, 2.0))
    x, model = image(2, 1, 8, 8), network()
    result = fxlrp.compile(model, verify="never")(x, target=1)
    torch.testing.assert_close(result.output, 2 * model(x).detach(), rtol=1e-4, atol=1e-5)


def test_batch_norm_along_another_dimension_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was for convolutions without a batch: statistics of channels times columns."""
    original = batch_norm.insert

    def sideways(at: fx.Node, op: Any, *args: Any) -> fx.Node:
        """Views along the last dimension that were along dimension 1."""
        if op is aten.reshape.default and len(args[1]) == 4 and args[1][1] == -1:
            args = (args[0], [1, 1, 1, -1])
        return original(at, op, *args)

    monkeypatch.setattr(batch_norm, "insert", sideways)
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).eval()
    with torch.no_grad():
        model[1].running_var.copy_(torch.tensor([1.0, 4.0, 9.0]))
    with pytest.raises(fxlrp.VerificationError, match="first module whose output differs is '1'"):
        fxlrp.compile(model)(image(1, 3, 8, 3), target=(1, 1, 1))


def test_sizes_that_take_another_branch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was for sizes of 1, which ran in programs for 2 and more."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return 2 * y if x.shape[0] == 1 else y

    attributor = fxlrp.compile(Branching().eval(), dynamic_shapes="auto")
    attributor(image(3, 4), target=1)
    monkeypatch.setattr(guards.Guards, "admit", lambda self, sizes: True)
    with pytest.raises(fxlrp.VerificationError, match=r"for inputs of sizes \(1, 4\)"):
        attributor(image(1, 4), target=1)


def test_kernels_that_read_another_layout_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As oneDNN did with images whose layout is ambiguous."""
    original = packed_filters.CONVOLUTION

    def kernel(x: Tensor, *rest: Any) -> Tensor:
        return original(x.flip(-1), *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(packed_filters, "CONVOLUTION", kernel)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    with pytest.raises(fxlrp.VerificationError, match=r"first module whose output differs is '0' \(Conv2d\)"):
        fxlrp.compile(model)(image(1, 4, 9, 9), target=(1, 1, 1))


class Spy:
    """Counts runs of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.runs = 0
        model.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, torch._subclasses.FakeTensor) and type(output) is Tensor:
            self.runs += 1


@pytest.mark.parametrize(
    ("verify", "runs"), [("first", [1, 1, 2, 2, 3]), ("always", [1, 2, 3, 4, 5]), ("never", [0] * 5)]
)
def test_the_model_runs_as_often_as_asked(verify: str, runs: Sequence[int]) -> None:
    """Once for each program by default: another target's form is another program, another batch another signature."""
    model = network()
    attributor, spy = fxlrp.compile(model, verify=verify), Spy(model)
    x = image(2, 1, 8, 8)
    for given, options, count in zip(
        (x, x, x, x, x[:1]), ({"target": 1}, {"target": 2}, {}, {}, {"target": 1}), runs, strict=True
    ):
        attributor(given, **options)
        assert spy.runs == count


def test_an_unknown_way_to_verify() -> None:
    with pytest.raises(fxlrp.SignatureError, match="verify='often' is none of 'first', 'always', 'never'"):
        fxlrp.compile(network(), verify="often")


def test_a_model_that_remembers_is_refused() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) * self.calls

    attributor = fxlrp.compile(Remembering().eval(), verify="always")
    attributor(image(1, 4), target=1)
    with pytest.raises(fxlrp.VerificationError, match="returns another output for the same inputs at a second call"):
        attributor(image(1, 4), target=1)


def test_rounding_that_the_model_blows_up_is_no_difference() -> None:
    """Most digits of the output cancel, in the model too."""

    class Cancelling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.exp() * 1e6 - (x * 1.0000001).exp() * 1e6) * torch.ones(2)

    model, x = Cancelling(), torch.linspace(1, 2, 6).view(3, 2)
    own = model(x)
    eps = torch.finfo(torch.float32).eps
    check_output(model, ((x,), {}), own * (1 + 10 * eps**0.5), eps, lambda: "nowhere")
    with pytest.raises(fxlrp.VerificationError):
        check_output(model, ((x,), {}), own * 1e6, eps, lambda: "nowhere")


def test_difference_of_outputs() -> None:
    one, inf = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -torch.inf])
    assert measure_difference({"a": one, "b": 3}, {"a": one.clone(), "b": 4}) == 0
    assert measure_distance(one, one + torch.tensor([0.0, 0.4])) == pytest.approx(0.1)
    assert measure_distance(inf, inf.clone()) == 0
    assert (
        measure_distance(inf, -inf)
        == measure_distance(one, inf)
        == measure_distance(one, one.double())
        == measure_distance(one, one[:1])
        == torch.inf
    )
    assert measure_distance(torch.tensor([torch.nan]), torch.tensor([0.0])) == torch.inf
    assert measure_distance(torch.zeros(2), torch.zeros(2)) == measure_distance(torch.zeros(0), torch.zeros(0)) == 0
    assert measure_distance(torch.tensor([3 + 4j]), torch.tensor([3 - 4j])) == 2
    assert torch.equal(shake(torch.tensor([1, 2]), 1e-3), torch.tensor([1, 2]))


def test_an_exported_program_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = torch.export.export(network(), (image(2, 1, 8, 8),))
    fxlrp.compile(exported)(image(2, 1, 8, 8), target=1)
    monkeypatch.setattr(passes, "run_passes", wrong(aten.linear.default, 2.0))
    with pytest.raises(fxlrp.VerificationError, match="an exported program has no modules"):
        fxlrp.compile(exported)(image(2, 1, 8, 8), target=1)


@pytest.mark.slow
def test_programs_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "MAX_FORMS", 2)
    monkeypatch.setattr(programs, "MAX_SIGNATURES", 3)
    attributor = fxlrp.compile(network())
    for i in range(5):
        x = image(1, 1, 8 + i, 8)
        for target in (1, None, fxlrp.contrast(1, 2)):
            attributor(x, target=target)
            attributor(x, targets=[target])
            attributor.ledger(x, target=target)
    assert len(attributor._programs) == 3
    for kept in attributor._programs._signatures.values():
        assert len(kept.programs) == len(kept.many) == len(kept.reports) == 2
