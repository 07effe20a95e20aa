"""What is explained: every form of target, the choice of the output, and objectives."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from transformers.modeling_outputs import SequenceClassifierOutput

import fxlrp

torch.manual_seed(0)
X = torch.randn(3, 4, dtype=torch.float64)
CLASSIFIER = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double().eval()


class Tagger(nn.Module):
    """A sequence of scores: for each sample (position, class)."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(1, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lift(x[..., None]).tanh().cumsum(1))


TAGGER = Tagger().double().eval()


@pytest.fixture(scope="module")
def classifier() -> fxlrp.Attributor:
    return fxlrp.compile(CLASSIFIER)


@pytest.fixture(scope="module")
def tagger() -> fxlrp.Attributor:
    return fxlrp.compile(TAGGER)


def one_hot(model: nn.Module, *indices: tuple[int, ...]) -> Tensor:
    """A seed that is 1 at one index per sample."""
    seed = torch.zeros_like(model(X)).detach()
    for sample, index in enumerate(indices):
        seed[(sample, *index)] = 1
    return seed


BEST = [(int(i),) for i in CLASSIFIER(X).argmax(1)]
FLAT = [divmod(int(i), 5) for i in TAGGER(X).flatten(1).argmax(1)]
LAST = [(3, int(i)) for i in TAGGER(X)[:, 3].argmax(1)]
FIRST_OF_CLASS = [(int(i), 2) for i in TAGGER(X)[:, :, 2].argmax(1)]

CLASSES = {
    "none": (None, BEST),
    "largest of each sample": ([(None,)] * 3, BEST),
    "int": (2, [(2,)] * 3),
    "negative": (-1, [(4,)] * 3),
    "tuple": ((2,), [(2,)] * 3),
    "list": ([0, 1, 4], [(0,), (1,), (4,)]),
    "negative in a list": ([0, -4, -1], [(0,), (1,), (4,)]),
    "list of tuples": ([(0,), (1,), (4,)], [(0,), (1,), (4,)]),
    "tensor": (torch.tensor([0, 1, 4]), [(0,), (1,), (4,)]),
    "small integers": (torch.tensor([0, 1, 4], dtype=torch.uint8), [(0,), (1,), (4,)]),
    "tensor of one class": (torch.tensor(2), [(2,)] * 3),
    "number of numpy": (np.int64(2), [(2,)] * 3),
    "array": (np.array([0, 1, 4]), [(0,), (1,), (4,)]),
    "numbers of numpy in a list": ([np.int32(0), np.uint8(1), 4], [(0,), (1,), (4,)]),
    "range": (range(1, 4), [(1,), (2,), (3,)]),
    "column": (torch.tensor([[0], [1], [4]]), [(0,), (1,), (4,)]),
}
POSITIONS = {
    "none": (None, FLAT),
    "tuple": ((1, 2), [(1, 2)] * 3),
    "negative": ((-1, -2), [(3, 3)] * 3),
    "list of tuples": ([(0, 1), (1, 2), (3, 4)], [(0, 1), (1, 2), (3, 4)]),
    "list of lists": ([[0, 1], [1, 2], [3, 4]], [(0, 1), (1, 2), (3, 4)]),
    "tensor": (torch.tensor([[0, 1], [1, 2], [3, 4]]), [(0, 1), (1, 2), (3, 4)]),
    "largest class of the last position": ((-1, None), LAST),
    "largest position of a class": ((None, 2), FIRST_OF_CLASS),
    "largest of each sample": ([(None, None)] * 3, FLAT),
    "largest, other positions": ([(3, None), (-1, None), (3, None)], LAST),
}


@pytest.mark.parametrize("name", CLASSES)
def test_class_targets_equal_their_seed(classifier: fxlrp.Attributor, name: str) -> None:
    target, indices = CLASSES[name]
    found = classifier(X, target=target).relevance
    expected = classifier(X, target=one_hot(CLASSIFIER, *indices)).relevance
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("name", POSITIONS)
def test_index_targets_equal_their_seed(tagger: fxlrp.Attributor, name: str) -> None:
    target, indices = POSITIONS[name]
    found = tagger(X, target=target).relevance
    expected = tagger(X, target=one_hot(TAGGER, *indices)).relevance
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.abs().max() > 1e-3


