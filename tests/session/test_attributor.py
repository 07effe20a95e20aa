"""The attributor as a user meets it: signatures, inputs, reads, and a model that is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import fxlrp

torch.manual_seed(0)
X = torch.randn(3, 4, dtype=torch.float64)
Y = torch.randn(3, 4, dtype=torch.float64)


class Function(nn.Module):
    """A function of a linear layer and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.function, self.linear = function, nn.Linear(4, 4)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.linear, *args, **kwargs)


def model(function: Callable[..., Any]) -> nn.Module:
    return Function(function).double().eval()


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(2)
    layers = (nn.Linear(4, 8, bias=bias), nn.ReLU(), nn.Linear(8, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias))
    return nn.Sequential(*layers).double().eval()


def cnn() -> nn.Module:
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    layers = (nn.Conv2d(3, 4, 3, padding=1), norm, nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 5)).double().eval()


IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def gradient_times_input(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Input x gradient of the sum of the largest outputs: what the preset ``gradient`` attributes by default."""
    own = [t.clone().requires_grad_() for t in inputs]
    y = function(*own)
    best = y.flatten(1).amax(1) if y.ndim > 1 else y
    gradients = torch.autograd.grad(best.sum(), own, allow_unused=True, materialize_grads=True)
    return [x.detach() * g for x, g in zip(own, gradients, strict=True)]


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# signatures and programs


def test_capture_waits_for_the_first_call() -> None:
    attributor = fxlrp.compile(mlp())
    assert repr(attributor) == "Attributor(Sequential, rules='auto', 0 signatures)"
    attributor(X)
    assert "1 signatures" in repr(attributor)


def test_example_inputs_capture_at_once() -> None:
    attributor = fxlrp.compile(mlp(), (X,))
    assert "1 signatures" in repr(attributor)
    program = attributor.program
    result = attributor(X)
    assert attributor.program is program
    close(result.output, mlp()(X))


def test_example_keywords_capture_at_once() -> None:
    attributor = fxlrp.compile(model(lambda linear, x, scale: linear(x) * scale), kwargs={"x": X, "scale": Y})
    assert list(attributor(scale=Y, x=X).relevance) == ["scale", "x"]
    assert "1 signatures" in repr(attributor)


def test_programs_are_kept_by_signature() -> None:
    attributor = fxlrp.compile(mlp())
    attributor(X)
    first = attributor.program
    attributor(X[:2])
    second = attributor.program
    attributor(X * 2)
    assert attributor.program is first is not second
    attributor(X[:2] + 1)
    assert attributor.program is second


@pytest.mark.parametrize(
    "other",
    [((X[:2],), {}), ((), {"x": X}), ((X,), {"scale": 3.0}), ((X,), {"scale": X}), ((X[None],), {})],
    ids=["size", "keyword", "number", "tensor for number", "rank"],
)
def test_other_signatures_are_captured_anew(other: tuple[Any, Any]) -> None:
    own = model(lambda linear, x, scale=2.0: linear(x) * scale)
    attributor = fxlrp.compile(own)
    attributor(X)
    args, kwargs = other
    close(attributor(*args, **kwargs).output, own(*args, **kwargs))
    assert "2 signatures" in repr(attributor)


def test_least_recently_used_programs_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxlrp.session.programs.MAX_SIGNATURES", 3)
    attributor = fxlrp.compile(Function(lambda linear, x: x * 2.0).eval())
    programs = []
    for size in (1, 2, 3):
        attributor(torch.ones(1, size))
        programs.append(attributor.program)
    attributor(torch.ones(1, 1))
    attributor(torch.ones(1, 4))
    assert "3 signatures" in repr(attributor)
    for size, kept in ((1, True), (3, True), (2, False)):
        attributor(torch.ones(1, size))
        assert (attributor.program is programs[size - 1]) is kept
    assert "3 signatures" in repr(attributor)


def test_dynamic_batch_needs_one_capture_and_one_sample_another() -> None:
    own = cnn()
    attributor = fxlrp.compile(own, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    whole = attributor(IMAGE, target=1)
    program = attributor.program
    for batch in (1, 3, 8, 1, 2):
        images = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
        result = attributor(images, target=1)
        assert (attributor.program is program) is (batch > 1)
        close(result.output, own(images))
        close(result.relevance, fxlrp.compile(own)(images, target=1).relevance)
    close(attributor(IMAGE[1:], target=1).relevance, whole.relevance[1:])
    assert "2 signatures" in repr(attributor)


def test_eight_samples_equal_eight_calls() -> None:
    attributor = fxlrp.compile(cnn())
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    together = attributor(images).relevance
    close(together, torch.cat([attributor(image[None]).relevance for image in images]))


def test_program_is_a_plain_graph_module() -> None:
    attributor = fxlrp.compile(mlp())
    result = attributor(X, target=2)
    module = attributor.program.module
    assert isinstance(module, torch.fx.GraphModule)
    targets = {node.target for node in module.graph.nodes if node.op == "call_function"}
    assert all(isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" for target in targets)
    output, relevance = module(X, torch.full((3, 1), 2))
    close(output, result.output)
    close(relevance, result.relevance)


# inputs


def test_several_inputs_by_name() -> None:
    own = model(lambda linear, first, second: linear(first).relu() * second)
    result = fxlrp.compile(own, rules="gradient")(X, second=Y)
    assert sorted(result.relevance) == ["args_0", "second"] or sorted(result.relevance) == ["first", "second"]
    expected = gradient_times_input(lambda x, y: own(x, second=y), X, Y)
    close(list(result.relevance.values()), expected)


class Named(nn.Module):
    """Arguments of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor | None = None, *, scale: float = 1.0, pair: Any = None) -> Tensor:
        z = self.linear(x) if y is None else self.linear(x) * y
        return z * scale if pair is None else z * scale + pair["left"] * pair["right"][0]


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((X,), {}, None),
        ((), {"x": X}, None),
        ((X, None), {"scale": 2.0}, None),
        ((X, Y), {}, ["x", "y"]),
        ((X,), {"y": Y}, ["x", "y"]),
        ((), {"y": Y, "x": X}, ["x", "y"]),
        ((X,), {"pair": {"right": [Y, 3], "left": X}}, ["pair_left", "pair_right_0", "x"]),
        ((X, X), {}, ["x", "y"]),
    ],
    ids=["one", "keyword", "none", "two", "mixed", "keywords", "nested", "the same twice"],
)
def test_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str] | None) -> None:
    torch.manual_seed(4)
    own = Named().double().eval()
    result = fxlrp.compile(own, rules="gradient")(*args, **kwargs)
    close(result.output, own(*args, **kwargs))
    leaves, spec = torch.utils._pytree.tree_flatten((args, dict(sorted(kwargs.items()))))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def function(*given: Tensor) -> Tensor:
        values = iter(given)
        filled = [next(values) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        positional, named = torch.utils._pytree.tree_unflatten(filled, spec)
        return own(*positional, **named)

    found = result.relevance if isinstance(result.relevance, dict) else {"": result.relevance}
    assert names is None or sorted(found) == names
    close(list(found.values()), gradient_times_input(function, *tensors))


def test_one_tensor_for_two_arguments_stays_two_inputs() -> None:
    own = model(lambda linear, x, y: linear(x) + 2 * y)
    attributor = fxlrp.compile(own, rules="gradient")
    for inputs in ((X, X), (X, Y)):
        result = attributor(*inputs)
        close(result.output, own(*inputs))
        close(list(result.relevance.values()), gradient_times_input(own, *inputs))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(4, 3, dtype=torch.float64).t(),
        torch.randn(3, 8, dtype=torch.float64)[:, ::2],
        torch.randn(1, 4, dtype=torch.float64).expand(3, 4),
        torch.randn(3, 4, dtype=torch.float64).requires_grad_(),
        nn.Parameter(torch.randn(3, 4, dtype=torch.float64)),
        torch.randn(0, 4, dtype=torch.float64),
    ],
    ids=["transposed", "strided", "expanded", "with gradient", "parameter", "empty"],
)
def test_inputs_of_every_layout(x: Tensor) -> None:
    own = model(lambda linear, x: linear(x).relu().reshape(-1, 2, 2).flatten(1))
    result = fxlrp.compile(own, rules="gradient")(x)
    assert not result.relevance.requires_grad
    assert x.grad is None
    close(result.output, own(x).detach())
    close(result.relevance, gradient_times_input(own, x.detach())[0] if len(x) else x)


