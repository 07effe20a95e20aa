"""Every rewrite: what it makes of a graph, how often, where it must not fire, and that nothing else changes."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import fxlrp.rules  # noqa: F401  the table says which random ops make no use of values
from fxlrp import passes
from fxlrp._torch import make_fx
from fxlrp.capture.functional_graph import capture
from fxlrp.errors import CaptureError
from fxlrp.ir.program import Captured
from fxlrp.passes.canonical import affine, batch_norm, identities, single_output, softmax, strides, verify
from fxlrp.passes.cleanup import arithmetic, subexpressions
from fxlrp.passes.manager import Pass, find_input_dependent

aten = torch.ops.aten


class Function(nn.Module):
    """A function of tensors as a model, with two weights of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(4, dtype=torch.float64))

    def forward(self, *inputs: Tensor) -> Any:
        weights = (self.w, self.b)[: len(inspect.signature(self.function).parameters) - len(inputs)]
        return self.function(*inputs, *weights)


def given(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def as_model(model: nn.Module | Callable[..., Any]) -> nn.Module:
    return (model if isinstance(model, nn.Module) else Function(model)).double().eval()


def derivatives(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A function's output, and its gradients with respect to the inputs."""
    own = [t.clone().requires_grad_() for t in inputs]
    output = function(*own)
    return output, *torch.autograd.grad(output.square().sum(), own, materialize_grads=True)


def runner(captured: Captured) -> Callable[..., Tensor]:
    """The captured graph as a function of the user's inputs."""
    placeholders = [n for n in captured.graph.nodes if n.op == "placeholder"]

    def run(*inputs: Tensor) -> Tensor:
        values = {**captured.constants, **dict(zip(captured.inputs, inputs, strict=True))}
        return captured.module(*(values[n] for n in placeholders))[-1]

    return run


def ops(graph: fx.Graph) -> Counter[str]:
    return Counter(str(n.target).partition(".")[2] or n.target.__name__ for n in graph.nodes if n.op == "call_function")


def check(model: nn.Module, captured: Captured, inputs: tuple[Tensor, ...], apply: Pass, count: int) -> None:
    """Run a pass: it fires ``count`` times, once and for all, and leaves the output and its gradients alone."""
    assert passes.run_passes(captured.module, [("it", apply)]) == {"it": count}
    found, expected = derivatives(runner(captured), inputs), derivatives(model, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    nodes = [(n.name, n.target, n.args) for n in captured.graph.nodes]
    assert passes.run_passes(captured.module, [("again", apply)]) == {"again": 0}
    assert [(n.name, n.target, n.args) for n in captured.graph.nodes] == nodes


@dataclass(frozen=True)
class Rewrite:
    """A model, the pass that is run on it, and what comes of it.

    ``before`` and ``after`` are counts of ops, of which only those named are compared; the passes of ``first`` have
    been run before.
    """

    name: str
    model: nn.Module | Callable[..., Any]
    inputs: tuple[Tensor, ...]
    apply: Pass
    count: int
    before: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    first: tuple[tuple[str, Pass], ...] = ()


X, SQUARE, WIDE = given(3, 4), given(4, 4), given(3, 4, 4)
DROP: tuple[tuple[str, Pass], ...] = (("drop identities", identities.drop_identities),)

IDENTITIES = [
    Rewrite("dropout", nn.Dropout(0.5), (X,), identities.drop_identities, 1, {"alias.default": 1}, {"alias.default": 0}),
    Rewrite("clone", lambda x: x.clone() * 2, (X,), identities.drop_identities, 1, {"clone.default": 1}, {"clone.default": 0}),
    Rewrite("memory to write into", lambda x: torch.slice_scatter(x.new_empty(3, 4), x * 2, 0, 0, 3), (X,),
            identities.fill_empty, 1, {"empty.memory_format": 1}, {"empty.memory_format": 0, "zeros.default": 1}),
    Rewrite("zeros", lambda x: x + torch.zeros(4), (X,), identities.fill_empty, 0, {}, {}),
    Rewrite("cast to the same", lambda x: x.to(torch.float64, copy=True) * 2, (X,), identities.drop_identities, 1,
            {"_to_copy.default": 1}, {"_to_copy.default": 0}),
    Rewrite("cast to another", lambda x: x.to(torch.float32) * 2, (X,), identities.drop_identities, 0,
            {"_to_copy.default": 1}, {"_to_copy.default": 1}),
    Rewrite("copy of strides", lambda x: torch.lerp(x.t(), x.view(4, 3) * 2, 0.3), (X,), identities.drop_identities, 2,
            {"copy_strided.default": 1}, {"copy_strided.default": 0}),
    Rewrite("expand to the same", lambda x: x.expand(3, 4) * 2, (X,), identities.drop_identities, 1,
            {"expand.default": 1}, {"expand.default": 0}),
    Rewrite("expand to more", lambda x: x.expand(2, 3, 4) * 2, (X,), identities.drop_identities, 0,
            {"expand.default": 1}, {"expand.default": 1}),
    Rewrite("slice of all", lambda x: aten.slice.Tensor(x, 0, 0, 99) * 2, (X,), identities.drop_identities, 1,
            {"slice.Tensor": 1}, {"slice.Tensor": 0}),
    Rewrite("slice of some", lambda x: x[1:] * 2, (X,), identities.drop_identities, 0,
            {"slice.Tensor": 1}, {"slice.Tensor": 1}),
    Rewrite("view to the same", lambda x: x.view(3, 4) * 2, (X,), identities.drop_identities, 1,
            {"view.default": 1}, {"view.default": 0, "reshape.default": 0}),
    Rewrite("view of a permuted clone", lambda x: x.permute(1, 0).contiguous().view(2, 6) * 2, (X,), identities.drop_identities,
            2, {"clone.default": 1, "view.default": 1}, {"clone.default": 0, "reshape.default": 1}),
    Rewrite("in-place copy", lambda x: torch.zeros(3, 4, dtype=torch.float64).copy_(x) * 2, (X,), identities.drop_identities, 1,
            {"copy.default": 1}, {"copy.default": 0}),
    Rewrite("in-place copy that broadcasts", lambda x: torch.zeros(2, 3, 4, dtype=torch.float64).copy_(x) * 2, (X,),
            identities.drop_identities, 1, {"copy.default": 1}, {"copy.default": 0, "expand.default": 1}),
    Rewrite("in-place copy that casts", lambda x: torch.zeros(3, 4).copy_(x) * 2, (X,), identities.drop_identities, 1,
            {"copy.default": 1}, {"copy.default": 0, "_to_copy.default": 1}),
]  # fmt: skip

OUTPUTS = [
    Rewrite("split", lambda x: x.split(1, 1)[1] * x.split([1, 3], 1)[0], (X,), single_output.open_outputs, 2,
            {"split_with_sizes.default": 2}, {"split_with_sizes.default": 0, "slice.Tensor": 2}),
    Rewrite("chunk", lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1], (X,), single_output.open_outputs, 2,
            {"getitem": 2}, {"getitem": 0, "slice.Tensor": 2}),
    Rewrite("topk", lambda x: x.topk(2, -1)[0], (X,), single_output.open_outputs, 1,
            {"topk.default": 1, "gather.default": 0}, {"topk.default": 1, "gather.default": 1}),
    Rewrite("smallest k of the first dimension", lambda x: x.topk(2, 0, largest=False)[0], (X,),
            single_output.open_outputs, 1, {}, {"gather.default": 1}),
    Rewrite("sort", lambda x: x.sort(0, descending=True)[0], (X,), single_output.open_outputs, 1,
            {}, {"gather.default": 1}),
    Rewrite("max without its dimension", lambda x: x.max(1)[0], (X,), single_output.open_outputs, 1,
            {"max.dim": 1}, {"gather.default": 1, "squeeze.dims": 1}),
    Rewrite("min with its dimension", lambda x: x.min(0, keepdim=True)[0], (X,), single_output.open_outputs, 1,
            {"min.dim": 1}, {"gather.default": 1, "squeeze.dims": 0}),
    Rewrite("kthvalue", lambda x: x.kthvalue(2, 1)[0], (X,), single_output.open_outputs, 1,
            {}, {"gather.default": 1}),
    Rewrite("median", lambda x: x.median(1)[0], (X,), single_output.open_outputs, 1, {}, {"gather.default": 1}),
    Rewrite("cummax", lambda x: x.cummax(1)[0], (X,), single_output.open_outputs, 1, {}, {"gather.default": 1}),
    Rewrite("variance and mean", lambda x: torch.mul(*torch.var_mean(x, 1, correction=0)), (X,),
            single_output.open_outputs, 2, {"var_mean.correction": 1},
            {"var_mean.correction": 0, "var.correction": 1, "mean.dim": 1}),
    Rewrite("max pooling", nn.MaxPool2d(2, 1, ceil_mode=True), (WIDE[:, None],), single_output.open_outputs, 0,
            {}, {"max_pool2d.default": 1}),
    Rewrite("max pooling with its positions", lambda x: functional.max_pool2d(x, 2, return_indices=True)[0],
            (WIDE[:, None],), single_output.open_outputs, 1, {}, {"max_pool2d.default": 1}),
    Rewrite("adaptive max pooling", nn.AdaptiveMaxPool2d((3, 2)), (WIDE[:, None],), single_output.open_outputs, 1,
            {"adaptive_max_pool2d.default": 1}, {"gather.default": 1}),
    Rewrite("positions of the largest", lambda x: x.gather(1, x.max(1, keepdim=True)[1]), (X,),
            single_output.open_outputs, 0, {"max.dim": 1}, {"max.dim": 1}),
]  # fmt: skip

BAGS = torch.tensor([1, 4, 4, 0]), torch.tensor([0, 1])


def normed(x: Tensor) -> Tensor:
    """A layer norm by its inner name, with its statistics."""
    y, mean, scale = torch.native_layer_norm(x, [4], None, None, 1e-5)
    return y * mean * scale


def grouped(x: Tensor) -> Tensor:
    """A group norm by its inner name, with its statistics."""
    y, mean, scale = torch.native_group_norm(x, None, None, 3, 4, 4, 2, 1e-5)
    return y.sum() * mean * scale


def evaluated(x: Tensor) -> Tensor:
    """A batch norm by its inner name, with its statistics, which are empty."""
    y, mean, _ = aten._native_batch_norm_legit_no_training.default(
        x, None, None, torch.zeros(4).double(), torch.ones(4).double(), 0.1, 1e-5
    )
    return y + mean.sum()


OUTPUTS += [
    Rewrite("layer norm by its inner name", lambda x, w, b: torch.native_layer_norm(x, [4], b, None, 1e-5)[0], (X,),
            single_output.open_outputs, 1, {"native_layer_norm.default": 1}, {"layer_norm.default": 1}),
    Rewrite("statistics of a layer norm", normed, (X,), single_output.open_outputs, 3, {},
            {"layer_norm.default": 1, "detach.default": 2, "native_layer_norm.default": 0}),
    Rewrite("statistics of a group norm", grouped, (WIDE,), single_output.open_outputs, 3,
            {"native_group_norm.default": 1}, {"group_norm.default": 1, "native_group_norm.default": 0}),
    Rewrite("statistics of a batch norm", evaluated, (WIDE,), single_output.open_outputs, 1, {},
            {"new_zeros.default": 1, "_native_batch_norm_legit_no_training.default": 1}),
    Rewrite("randomised relu in evaluation mode", lambda x: functional.rrelu(x), (X,), single_output.open_outputs, 1,
            {"rrelu_with_noise_functional.default": 1}, {"leaky_relu.default": 1}),
    Rewrite("embedding bag", lambda x: functional.embedding_bag(BAGS[0], x, BAGS[1], mode="sum"), (given(5, 3),),
            single_output.open_outputs, 1, {"_embedding_bag_forward_only.default": 1}, {"_embedding_bag.default": 1}),
    Rewrite("unbind into copies", lambda x: torch.unbind_copy(x, 1)[2], (X,), single_output.open_outputs, 1,
            {"unbind_copy.int": 1}, {"select.int": 1}),
]  # fmt: skip

TAKEN, LAID = {"as_strided.default": 1, "repeat.default": 1}, {"as_strided_scatter.default": 1, "repeat.default": 1}
STRIDES = [
    Rewrite("as_strided", lambda x: torch.as_strided(x, (2, 2), (1, 4), 1) * 2, (X,), strides.own_memory, 1,
            {"repeat.default": 0}, TAKEN),
    Rewrite("as_strided of an outer dimension", lambda x: torch.as_strided(x.t() * 2, (3, 2), (1, 4)), (X,),
            strides.own_memory, 1, {}, TAKEN),
    Rewrite("as_strided of a permuted clone", lambda x: torch.as_strided(x.t().contiguous(), (2, 2), (1, 3)), (X,),
            strides.own_memory, 1, {"clone.default": 1}, TAKEN),
    Rewrite("as_strided into a copy", lambda x: torch.as_strided_copy(x, (2, 2), (1, 4)) * 2, (X,), strides.own_memory, 1,
            {"as_strided_copy.default": 1}, TAKEN),
    Rewrite("as_strided_scatter", lambda x: torch.as_strided_scatter(x, x[:2, :2] * 3, (2, 2), (1, 4), 1), (X,),
            strides.own_memory, 1, {"repeat.default": 0}, LAID),
    Rewrite("as_strided_scatter into a permuted clone",
            lambda x: torch.as_strided_scatter(x.t().contiguous(), x[:2, :2] * 3, (2, 2), (1, 4), 1), (X,),
            strides.own_memory, 1, {"clone.default": 1}, LAID),
    Rewrite("view_as_complex of a permuted clone",
            lambda x: torch.view_as_complex(x.t()[:, :2].contiguous()).abs(), (X,), strides.own_pairs, 1,
            {"clone.default": 1, "view_as_complex.default": 1}, {"complex.default": 1, "view_as_complex.default": 0}),
    Rewrite("view and slice", lambda x: x.view(4, 3)[1:] * 2, (X,), strides.own_memory, 0, {}, {"repeat.default": 0}),
]  # fmt: skip

PRODUCTS = [
    Rewrite("x @ W", lambda x, w: x @ w, (X,), affine.merge_products, 1, {"matmul.default": 1},
            {"linear.default": 1, "matmul.default": 0, "t.default": 1}),
    Rewrite("x @ W in three dimensions", lambda x, w: x @ w, (WIDE,), affine.merge_products, 1, {}, {"linear.default": 1}),
    Rewrite("mm", lambda x, w: torch.mm(x, w), (X,), affine.merge_products, 1, {"mm.default": 1}, {"linear.default": 1}),
    Rewrite("addmm", lambda x, w, b: torch.addmm(b, x, w), (X,), affine.merge_products, 1, {"addmm.default": 1},
            {"linear.default": 1, "addmm.default": 0}),
    Rewrite("linear", lambda x, w, b: functional.linear(x, w, b), (X,), affine.merge_products, 0, {}, {"linear.default": 1}),
    Rewrite("W @ x", lambda x, w: w @ x, (SQUARE,), affine.merge_products, 0, {}, {"matmul.default": 1}),
    Rewrite("x @ y", lambda x, y: x @ y, (X, SQUARE), affine.merge_products, 0, {}, {"matmul.default": 1}),
    Rewrite("x @ x", lambda x: x @ x, (SQUARE,), affine.merge_products, 0, {}, {"matmul.default": 1}),
    Rewrite("x @ w of a vector", lambda x, w: x @ w[0], (X,), affine.merge_products, 0, {}, {"linear.default": 0}),
    Rewrite("addmm of a matrix", lambda x, w: torch.addmm(w, x, w), (SQUARE,), affine.merge_products, 0, {},
            {"addmm.default": 1}),
    Rewrite("addmm with a factor", lambda x, w, b: torch.addmm(b, x, w, beta=2), (X,), affine.merge_products, 0, {},
            {"addmm.default": 1}),
    Rewrite("addmm of an input", lambda x, b, w: torch.addmm(b, x, w), (X, given(4)), affine.merge_products, 0, {},
            {"addmm.default": 1}),
]  # fmt: skip


def hand(subtract: Callable[[Tensor], Tensor], dim: int = 1) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        e = torch.exp(x - subtract(x))
        return e / e.sum(dim, keepdim=True)

    return function


def columns(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return e / e.sum(1).expand_as(e)


def no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.abs().sum()
    return x * scale


FIRES, QUIET = {"softmax.int": 1, "exp.default": 0}, {"softmax.int": 0}
SOFTMAX = [
    Rewrite("no offset", lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True), (X,), softmax.recognise_softmax, 0,
            {"exp.default": 2}, QUIET),
    Rewrite("shared exponential", lambda x: (e := torch.exp(x)) / e.sum(1, keepdim=True), (X,), softmax.recognise_softmax, 1,
            {"exp.default": 1}, FIRES),
    Rewrite("amax", hand(lambda x: x.amax(1, keepdim=True)), (X,), softmax.recognise_softmax, 1, {},
            {**FIRES, "amax.default": 0}),
    Rewrite("max", hand(lambda x: x.max(1, keepdim=True)[0]), (X,), softmax.recognise_softmax, 1, {}, FIRES),
    Rewrite("detached max", hand(lambda x: x.max(1, keepdim=True)[0].detach()), (X,), softmax.recognise_softmax, 1, {}, FIRES,
            DROP),
    Rewrite("max put back", hand(lambda x: x.amax(1).unsqueeze(1)), (X,), softmax.recognise_softmax, 1, {}, FIRES),
    Rewrite("max of everything", hand(lambda x: x.max()), (X,), softmax.recognise_softmax, 1, {}, FIRES),
    Rewrite("max expanded", hand(lambda x: x.amax(1, keepdim=True).expand_as(x)), (X,), softmax.recognise_softmax, 1, {},
            FIRES, DROP),
    Rewrite("first dimension", hand(lambda x: x.amax(0), 0), (X,), softmax.recognise_softmax, 1, {}, FIRES),
    Rewrite("last of three", hand(lambda x: x.amax(-1, keepdim=True), -1), (WIDE,), softmax.recognise_softmax, 1, {}, FIRES),
    Rewrite("sum put back", lambda x: (e := torch.exp(x)) / e.sum(1).unsqueeze(1), (X,), softmax.recognise_softmax, 1, {},
            FIRES),
    Rewrite("sum put back by reshape", lambda x: (e := torch.exp(x)) / e.sum(1).reshape(-1, 1), (X,),
            softmax.recognise_softmax, 1, {}, FIRES, DROP),
    Rewrite("sum along the other dimension", lambda x: (e := torch.exp(x)) / e.sum(1), (SQUARE,), softmax.recognise_softmax,
            0, {}, QUIET),
    Rewrite("sum expanded along the other dimension", columns, (SQUARE,), softmax.recognise_softmax, 0, {}, QUIET, DROP),
    Rewrite("sum of both dimensions", lambda x: (e := torch.exp(x)) / e.sum((0, 1), keepdim=True), (X,),
            softmax.recognise_softmax, 0, {}, QUIET),
    Rewrite("mean in place of sum", lambda x: (e := torch.exp(x)) / e.mean(1, keepdim=True), (X,), softmax.recognise_softmax,
            0, {}, QUIET),
    Rewrite("sum of another exponential", lambda x: torch.exp(x) / torch.exp(2 * x).sum(1, keepdim=True), (X,),
            softmax.recognise_softmax, 0, {}, QUIET),
    Rewrite("sum with a constant", lambda x: (e := torch.exp(x)) / (e.sum(1, keepdim=True) + 1), (X,),
            softmax.recognise_softmax, 0, {}, QUIET),
    Rewrite("offset along the dimension", hand(lambda x: x.amax(0)), (SQUARE,), softmax.recognise_softmax, 1, {},
            {**FIRES, "sub.Tensor": 1}),
    Rewrite("offset laid along the dimension", hand(lambda x: x.amax(1, keepdim=True).reshape(1, -1)), (SQUARE,),
            softmax.recognise_softmax, 1, {}, {**FIRES, "sub.Tensor": 1}, DROP),
    Rewrite("offset with a factor", hand(lambda x: 2 * x.amax(1, keepdim=True)), (X,), softmax.recognise_softmax, 1, {},
            {**FIRES, "sub.Tensor": 0}),
]  # fmt: skip


def warm(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics and weights of its own."""
    torch.manual_seed(2)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        if tensor is not None:
            nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


class Twice(nn.Module):
    """A convolution whose output is used beside its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), warm(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Reused(nn.Module):
    """One convolution and one norm, called twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), warm(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(self.conv(x)).relu()))


class Fan(nn.Module):
    """A norm that two convolutions read, of which one pads if asked to."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.norm = warm(nn.BatchNorm2d(4))
        self.one, self.two = nn.Conv2d(4, 3, 3, padding=padding), nn.Conv2d(4, 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x := self.norm(x)).sum((2, 3)) + self.two(x).sum((2, 3))


class Weighted(nn.Module):
    """A convolution whose weight is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = warm(nn.BatchNorm2d(4))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.norm(functional.conv2d(x, w))


def seq(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for layer in layers:
        for parameter in layer.parameters():
            if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(parameter)
    return nn.Sequential(*layers)


PLAIN, LINE, ROW = given(2, 4, 5, 5), given(2, 4, 6), given(5, 4)
NORM, MULTIPLIED = "_native_batch_norm_legit_no_training.default", "activations multiplied"


def bn(features: int = 4, dim: int = 2, **options: Any) -> nn.Module:
    return warm((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1](features, **options))


def folded(name: str, model: nn.Module, *inputs: Tensor, norms: int = 1, alone: int = 0) -> Rewrite:
    """Every norm goes; ``alone`` of them have no linear op to fold into, so that activations are multiplied."""
    return Rewrite(name, model, inputs, batch_norm.fold_batch_norm, norms, {NORM: norms}, {NORM: 0, MULTIPLIED: alone})


BATCH_NORM = [
    folded("conv-bn", seq(nn.Conv2d(4, 3, 3, padding=1, stride=2), bn(3)), PLAIN),
    folded("conv-bn without conv bias", seq(nn.Conv2d(4, 3, 3, bias=False), bn(3)), PLAIN),
    folded("conv-bn without weights", seq(nn.Conv2d(4, 3, 3), bn(3, affine=False)), PLAIN),
    folded("grouped conv-bn", seq(nn.Conv2d(4, 6, 3, groups=2), bn(6)), PLAIN),
    folded("depthwise conv-bn", seq(nn.Conv2d(4, 4, 3, groups=4, bias=False), bn(4)), PLAIN),
    folded("conv1d-bn", seq(nn.Conv1d(4, 3, 3, dilation=2), bn(3, 1)), LINE),
    folded("conv3d-bn", seq(nn.Conv3d(4, 3, 2), bn(3, 3)), given(2, 4, 3, 3, 3)),
    folded("transposed conv-bn", seq(nn.ConvTranspose2d(4, 3, 3, stride=2), bn(3)), PLAIN),
    folded("grouped transposed conv-bn", seq(nn.ConvTranspose2d(4, 6, 3, groups=2), bn(6)), PLAIN),
    folded("linear-bn", seq(nn.Linear(4, 3), bn(3, 1)), ROW),
    folded("linear-bn without bias", seq(nn.Linear(4, 3, bias=False), bn(3, 1)), ROW),
    folded("linear-bn of a sequence", seq(nn.Linear(6, 3), bn(4, 1)), LINE, alone=1),
    folded("bn-conv", seq(bn(), nn.Conv2d(4, 3, 3, stride=2)), PLAIN),
    folded("bn-conv without bias", seq(bn(), nn.Conv2d(4, 3, 3, bias=False)), PLAIN),
    folded("bn-conv with padding", seq(bn(), nn.Conv2d(4, 3, 3, padding=1)), PLAIN, alone=1),
    folded("bn-conv with padding by name", seq(bn(), nn.Conv2d(4, 3, 3, padding="same")), PLAIN, alone=1),
    folded("bn-grouped conv", seq(bn(), nn.Conv2d(4, 4, 3, groups=2)), PLAIN),
    folded("conv-bn-bn", seq(nn.Conv2d(4, 3, 3), bn(3), bn(3)), PLAIN, norms=2),
    folded("bn-conv-bn", seq(bn(), nn.Conv2d(4, 3, 3), bn(3)), PLAIN, norms=2),
    folded("conv with padding by name-bn", seq(nn.Conv2d(4, 3, 3, padding="same"), bn(3)), PLAIN),
    folded("bn-transposed conv", seq(bn(), nn.ConvTranspose2d(4, 3, 3)), PLAIN, alone=1),
    folded("bn-linear", seq(bn(4, 1), nn.Linear(4, 3)), ROW),
    folded("bn-linear without bias", seq(bn(4, 1), nn.Linear(4, 3, bias=False)), ROW),
    folded("bn-linear of a sequence", seq(bn(4, 1), nn.Linear(6, 3)), LINE, alone=1),
    folded("bn-relu-conv", seq(bn(), nn.ReLU(), nn.Conv2d(4, 3, 3)), PLAIN, alone=1),
    folded("conv-bn-conv", seq(nn.Conv2d(4, 4, 3), bn(), nn.Conv2d(4, 3, 2)), PLAIN),
    folded("bn-bn", seq(bn(), bn()), PLAIN, norms=2, alone=2),
    folded("conv used twice", Twice(), PLAIN, alone=1),
    folded("modules called twice", Reused(), PLAIN, norms=2),
    folded("bn read by two convs", Fan(0), PLAIN),
    folded("bn read by two convs of which one pads", Fan(1), PLAIN, alone=1),
    folded("bn of a conv by an input", Weighted(), PLAIN, given(4, 4, 2, 2), alone=1),
]  # fmt: skip

DETACHED = [
    Rewrite(
        "detach",
        lambda x: x.detach() * x,
        (X,),
        identities.drop_identities,
        1,
        {"hold.default": 1},
        {"detach.default": 1},
    ),
    Rewrite("no-grad region", no_grad, (X,), identities.drop_identities, 1, {"hold.default": 1}, {"detach.default": 1}),
]

SHARED = [
    Rewrite("same call twice", lambda x: torch.exp(x) + torch.exp(x), (X,), subexpressions.share_subexpressions, 1,
            {"exp.default": 2}, {"exp.default": 1}),
    Rewrite("same chain twice", lambda x: (x * 2).exp() + (x * 2).exp(), (X,), subexpressions.share_subexpressions, 2,
            {"exp.default": 2, "mul.Tensor": 2}, {"exp.default": 1, "mul.Tensor": 1}),
    Rewrite("other argument", lambda x: x * 2 + x * 3, (X,), subexpressions.share_subexpressions, 0, {}, {"mul.Tensor": 2}),
    Rewrite("a number of another type", lambda x: aten.pow.Tensor_Scalar(x, 1) + aten.pow.Tensor_Scalar(x, 1.0), (X,),
            subexpressions.share_subexpressions, 0, {}, {"pow.Tensor_Scalar": 2}),
    Rewrite("other order", lambda x, y: x - y + (y - x) * 2, (X, X + 1), subexpressions.share_subexpressions, 0, {},
            {"sub.Tensor": 2}),
    Rewrite("random numbers", lambda x: x * 0 * torch.rand_like(x) + x * torch.rand_like(x) * 0, (X,),
            subexpressions.share_subexpressions, 0, {"rand_like.default": 2}, {"rand_like.default": 2}),
]  # fmt: skip

PIECE, CHOICE = aten.slice_backward.default, aten.select_backward.default


def pieces(*ends: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A sum of slices, each padded to the whole."""

    def add(x: Tensor) -> Tensor:
        parts = [PIECE(x[:, a:b] * (a + 2), [3, 4], 1, a, b, 1) for a, b in ends]
        return functools.reduce(torch.add, parts)

    return add


ARITHMETIC = [
    Rewrite("times one", lambda x: (x * 1.0 / 1).exp(), (X,), arithmetic.drop_neutral_arithmetic, 2,
            {"mul.Tensor": 1, "div.Tensor": 1}, {"mul.Tensor": 0, "div.Tensor": 0}),
    Rewrite("plus zero", lambda x: (x + 0).exp() + 1, (X,), arithmetic.drop_neutral_arithmetic, 1, {"add.Tensor": 2},
            {"add.Tensor": 1}),
    Rewrite("times two", lambda x: x * 2 / 3, (X,), arithmetic.drop_neutral_arithmetic, 0, {}, {"mul.Tensor": 1, "div.Tensor": 1}),
    Rewrite("times one in another dtype", lambda x: ((x > 0) * 1.0 * x), (X,), arithmetic.drop_neutral_arithmetic, 0, {},
            {"mul.Tensor": 2}),
]  # fmt: skip

CASES = [*IDENTITIES, *ARITHMETIC, *OUTPUTS, *STRIDES, *PRODUCTS, *SOFTMAX, *BATCH_NORM, *DETACHED, *SHARED]


def activations_multiplied(captured: Captured) -> int:
    """Products of an activation with a constant, which a norm without a linear neighbour leaves."""
    dependent = find_input_dependent(captured.graph)
    return sum(n.target is aten.mul.Tensor and n in dependent for n in captured.graph.nodes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rewrite(case: Rewrite) -> None:
    model = as_model(case.model)
    captured = capture(model, case.inputs, {})
    passes.run_passes(captured.module, case.first)
    before = ops(captured.graph)
    assert {op: before[op] for op in case.before} == dict(case.before)
    check(model, captured, case.inputs, case.apply, case.count)
    after = ops(captured.graph)
    after[MULTIPLIED] = activations_multiplied(captured)
    assert {op: after[op] for op in case.after} == dict(case.after)
    check_canonical(model, captured, case.inputs)


def check_canonical(model: nn.Module, captured: Captured, inputs: tuple[Tensor, ...]) -> None:
    """The canonical form computes the same, and is its own canonical form."""
    passes.run_passes(captured.module, passes.CANONICAL)
    torch.testing.assert_close(runner(captured)(*inputs), model(*inputs), rtol=1e-12, atol=1e-12)
    again = passes.run_passes(captured.module, passes.CANONICAL)
    assert again == dict.fromkeys([name for name, _ in passes.CANONICAL], 0)


# name, function, pass, rewrites, ops after it
TRACED = [
    ("transposed twice", lambda x: aten.t.default(aten.t.default(x)) * 2, arithmetic.drop_neutral_arithmetic, 1, {"t.default": 0}),
    ("view", lambda x: x.view(4, 3).exp().view(12), identities.free_views, 2, {"reshape.default": 2}),
    ("two slices", pieces((0, 3), (3, 4)), arithmetic.join_pieces, 1, {"slice_backward.default": 0, "cat.default": 1}),
    ("out of order", pieces((1, 3), (0, 1), (3, 9)), arithmetic.join_pieces, 1, {"add.Tensor": 0, "cat.default": 1}),
    ("gap", pieces((0, 1), (2, 4)), arithmetic.join_pieces, 0, {"slice_backward.default": 2}),
    ("overlap", pieces((0, 3), (2, 4)), arithmetic.join_pieces, 0, {"slice_backward.default": 2}),
    ("all choices", lambda x: CHOICE(x, [2, 3, 4], 0, 1) + CHOICE(x * 2, [2, 3, 4], 0, 0), arithmetic.join_pieces, 1,
     {"select_backward.default": 0, "stack.default": 1}),
    ("a choice twice", lambda x: CHOICE(x, [2, 3, 4], 0, 1) + CHOICE(x * 2, [2, 3, 4], 0, -1), arithmetic.join_pieces, 0,
     {"select_backward.default": 2}),
    ("slice and choice", lambda x: CHOICE(x[0], [3, 4], 0, 0) + PIECE(x[1:], [3, 4], 0, 1, 3, 1), arithmetic.join_pieces, 0,
     {"select_backward.default": 1, "slice_backward.default": 1}),
    ("rotation", lambda x: torch.func.vjp(lambda y: torch.cat([-y[:, 2:], y[:, :2]], 1), x)[1](x)[0],
     arithmetic.join_pieces, 1, {"slice_backward.default": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function", "apply", "count", "after"), TRACED, ids=[case[0] for case in TRACED])
def test_rewrite_of_a_traced_adjoint(
    name: str, function: Callable[[Tensor], Tensor], apply: Pass, count: int, after: Mapping[str, int]
) -> None:
    module = make_fx(function, tracing_mode="fake")(X)
    assert passes.run_passes(module, [("it", apply)]) == {"it": count}
    found = ops(module.graph)
    assert {op: found[op] for op in after} == dict(after)
    assert torch.equal(module(X), function(X))
    assert passes.run_passes(module, [("it", apply)]) == {"it": 0}


def test_metadata_checks_are_erased() -> None:
    captured = capture(as_model(lambda x: torch.relu(x.to(torch.float32))), (X,), {})
    checks = ops(captured.graph)["_assert_tensor_metadata.default"]
    assert checks > 0
    assert passes.run_passes(captured.module, [("it", identities.erase_assertions)]) == {"it": checks}
    assert passes.run_passes(captured.module, [("it", identities.erase_assertions)]) == {"it": 0}
    assert ops(captured.graph)["_assert_tensor_metadata.default"] == 0


def test_module_outputs_move_with_a_rewrite() -> None:
    captured = capture(seq(nn.Conv2d(4, 3, 3), bn(3), nn.Dropout(), nn.ReLU()).double().eval(), (PLAIN,), {})
    passes.run_passes(captured.module, passes.CANONICAL)
    reads = {str(n.target): sorted(n.meta["reads"]) for n in captured.graph.nodes if n.meta.get("reads")}
    assert reads == {"aten.conv2d.default": ["1", "2"], "aten.relu.default": ["3"]}
    merged = [norm for n in captured.graph.nodes for norm in n.meta.get("merged", ())]
    assert [(norm.name, norm.outputs) for norm in merged] == [("1", ("0",))]


def test_folded_weights_are_constants_of_the_graph() -> None:
    model = seq(nn.Conv2d(4, 3, 3), bn(3)).double().eval()
    captured = capture(model, (PLAIN,), {})
    passes.run_passes(captured.module, passes.CANONICAL)
    with torch.no_grad():
        model[0].weight *= 2
        model[1].running_var *= 3
    torch.testing.assert_close(runner(captured)(PLAIN), model(PLAIN), rtol=1e-12, atol=1e-12)


def graph_of(function: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(function(graph, graph.placeholder("x")))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g, x: g.call_function(aten.add_.Tensor, (x, 1)), "an in-place op survived.*aten.add_.Tensor"),
        (lambda g, x: g.call_method("relu", (x,)), "call_method nodes.*are not supported.*relu"),
    ],
    ids=["in-place", "method"],
)
def test_verify_refuses(make: Callable[[fx.Graph, fx.Node], fx.Node], message: str) -> None:
    with pytest.raises(CaptureError, match=f"(?s){message}") as caught:
        passes.run_passes(graph_of(make), [("verify", verify.verify_graph)])
    assert caught.value.__notes__ == ["while running pass 'verify'"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.bernoulli(x.sigmoid()),
        lambda x: torch.bernoulli(x, 0.5) * x,
        lambda x: torch.normal(x, 1.0),
        lambda x: x + x.new_empty(3, 4).bernoulli_(0.5),
        lambda x: x * torch.multinomial(x.softmax(1), 1),
        lambda x: functional.rrelu(x, training=True),
        lambda x: functional.dropout(x, 0.3, training=True),
        lambda x: functional.dropout2d(x[..., None, None], 0.3, training=True),
        lambda x: functional.alpha_dropout(x, 0.3, training=True),
        lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    ],
    ids=[
        "bernoulli",
        "mask",
        "normal",
        "own mask",
        "multinomial",
        "rrelu",
        "dropout",
        "dropout2d",
        "alpha",
        "attention",
    ],
)
def test_random_numbers_for_the_input_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    what = r"random numbers are drawn for the input|a random mask is drawn"
    with pytest.raises(CaptureError, match=rf"({what}): aten\..*\n.*Call model\.eval\(\)"):
        passes.run_passes(capture(as_model(function), (X,), {}).module, passes.CANONICAL)


@pytest.mark.parametrize(
    "function",
    [lambda x: x + torch.randn_like(x), lambda x: x * torch.rand(4).double(), lambda x: x + torch.randn(3, 4).double()],
    ids=["like the input", "factor", "of a shape"],
)
def test_noise_that_does_not_depend_on_the_input_is_taken(function: Callable[[Tensor], Tensor]) -> None:
    captured = capture(as_model(function), (X,), {})
    passes.run_passes(captured.module, passes.CANONICAL)
    assert sum(name.startswith("rand") for name in ops(captured.graph)) == 1


def test_strides_of_part_of_a_memory_are_refused() -> None:
    captured = capture(as_model(lambda x: torch.as_strided(x[1:], (2, 2), (1, 4), 0) * 2), (X,), {})
    with pytest.raises(CaptureError, match=r"as_strided reads memory that its input does not own: aten\.as_strided"):
        passes.run_passes(captured.module, passes.CANONICAL)


def test_manager_reports_each_pass_and_leaves_no_dead_code() -> None:
    def unused(graph: fx.Graph, x: fx.Node) -> fx.Node:
        graph.call_function(aten.exp.default, (x,))
        return graph.call_function(aten.relu.default, (x,))

    module = graph_of(unused)
    seen: list[tuple[str, int]] = []
    counts = passes.run_passes(
        module,
        [("nothing", lambda graph: 0), ("something", lambda graph: 7)],
        after=lambda name, m: seen.append((name, len(m.graph.nodes))),
    )
    assert counts == {"nothing": 0, "something": 7}
    assert seen == [("nothing", 3), ("something", 3)]


def test_manager_refuses_an_illegal_graph() -> None:
    def break_order(graph: fx.Graph) -> int:
        (x, relu, _) = graph.nodes
        relu.append(x)
        return 1

    module = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)))
    with pytest.raises(RuntimeError, match="used before it has been defined") as caught:
        passes.run_passes(module, [("break the order", break_order)])
    assert caught.value.__notes__ == ["while running pass 'break the order'"]


def test_detachments_go_from_an_emitted_graph() -> None:
    module = graph_of(lambda g, x: g.call_function(aten.exp.default, (g.call_function(aten.detach.default, (x,)),)))
    assert passes.run_passes(module, [("it", identities.drop_detachments)]) == {"it": 1}
    assert ops(module.graph) == {"exp.default": 1}
    assert passes.run_passes(module, [("it", identities.drop_detachments)]) == {"it": 0}
