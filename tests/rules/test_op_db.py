"""Torch's own catalogue of ops: the gradient oracle, and a deliberate rule for everything that can be captured."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import pytest
from op_db import ENTRIES, Call, Calls, samples, verdicts

import fxlrp
from fxlrp.errors import SignatureError

pytestmark = pytest.mark.slow

SIZE = 12
"""Entries that are captured together."""

SILENT = (
    "ceil",
    "div floor_rounding",
    "div trunc_rounding",
    "fill",
    "floor",
    "round",
    "round decimals_0",
    "round decimals_3",
    "round decimals_neg_3",
    "sgn",
    "sign",
    "trunc",
    "zero_",
)
"""Their derivative is 0 everywhere, so that an error says that no path leads to the output."""

DATA = "refused: .*([Dd]ata-?[Dd]ependent|DynamicOutputShape|UnbackedSymbol)"
RANDOM = "refused: (a random mask|random numbers)"
EXCEPTIONS = {
    "bernoulli": (RANDOM, "a random number depends on the input"),
    "corrcoef": (DATA, "compares weights with each other, and torch.export does not branch on values"),
    "cov": (DATA, "compares weights with each other, and torch.export does not branch on values"),
    "linalg.lstsq": (DATA, "the shape of the residuals depends on the rank of the matrix"),
    "linalg.lstsq grad_oriented": (DATA, "the shape of the residuals depends on the rank of the matrix"),
    "masked_select": (
        "RuntimeError: Runtime assertion failed",
        "torch.export bounds the number of selected entries by the size of the input before it is broadcast",
    ),
    "nn.functional.ctc_loss": (DATA, "the lengths are read from tensors"),
    "nn.functional.gaussian_nll_loss": (DATA, "branches on whether a variance is negative"),
    "nn.functional.linear_cross_entropy chunked": (
        "MissingRules: torch_nn",
        "an op of torch, to train with, whose forward pass computes the gradients that were asked for at its export",
    ),
    "nn.functional.linear_cross_entropy chunked_none": (
        "MissingRules: torch_nn",
        "an op of torch, to train with, that computes a loss in pieces",
    ),
    "nn.functional.multi_head_attention_forward": (RANDOM, "its one sample drops attention weights at random"),
    "normal": (RANDOM, "a random number depends on the input"),
    "normal number_mean": (RANDOM, "a random number depends on the input"),
    "sparse.mm reduce": ("refused: .*sparse csr layout", "a sparse tensor"),
    "sparse.sampled_addmm": ("refused: .*sparse csr layout", "a sparse tensor"),
    "to_sparse": ("refused: .*sparse .* layout", "a sparse tensor"),
}
"""Entries that do not pass: what happens to some or all of their samples, and why."""
PARTLY = {
    "as_strided partial_views": ("no reference: .*out of bounds", "a sample reads memory that its input does not own"),
    "combinations": (DATA, "torch.export loses the number of combinations of two and more"),
    "narrow": (DATA, "torch.export loses a start that is a tensor"),
    "tensor_split": (DATA, "torch.export needs the number of sections, which is in a tensor"),
    **dict.fromkeys(
        (
            "nn.functional.alpha_dropout",
            "nn.functional.dropout",
            "nn.functional.dropout2d",
            "nn.functional.dropout3d",
            "nn.functional.feature_alpha_dropout with_train",
            "nn.functional.rrelu",
            "nn.functional.scaled_dot_product_attention",
        ),
        (RANDOM, "samples in training mode are random"),
    ),
}
"""Entries that pass, of which some samples are outside of what can be explained."""
OFTEN = 6
"""Samples that are tried of an exception."""
GOOD = ("passes", "constant")


def few(name: str) -> list[Call]:
    """The last sample of an entry, which is the least plain; two more where some cannot pass."""
    calls = samples(name)
    return [calls[0], calls[len(calls) // 2], calls[-1]] if name in PARTLY else calls[-1:]


def is_good(name: str, verdict: str) -> bool:
    """Whether a sample passes, or is one of those that cannot."""
    return verdict in GOOD or (name in PARTLY and re.match(PARTLY[name][0], verdict) is not None)


def chunks() -> list[list[str]]:
    """The entries in order, some at a time."""
    names = [name for name in ENTRIES if name not in EXCEPTIONS and name not in SILENT]
    return [names[start : start + SIZE] for start in range(0, len(names), SIZE)]


@pytest.fixture(autouse=True)
def _torch_warns() -> Iterator[None]:
    """Torch warns of how its own samples use the ops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize("names", chunks(), ids=lambda names: names[0])
def test_ops_pass_the_gradient_oracle_and_compile_strictly(names: list[str]) -> None:
    calls = [(name, call) for name in names for call in few(name)]
    found = list(zip([name for name, _ in calls], verdicts([call for _, call in calls]), strict=True))
    assert [(name, verdict) for name, verdict in found if not is_good(name, verdict)] == []
    assert {name for name, verdict in found if verdict == "passes"} == set(names)


@pytest.mark.parametrize("name", SILENT)
def test_silent_ops_say_so(name: str) -> None:
    call = samples(name)[0]
    assert verdicts([call]) == ["silent"]
    with pytest.raises(SignatureError, match="no differentiable path leads from an input to the explained output"):
        fxlrp.compile(Calls([call]))(*call.inputs())


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_still_needed(name: str) -> None:
    expected, reason = EXCEPTIONS[name]
    found = verdicts(samples(name)[:OFTEN])
    others = [v for v in found if not re.match(expected, v)]
    assert len(others) < len(found), f"{name} passes now; it was an exception because {reason}"
    assert set(others) <= set(GOOD)


def test_at_least_520_of_540_entries_have_no_exception() -> None:
    assert len(ENTRIES) == 540
    assert set(EXCEPTIONS) | set(SILENT) <= set(ENTRIES)
    assert len(ENTRIES) - len(EXCEPTIONS) >= 520