def test_channels_last() -> None:
    attributor = fxlrp.compile(cnn())
    close(attributor(IMAGE.to(memory_format=torch.channels_last)).relevance, attributor(IMAGE).relevance)


class Reader(nn.Module):
    """Token embeddings with positions counted from the tokens, as in RoBERTa, and a table of types."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.place, self.kind = nn.Embedding(20, 4), nn.Embedding(16, 4), nn.Embedding(2, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        present = ids.ne(1).long()
        places = present.cumsum(1) * present + 1
        x = self.word(ids) * 1.5 + self.place(places) + self.kind(torch.zeros_like(ids))
        return self.head(x.tanh()).mean(1)


IDS = torch.tensor([[4, 7, 2, 9, 1], [3, 3, 5, 1, 1]])


def test_token_ids_and_positions_computed_from_them() -> None:
    torch.manual_seed(5)
    reader = Reader().double().eval()
    result = fxlrp.compile(reader, rules="gradient")(IDS, target=2)
    assert {"ids", "place"} <= set(result.relevance) <= {"ids", "place", "kind"}
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            seen[name] = output.detach().requires_grad_()
            return seen[name]

        return hook

    for name in ("word", "place"):
        getattr(reader, name).register_forward_hook(keep(name))
    gradients = torch.autograd.grad(reader(IDS)[:, 2].sum(), list(seen.values()))
    expected = [(x * g).sum(-1).detach() for x, g in zip(seen.values(), gradients, strict=True)]
    close(result.relevance["ids"], expected[0])
    close(result.relevance["place"], expected[1])
    assert result.relevance["ids"].shape == IDS.shape


def test_token_ids_alone_give_a_tensor() -> None:
    result = fxlrp.compile(nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(20, 3)).eval())(IDS)
    assert result.relevance.shape == IDS.shape


# reads


class Blocks(nn.Module):
    """A bias-free chain with a block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False)) for _ in range(2)
        )
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = self.act(block(x))
        return self.head(x)


