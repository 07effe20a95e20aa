"""Tensors that are no plain arrays are refused by name, with what to do about them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.capture.unsupported import find_remedy
from fxlrp.errors import CaptureError, SignatureError

X = torch.eye(3) + 1


def quantised(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


def nested(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(x), layout=torch.jagged)


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sparse": (Tensor.to_sparse, r"is a tensor of sparse coo layout; make it dense first, x\.to_dense\(\)"),
    "compressed": (Tensor.to_sparse_csr, r"is a tensor of sparse csr layout; make it dense first, x\.to_dense\(\)"),
    "quantised": (quantised, r"is quantised \(torch\.qint8\); explain the floating point version, x\.dequantize\(\)"),
    "nested": (nested, r"is a nested tensor; pad it first, torch\.nested\.to_padded_tensor"),
}
every = pytest.mark.parametrize("layout", LAYOUTS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning"),
]


class Twice(nn.Module):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return 2 * x if scale is None else x * scale


class Holder(nn.Module):
    """A module with a tensor as a buffer or a parameter."""

    def __init__(self, tensor: Tensor, parameter: bool) -> None:
        super().__init__()
        self.inner = nn.Module()
        if parameter:
            self.inner.table = nn.Parameter(tensor, requires_grad=False)
        else:
            self.inner.register_buffer("table", tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner.table


@every
def test_an_input_is_refused(layout: str) -> None:
    make, text = LAYOUTS[layout]
    with pytest.raises(SignatureError, match=rf"^input args\[0\] {text}"):
        fxlrp.compile(Twice().eval())(make(X))


@every
def test_an_input_by_name_is_refused(layout: str) -> None:
    make, text = LAYOUTS[layout]
    with pytest.raises(SignatureError, match=rf"^input kwargs\['scale'\] {text}"):
        fxlrp.compile(Twice().eval())(X, scale=make(X))


def test_an_input_is_refused_by_a_program_for_plain_ones() -> None:
    attributor = fxlrp.compile(Twice().eval())
    before = attributor(X, target=0).relevance
    with pytest.raises(SignatureError, match="sparse coo layout"):
        attributor(X.to_sparse(), target=0)
    assert torch.equal(attributor(X, target=0).relevance, before)


def test_an_input_of_an_exported_program_is_refused() -> None:
    exported = torch.export.export(Twice().eval(), (X,))
    with pytest.raises(SignatureError, match="sparse coo layout"):
        fxlrp.compile(exported)(X.to_sparse())


@every
@pytest.mark.parametrize("parameter", [False, True], ids=["buffer", "parameter"])
def test_a_tensor_of_the_model_is_refused(layout: str, parameter: bool) -> None:
    make, text = LAYOUTS[layout]
    with pytest.raises(CaptureError, match=rf"^Holder\.inner\.table {text}"):
        fxlrp.compile(Holder(make(X), parameter).eval())(X)


def test_a_tensor_inside_the_model_is_refused_with_its_line() -> None:
    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to_sparse().to_dense()

    with pytest.raises(CaptureError) as raised:
        fxlrp.compile(Inside().eval())(X)
    assert re.search(r"aten\.to_sparse.* return x\.to_sparse\(\)\.to_dense\(\)", str(raised.value))
    assert "sparse coo layout; make it dense first" in str(raised.value)


@pytest.mark.parametrize("tensor", [X, X.int(), X.half(), X.to(torch.complex64), X[::2].t(), torch.empty(0)])
def test_plain_tensors_are_plain(tensor: Tensor) -> None:
    assert find_remedy(tensor) == ""


def test_other_things_are_no_tensors() -> None:
    assert [find_remedy(thing) for thing in (None, 3, "x", [X])] == [""] * 4
