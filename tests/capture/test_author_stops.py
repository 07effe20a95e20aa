"""Where the author of a model stopped gradients, relevance stops: ``gradient`` is autograd's input x gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxlrp
from fxlrp.capture.witness import watch_gradients

torch.manual_seed(0)
X = torch.randn(2, 5, 8, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# Ways to stop a gradient: each is handed a function and a tensor.


def detach(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return f(x).detach()


def detach_(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return (f(x) * 1).detach_()


def data(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return f(x).data


def no_grad(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return f(x) * 1


def inference(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = f(x) * 1
    return y.clone()  # autograd cannot save what inference mode made


def decorated(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    @torch.no_grad()
    def stopped(x: Tensor) -> Tensor:
        return f(x) * 1

    return stopped(x)


def switched(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = f(x) * 1
    torch.set_grad_enabled(True)
    return y


def made_and_written(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        y = f(x) * 1
        y[:, 0] = 2
        y.mul_(x)
    return y


def view(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    with torch.no_grad():
        y = h[:, 1:2]
    return h + y


def parts(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        a, b = (f(x) * 1).chunk(2, -1)
        best, _ = f(x).max(1, keepdim=True)
    return torch.cat([b, a], -1) * best


def again(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        y = f(x) * 1
        with torch.enable_grad():
            z = x * y
        y = y + z
    return y + z


# Writes without a gradient, which change values and let the gradient pass.


def zeroed(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    with torch.no_grad():
        h[:, 0] = 0
    return h * x


def clamped(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    with torch.inference_mode():
        h.clamp_(-0.5, 0.5)
    return h * x


def through_a_view(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    v = h[:, 1]
    with torch.no_grad():
        v.mul_(3)
    return h * x


def through_a_detached(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    d = h.detach()
    d[:, 0] = 3
    return h + d * x


def masked(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    with torch.no_grad():
        h.masked_fill_(h < 0, -torch.inf)
    return h.softmax(-1)


def the_same_tensor(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h = f(x) * 1
    with torch.no_grad():  # neither makes another tensor, so that the gradient goes on
        same = nn.functional.dropout(h.contiguous().to(h.dtype), training=False)
    return h * same


STOPS = (
    detach, detach_, data, no_grad, inference, decorated, switched, made_and_written, view, parts, again,
    zeroed, clamped, through_a_view, through_a_detached, masked, the_same_tensor,
)  # fmt: skip

# Models that stop somewhere.


class Plain(nn.Module):
    def __init__(self, stop: Callable[..., Tensor]) -> None:
        super().__init__()
        self.stop = stop
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stop(lambda x: self.linear(x).tanh(), x)
        return self.head((y + x * x).mean(1))


class Casting(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class Nested(Plain):
    def __init__(self, stop: Callable[..., Tensor]) -> None:
        super().__init__(stop)
        self.inner = Casting(stop)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            scale = self.inner(x)
            with torch.enable_grad():
                y = self.inner(x * 2)
        return super().forward(x) * scale + y * checkpoint(self.inner, x, use_reentrant=False)


def product(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    (g,) = torch.autograd.grad(y[:, 1].sum(), x)
    return y.detach(), x.detach() * g


@pytest.mark.parametrize(
    "stop",
    leave_to_slow(STOPS, but={detach, detach_, data, no_grad, inference, through_a_view, made_and_written}),
    ids=lambda f: f.__name__,
)
def test_a_module(stop: Any) -> None:
    torch.manual_seed(1)
    own = Nested(stop).double().eval()
    output, expected = product(own, X)
    result = fxlrp.compile(own, rules="gradient")(X, target=1)
    close(result.output, output)
    close(result.relevance, expected)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [stop for stop in STOPS if stop is not data], ids=lambda f: f.__name__)
def test_an_exported_program(stop: Any) -> None:
    """What counts is the program, which may have lost stops of its model; it is not changed."""
    torch.manual_seed(1)
    exported = torch.export.export(Plain(stop).double().eval(), (X,))
    before = shown(exported)
    output, expected = product(exported.module(), X)
    result = fxlrp.compile(exported, rules="gradient")(X, target=1)
    close(result.output, output)
    close(result.relevance, expected)
    assert shown(exported) == before
    close(exported.module()(X), output)


def shown(exported: torch.export.ExportedProgram) -> tuple[str, ...]:
    parts = [str(m.graph) for m in exported.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    return (*parts, str(exported.graph_signature))


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon_plus"])
def test_relevance_stops_too(rules: str) -> None:
    """A model whose stops are written with detach only is the same model."""

    def by_hand(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        h = f(x) * 1
        return (h.clamp(-0.5, 0.5).detach() + h - h.detach()) * x

    found = []
    for stop in (clamped, by_hand):
        torch.manual_seed(1)
        found.append(fxlrp.compile(Plain(stop).double().eval(), rules=rules)(X, target=1).relevance)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)  # by hand, sums have a stabiliser


# functions with a backward pass of their own


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone()


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:
        return x * (scale * x).sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        s = (ctx.scale * x).sigmoid()
        return g * s * (1 + ctx.scale * x * (1 - s)), None


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clamp(-1, 1)


def applied(function: Any, *more: Any) -> Callable[..., Tensor]:
    return lambda f, x: function.apply(f(x) * 3, *more) * x


HONOURED = {
    "straight through": applied(Straight),
    "cut": applied(Cut),
    "the derivative": applied(Swish, 1.5),
    "recomputed": lambda f, x: checkpoint(f, x, use_reentrant=True),
}


@pytest.mark.parametrize("name", HONOURED)
def test_a_backward_pass_that_is_honoured(name: str) -> None:
    torch.manual_seed(1)
    own = Plain(HONOURED[name]).double().eval()
    x = X.clone().requires_grad_()
    own(x)[:, 1].sum().backward()
    close(fxlrp.compile(own, rules="gradient")(X, target=1).relevance, X * x.grad)


@pytest.mark.parametrize("function", [Reversed, Clipped], ids=lambda f: f.__name__)
def test_a_backward_pass_that_is_not_honoured_is_named(function: Any) -> None:
    def stop(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function.apply(function.apply(f(x))) * 1

    before = torch.autograd.Function.__dict__["apply"]
    with pytest.warns(UserWarning, match="a backward pass of its own") as warned:
        fxlrp.compile(Plain(stop).double().eval())(X, target=1)
    (text,) = (str(w.message) for w in warned)
    assert f"{function.__name__} has a backward pass of its own" in text
    assert "test_author_stops.py:" in text
    assert "return function.apply(function.apply(f(x))) * 1" in text
    assert torch.autograd.Function.__dict__["apply"] is before


def test_other_threads_do_not_notice() -> None:
    """A function that another thread applies while a model is captured is its own business."""
    with warnings.catch_warnings(), watch_gradients():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(1) as pool:
            x = torch.ones(2, requires_grad=True)
            pool.submit(lambda: Clipped.apply(x).mul(5).sum().backward()).result()
    assert x.grad.tolist() == [1, 1]


def test_random_masks_in_regions_are_refused() -> None:
    def stop(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            return nn.functional.dropout(f(x), 0.5, training=True)

    for kind in (Plain, Casting):
        with pytest.raises(fxlrp.CaptureError, match=r"(?s)a random mask is drawn: aten.dropout.*model.eval"):
            fxlrp.compile(kind(stop).double().eval())(X)