def blocks() -> nn.Module:
    torch.manual_seed(6)
    return Blocks().double().eval()


def test_relevance_is_conserved_at_every_read_point() -> None:
    own = blocks()
    result = fxlrp.compile(own, read=("stem", "blocks.*", "act*", "head"))(X, target=2)
    assert sorted(result.read) == [
        "act",
        "act@1",
        "act@2",
        *(f"blocks.{i}{j}" for i in range(2) for j in ("", ".0", ".1", ".2")),
        "head",
        "stem",
    ]
    logits = own(X)[:, 2].detach()
    for relevance in (result.relevance, *result.read.values()):
        close(relevance.sum(1), logits)


def test_a_read_equals_the_relevance_of_the_rest_of_the_model() -> None:
    own = blocks()
    result = fxlrp.compile(own, read="stem")(X, target=1)

    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = own

        def forward(self, x: Tensor) -> Tensor:
            x = self.own.act(x)
            for block in self.own.blocks:
                x = self.own.act(block(x))
            return self.own.head(x)

    with torch.no_grad():
        close(result.read["stem"], fxlrp.compile(Rest().eval())(own.stem(X), target=1).relevance)


def test_reads_of_graph_nodes_and_inputs() -> None:
    attributor = fxlrp.compile(blocks(), (X,))
    result = fxlrp.compile(blocks(), read=("linear_*", "x"))(X)
    assert {"linear_1", "linear_5", "x"} <= set(result.read)
    close(result.read["x"], attributor(X).relevance)


def test_reads_survive_rewrites() -> None:
    """The output of a convolution whose norm is folded into it is its own."""
    own = cnn()
    result = fxlrp.compile(own, read=("0", "1:coefficient", "8", "9"))(IMAGE, target=1)
    scale = (own[1].weight / (own[1].running_var + own[1].eps).sqrt()).detach().view(1, -1, 1, 1)
    close(result.read["0"], own[0](IMAGE).detach() * scale * result.read["1:coefficient"])
    assert result.read["8"].shape == (2, 6)
    assert result.read["9"].count_nonzero() == 2


# the model


def test_parameters_are_the_models_own() -> None:
    own = cnn()
    attributor = fxlrp.compile(own, (IMAGE,))
    theirs = {id(t) for t in (*own.parameters(), *own.buffers())}
    mine = [*attributor.program.module.parameters(), *attributor.program.module.buffers()]
    assert len(mine) >= 8
    assert {id(t) for t in mine} <= theirs