def test_targets_of_one_form_share_a_program(classifier: fxlrp.Attributor) -> None:
    classifier(X, target=0)
    program = classifier.program
    for target in (1, -1, [0, 1, 2], torch.tensor([3, 3, 1]), (2,)):
        classifier(X, target=target)
        assert classifier.program is program
    classifier(X)
    assert classifier.program is not program


@pytest.mark.parametrize(
    ("wanted", "other"),
    [(1, 3), ([0, 1, 2], 4), (torch.tensor([0, 1, 2]), [4, 3, 0]), ((None,), 0), (None, 1)],
    ids=["classes", "list and class", "tensor and list", "largest and class", "none and class"],
)
def test_contrast_is_a_difference(classifier: fxlrp.Attributor, wanted: Any, other: Any) -> None:
    found = classifier(X, target=fxlrp.contrast(wanted, other)).relevance
    one, two = (classifier(X, target=t).relevance for t in (wanted, other))
    torch.testing.assert_close(found, one - two, rtol=1e-12, atol=1e-12)


def test_contrast_of_positions(tagger: fxlrp.Attributor) -> None:
    found = tagger(X, target=fxlrp.contrast((-1, 2), (-1, None))).relevance
    one, two = (tagger(X, target=t).relevance for t in ((-1, 2), (-1, None)))
    torch.testing.assert_close(found, one - two, rtol=1e-12, atol=1e-12)


def test_contrast_of_contrasts(classifier: fxlrp.Attributor) -> None:
    found = classifier(X, target=fxlrp.contrast(fxlrp.contrast(0, 1), fxlrp.contrast(2, 3))).relevance
    parts = [classifier(X, target=t).relevance for t in range(4)]
    torch.testing.assert_close(found, parts[0] - parts[1] - parts[2] + parts[3], rtol=1e-12, atol=1e-12)