def test_weight_updates_are_seen() -> None:
    own = cnn()
    attributor = fxlrp.compile(own)
    before = attributor(IMAGE, target=1).relevance
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(0.01)
    after = attributor(IMAGE, target=1)
    assert not torch.allclose(after.relevance, before)
    close(after.output, own(IMAGE))
    close(after.relevance, fxlrp.compile(own)(IMAGE, target=1).relevance)


def test_the_model_is_not_changed() -> None:
    own = cnn()
    own[0].requires_grad_(False)
    own[2].train()
    own[2].eval()
    state = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in own.parameters()]
    attributes = {name: set(vars(module)) for name, module in own.named_modules()}
    fxlrp.compile(own, read="*")(IMAGE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.state_dict().items())
    assert flags == [(p.requires_grad, p.grad) for p in own.parameters()]
    assert attributes == {name: set(vars(module)) for name, module in own.named_modules()}
    for module in own.modules():
        assert not module.training
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        assert not any(hooks)
        assert "forward" not in vars(module)


def test_hooks_of_the_user_run_at_capture_only() -> None:
    own, calls = mlp(), []
    own[1].register_forward_hook(lambda module, args, output: calls.append(1))
    attributor = fxlrp.compile(own)
    attributor(X)
    captured = len(calls)
    attributor(X)
    assert len(calls) == captured
    own(X)
    assert len(calls) == captured + 1


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.enable_grad, torch.inference_mode], ids=["no grad", "grad", "inference"]
)
def test_mode_of_the_caller(mode: Callable[[], Any]) -> None:
    own = cnn()
    expected = fxlrp.compile(own)(IMAGE, target=1).relevance
    attributor = fxlrp.compile(own)
    with mode():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        found = attributor(IMAGE, target=1).relevance
        inside = attributor(IMAGE.clone(), target=1).relevance
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    close(found, expected)
    close(inside, expected)
    assert not found.requires_grad
    close(attributor(IMAGE, target=1).relevance, expected)


def test_autocast_of_the_caller() -> None:
    own = cnn().float()
    image = IMAGE.float()
    expected = fxlrp.compile(own)(image, target=1)
    attributor = fxlrp.compile(own)
    with torch.autocast("cpu", torch.bfloat16):
        found = attributor(image, target=1)
        assert torch.is_autocast_enabled("cpu")
    assert found.relevance.dtype == torch.float32
    close(found.output, expected.output, 1e-5)
    close(found.relevance, expected.relevance, 1e-5)
    close(attributor(image, target=1).relevance, expected.relevance, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_of_the_model(dtype: torch.dtype) -> None:
    own = mlp()
    exact = fxlrp.compile(own)(X, target=1).relevance
    result = fxlrp.compile(own.to(dtype))(X.to(dtype), target=1)
    assert result.output.dtype == dtype
    assert result.relevance.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    close(result.relevance.double(), exact, tolerance * exact.abs().max().item() * 4)


def in_place(linear: nn.Module, x: Tensor) -> Tensor:
    y = linear(x)
    y += x
    y.relu_()
    z = 2 * y
    z[:, 1] *= 2
    z[:, 0] = x[:, 3]
    return z.mul_(3)


def shared(linear: nn.Module, x: Tensor) -> Tensor:
    return linear(linear(linear(x).relu()).relu()) + x


def tied(linear: nn.Module, x: Tensor) -> Tensor:
    return F.linear(linear(x).tanh(), linear.weight.t())


def lists(linear: nn.Module, x: Tensor) -> Tensor:
    a, b = torch.split(linear(x), [1, 3], 1)
    parts = [p.squeeze(1) for p in b.chunk(3, 1)]
    return torch.cat([torch.stack(parts[::-1], 1), a, torch.stack(x.unbind(1)[1:], 1)], 1)


def selection(linear: nn.Module, x: Tensor) -> Tensor:
    y = linear(x)
    return torch.cat([y.topk(2, -1)[0], y.sort(-1, descending=True)[0], y.max(1)[0][:, None], y.cumsum(1)], 1)


def masks(linear: nn.Module, x: Tensor) -> Tensor:
    scores = linear(x) @ x.t()
    weights = scores.masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    return torch.where(x > 0, weights @ x, 2 * x)


def frequencies(linear: nn.Module, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(linear(x))
    return torch.cat([torch.fft.irfft(spectrum * torch.arange(3), n=4), spectrum.real, spectrum.imag], 1)


def magnitudes(linear: nn.Module, x: Tensor) -> Tensor:
    return torch.fft.fft(linear(x)).abs()


def rotations(linear: nn.Module, x: Tensor) -> Tensor:
    pairs = torch.view_as_complex(linear(x).reshape(3, 2, 2))
    turns = torch.polar(torch.ones(2, dtype=torch.float64), torch.arange(2, dtype=torch.float64))
    return torch.view_as_real(pairs * turns).flatten(1)


def resampled(linear: nn.Module, x: Tensor) -> Tensor:
    y = F.pad(linear(x)[:, None], (1, 2), mode="reflect")
    return F.interpolate(y, scale_factor=2, mode="linear")[:, 0] * F.pad(x, (3, 7), value=1.0)


def no_dependence_of_some(linear: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([linear(x[:, :4] * 0 + 1), linear(x)], 1)


PROGRAMS = [
    in_place, shared, tied, lists, selection, masks, frequencies, magnitudes, rotations, resampled,
    no_dependence_of_some,
]  # fmt: skip


@pytest.mark.parametrize(
    "function",
    leave_to_slow(PROGRAMS, but={in_place, tied, selection, masks, rotations}),
    ids=lambda function: function.__name__,
)
def test_programs_of_every_kind(function: Callable[..., Tensor]) -> None:
    own = model(function)
    result = fxlrp.compile(own, rules="gradient")(X)
    close(result.output, own(X).detach())
    close(result.relevance, gradient_times_input(own, X)[0])
    assert fxlrp.compile(own)(X).relevance.isfinite().all()


def attention(frozen: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(layer.requires_grad_(not frozen), nn.Flatten())


SEQUENCE = torch.randn(2, 5, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: attention(frozen=False), SEQUENCE),
        (lambda: attention(frozen=True), SEQUENCE),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2, groups=1), nn.PixelShuffle(2)), IMAGE),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.LPPool2d(2, 2)), IMAGE),
        (lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), X),
        (lambda: nn.Sequential(nn.Unfold(3), nn.Softmax(1), nn.AdaptiveMaxPool1d(3)), IMAGE),
        (lambda: nn.Sequential(nn.LocalResponseNorm(2), nn.AvgPool2d(3, padding=1, count_include_pad=False)), IMAGE),
    ],
    ids=["encoder", "frozen encoder", "transposed conv", "padded conv", "weight norm", "unfold", "response norm"],
)
def test_layers_of_torch(build: Callable[[], nn.Module], x: Tensor) -> None:
    torch.manual_seed(7)
    own = build().double().eval()
    result = fxlrp.compile(own, rules="gradient")(x)
    close(result.output, own(x).detach())
    close(result.relevance, gradient_times_input(own, x)[0])