def test_relevance_is_linear_in_the_seed(classifier: fxlrp.Attributor) -> None:
    one, two = torch.randn(2, 3, 5, dtype=torch.float64)
    a, b, both = (classifier(X, target=seed).relevance for seed in (one, two, 2 * one - 3 * two))
    torch.testing.assert_close(both, 2 * a - 3 * b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_seed_of_another_precision(classifier: fxlrp.Attributor, dtype: torch.dtype) -> None:
    found = classifier(X, target=one_hot(CLASSIFIER, (1,), (1,), (1,)).to(dtype)).relevance
    torch.testing.assert_close(found, classifier(X, target=1).relevance, rtol=1e-12, atol=1e-12)


def test_seed_of_a_model_in_half_precision() -> None:
    """Relevance is computed in float32 there, and so is the seed."""
    model = nn.Linear(4, 5).bfloat16().eval()
    seed = torch.linspace(0.1, 0.9, 15).reshape(3, 5)
    found = fxlrp.compile(model)(X.bfloat16(), target=seed).relevance
    torch.testing.assert_close(found, X.bfloat16().float() * (seed @ model.weight.float()), rtol=1e-5, atol=1e-6)


def test_samples_are_independent(tagger: fxlrp.Attributor) -> None:
    targets: list[Any] = [(0, None), (1, None), (2, None)]
    together = tagger(X, target=targets).relevance
    single = [tagger(X[i : i + 1], target=[targets[i]]).relevance for i in range(3)]
    torch.testing.assert_close(together, torch.cat(single), rtol=1e-12, atol=1e-12)


class Reduced(nn.Module):
    """One number per sample, or one in all."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return (x * x).sum(self.dims) if self.dims else (x * x).sum()


@pytest.mark.parametrize("target", [None, (), [()] * 3])
def test_one_number_per_sample(target: Any) -> None:
    found = fxlrp.compile(Reduced(1).eval())(X, target=target).relevance
    torch.testing.assert_close(found, X * X, rtol=1e-12, atol=1e-12)


def test_one_number() -> None:
    attributor = fxlrp.compile(Reduced().eval())
    result = attributor(X)
    torch.testing.assert_close(result.relevance, X * X, rtol=1e-12, atol=1e-12)
    assert result.output.shape == ()


# which output


Pair = namedtuple("Pair", ["embedding", "scores"])


@dataclass
class Scores:
    embedding: Tensor
    scores: Tensor
    nothing: None = None


_pytree.register_dataclass(Scores)


class Outputs(nn.Module):
    """Returns an embedding and scores in some container."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(CLASSIFIER[1](CLASSIFIER[0](x)), CLASSIFIER(x))


def huggingface(embedding: Tensor, scores: Tensor) -> Any:
    return SequenceClassifierOutput(logits=scores, hidden_states=(embedding,))


SECOND = {
    "tuple by index": (lambda e, s: (e, s), 1),
    "list by negative index": (lambda e, s: [e, s], -1),
    "dictionary by name": (lambda e, s: {"embedding": e, "scores": s}, "scores"),
    "dictionary with logits": (lambda e, s: {"embedding": e, "logits": s}, None),
    "named tuple by name": (Pair, "scores"),
    "named tuple by index": (Pair, 1),
    "dataclass": (Scores, "scores"),
    "logits of a library": (huggingface, None),
    "logits of a library by name": (huggingface, "logits"),
    "logits of a library by function": (huggingface, lambda out: out.logits),
    "first floating tensor": (lambda e, s: (s.argmax(1), s, e), None),
    "nested, by function": (lambda e, s: {"a": [e, {"b": s}]}, lambda out: out["a"][1]["b"]),
    "computed": (lambda e, s: (e, s), lambda out: out[1] * 2 - out[1]),
}


@pytest.mark.parametrize("name", SECOND)
def test_output_is_found(classifier: fxlrp.Attributor, name: str) -> None:
    pack, output = SECOND[name]
    result = fxlrp.compile(Outputs(pack).eval(), output=output)(X, target=2)
    expected = classifier(X, target=2).relevance
    torch.testing.assert_close(result.relevance, expected, rtol=1e-12, atol=1e-12)
    own = Outputs(pack)(X)
    assert type(result.output) is type(own)
    torch.testing.assert_close(_pytree.tree_leaves(result.output), _pytree.tree_leaves(own), rtol=1e-12, atol=1e-12)


def test_other_outputs_come_along() -> None:
    result = fxlrp.compile(Outputs(huggingface).eval())(X)
    torch.testing.assert_close(result.output.logits, CLASSIFIER(X), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.output.hidden_states[0], CLASSIFIER[:2](X), rtol=1e-12, atol=1e-12)


@dataclass
class Unregistered:
    embedding: Tensor
    scores: Tensor
    cache: object


def test_dataclass_that_torch_does_not_know(classifier: fxlrp.Attributor) -> None:
    model = Outputs(lambda e, s: Unregistered(e, s, object())).eval()
    result = fxlrp.compile(model, output="scores")(X, target=2)
    torch.testing.assert_close(result.relevance, classifier(X, target=2).relevance, rtol=1e-12, atol=1e-12)
    assert sorted(result.output) == ["cache", "embedding", "scores"]
    torch.testing.assert_close(result.output["scores"], CLASSIFIER(X), rtol=1e-12, atol=1e-12)


# objectives


def difference(y: Tensor) -> Tensor:
    return y[:, 1] - y[:, 3]


def test_objective_is_part_of_the_program(classifier: fxlrp.Attributor) -> None:
    result = fxlrp.compile(CLASSIFIER, objective=difference)(X)
    expected = classifier(X, target=fxlrp.contrast(1, 3)).relevance
    torch.testing.assert_close(result.relevance, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.output, CLASSIFIER(X), rtol=1e-12, atol=1e-12)


def test_objective_with_a_constant() -> None:
    reference = torch.randn(5, dtype=torch.float64)

    def cosine(y: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(y, reference[None])

    found = fxlrp.compile(CLASSIFIER, objective=cosine, rules="gradient")(X).relevance
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cosine(CLASSIFIER(x)).sum(), x)
    torch.testing.assert_close(found, X * gradient, rtol=1e-11, atol=1e-11)


def test_cosine_of_a_bias_free_model_is_conserved() -> None:
    """With the norms held fixed a cosine is linear in either embedding."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)).double().eval()
    reference = torch.randn(5, dtype=torch.float64)

    def cosine(y: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(y, reference[None])

    found = fxlrp.compile(model, objective=cosine)(X).relevance
    torch.testing.assert_close(found.sum(1), cosine(model(X)), rtol=1e-10, atol=1e-10)


def test_objective_applies_to_the_chosen_output() -> None:
    found = fxlrp.compile(Outputs(Pair).eval(), output="scores", objective=difference)(X).relevance
    expected = fxlrp.compile(CLASSIFIER, objective=difference)(X).relevance
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# errors


ERRORS = {
    "too large": (5, "target 5: index 5 is out of range for dimension 1 of the output, of size 5"),
    "too small": (-6, "target -6: index -6 is out of range for dimension 1 of the output, of size 5"),
    "too large in a list": ([0, 9, 0], "target 9: index 9 is out of range"),
    "too many indices": ((1, 2), r"target \(1, 2\) has 2 indices, but each sample's output has shape \(5,\): give 1"),
    "too few targets": ([1, 2], "2 targets for a batch of 3 samples: give one per sample"),
    "too many targets": (torch.tensor([1, 2, 3, 4]), "4 targets for a batch of 3 samples"),
    "truth value": (True, "a target is a class index, not a truth value"),
    "truth values": (torch.tensor([True, False, True]), "a target is a class index, not a truth value"),
    "truth value in a list": ([True, 1, 2], "indices are whole numbers or None, not True"),
    "fraction": (1.5, r"target=1.5 is none of: None, a class, .*fxlrp.contrast\(a, b\)"),
    "fraction in a list": ([1.5, 1, 2], "target 1.5: indices are whole numbers or None, not 1.5"),
    "text": ("cat", "target='cat' is none of: None, a class"),
    "names": (["cat", "dog", "cow"], "target 'cat': indices are whole numbers or None, not 'cat'"),
    "dictionary": ({"class": 1}, "is none of: None, a class"),
    "seed of another shape": (
        torch.ones(3),
        r"a seed has the shape of the output, \(3, 5\), not \(3,\).*For one class per sample give integers",
    ),
    "infinite seed": (torch.full((3, 5), torch.inf), "the seed has entries that are not finite"),
    "seed in a contrast": (fxlrp.contrast(torch.ones(3, 5), 1), "contrast.. takes classes or index tuples"),
    "none here and there": ([(None,), 1, 2], r"None .* must be in the same place of every sample's index"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_target_errors(classifier: fxlrp.Attributor, name: str) -> None:
    target, message = ERRORS[name]
    with pytest.raises(fxlrp.TargetError, match=f"(?s){message}"):
        classifier(X, target=target)


def test_class_for_a_sequence_of_scores(tagger: fxlrp.Attributor) -> None:
    with pytest.raises(
        fxlrp.TargetError, match=r"target 1 has 1 indices.*\(4, 5\).*give \(position, token\); \(-1, None\)"
    ):
        tagger(X, target=1)


def test_an_error_leaves_the_attributor_usable(classifier: fxlrp.Attributor) -> None:
    before = classifier(X, target=1).relevance
    with pytest.raises(fxlrp.TargetError):
        classifier(X, target=17)
    torch.testing.assert_close(classifier(X, target=1).relevance, before, rtol=0, atol=0)