class Stored(nn.Module):
    """Parameters in a list, and buffers that are saved and that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(3)])
        self.register_buffer("shift", torch.randn(4))
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.plain = torch.randn(4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = (x @ weight + self.shift).relu() * self.scale + self.plain
        return x


def test_parameters_and_buffers_of_every_kind() -> None:
    torch.manual_seed(8)
    own = Stored().double().eval()
    attributor = fxlrp.compile(own, rules="gradient")
    close(attributor(X).relevance, gradient_times_input(own, X)[0])
    own.scale.mul_(2)
    result = attributor(X)
    close(result.output, own(X).detach())
    close(result.relevance, gradient_times_input(own, X)[0])


def test_inputs_returned_as_they_are() -> None:
    result = fxlrp.compile(Function(lambda linear, x, y: (x, y)).eval())(X, Y, target=0)
    close(result.output, (X, Y))
    found = list(result.relevance.values())
    close(found[0], torch.where(torch.arange(4) == 0, X, 0.0))
    close(found[1], torch.zeros_like(Y))


def detached(linear: nn.Module, x: Tensor) -> Tensor:
    return linear(x) * 2 + x.detach() * x.sum(1, keepdim=True).detach()


def without_gradient(linear: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.abs().amax(1, keepdim=True) + linear(x)
    return linear(x) / scale


@torch.no_grad()
def constant(x: Tensor) -> Tensor:
    return x.square().mean()


def decorated(linear: nn.Module, x: Tensor) -> Tensor:
    return linear(x) + constant(x) * x


@pytest.mark.parametrize("function", [detached, without_gradient, decorated], ids=lambda f: f.__name__)
def test_relevance_stops_where_the_author_stopped_the_gradient(function: Callable[..., Tensor]) -> None:
    own = model(function)
    with torch.no_grad():
        found = fxlrp.compile(own, rules="gradient")(X).relevance
    close(found, gradient_times_input(own, X)[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_program(dynamic: bool) -> None:
    own = mlp()
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    exported = torch.export.export(own, (X,), dynamic_shapes=shapes)
    attributor = fxlrp.compile(exported, read="2")
    expected = fxlrp.compile(own, read="2")(X, target=1)
    for _ in range(2):
        result = attributor(X, target=1)
        close(result.relevance, expected.relevance)
        close(result.read, expected.read)
    if dynamic:
        close(attributor(X[:2], target=1).relevance, expected.relevance[:2])
    close(exported.module()(X), own(X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # by Inductor's own imports
def test_inductor_equals_eager() -> None:
    torch.manual_seed(9)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    own = nn.Sequential(*layers).double().eval()
    eager = fxlrp.compile(own, read="1")(IMAGE, target=1)
    compiled = fxlrp.compile(own, read="1", backend="inductor")(IMAGE, target=1)
    close(compiled.output, eager.output)
    close(compiled.relevance, eager.relevance)
    close(compiled.read, eager.read)


# the coverage report


def test_coverage_counts_every_live_op() -> None:
    attributor = fxlrp.compile(cnn(), (IMAGE,), rules="attnlrp")
    report = attributor.coverage()
    rows = {row.op: row for row in report.rows}
    counts = {op: row.count for op, row in rows.items()}
    assert counts == {
        "aten.conv2d.default": 2,
        "aten.relu.default": 2,
        "aten.max_pool2d.default": 1,
        "aten.linear.default": 1,
        **{op: 1 for op in counts if "avg_pool" in op or "mean" in op or "reshape" in op or "squeeze" in op},
    }
    assert report.live == report.covered == sum(counts.values())
    assert report.nodes > report.live
    assert report.rules == "attnlrp"
    assert report.rewrites["fold batch norm"] == 1
    conv = rows["aten.conv2d.default"]
    assert (conv.kind, conv.rule) == ("linear", "affine")
    assert conv.formula.startswith("``c_x = W^T c``")
    assert "conv" in conv.source


def test_coverage_names_the_rules_of_a_preset() -> None:
    report = fxlrp.compile(cnn(), (IMAGE,), rules="epsilon_gamma_box").coverage()
    names = {(row.op, row.rule) for row in report.rows}
    assert ("aten.conv2d.default", "z_box(-3, 3)") in names
    assert ("aten.conv2d.default", "gamma(0.25)") in names
    assert ("aten.linear.default", "epsilon(1e-06)") in names


def test_coverage_counts_promises() -> None:
    def function(linear: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([linear(x) + x, (x - 2 * x).mean(1, keepdim=True)], 1)

    report = fxlrp.compile(model(function), (X,)).coverage()
    assert report.promises_eliminated == sum(
        row.count for row in report.rows if row.op.split(".")[1] in ("add", "sub", "cat", "mean")
    )
    assert report.promises_eliminated == 4


def test_coverage_as_rows_json_and_text() -> None:
    class Bracket(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, [0, 2]]

    report = fxlrp.compile(Bracket().eval(), (X,)).coverage()
    rows = report.to_rows()
    assert [row["op"] for row in rows] == [row.op for row in report.rows]
    assert set(rows[0]) == {"op", "kind", "rule", "formula", "count", "source"}
    loaded = json.loads(report.to_json())
    assert loaded["rows"] == rows
    assert loaded["live"] == report.live
    text = str(report)
    assert "Rule coverage: auto" in text
    assert f"{report.live} of {report.live} live ops covered (100.00 %)" in text
    assert "return x[:, [0, 2]]" in text
    for row in report.rows:
        assert row.op in text
