"""What is written at the pictures."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.vision.captions import describe_targets

X = torch.eye(2, 3)
SCORES = torch.tensor([[1.0, 5.0, -2.0, 3.0], [0.25, 0.5, 7.5, -1.0]])
NAMES = ["cat", "dog", "cup", "sky"]


def linear() -> nn.Linear:
    """The sample ``n`` has the outputs ``SCORES[n]``."""
    model = nn.Linear(3, 4, bias=False)
    model.weight.data = torch.cat([SCORES, torch.zeros(1, 4)]).T.contiguous()
    return model.eval()


ATTRIBUTOR = fxlrp.compile(linear(), rules="gradient")


@pytest.mark.parametrize(
    ("asked", "classes", "texts"),
    [
        ({}, None, [["class 1 5", "class 2 7.5"]]),
        ({}, NAMES, [["dog 5", "cup 7.5"]]),
        ({}, {2: "cup"}, [["class 1 5", "cup 7.5"]]),
        ({"target": [0, -1]}, NAMES, [["cat 1", "sky -1"]]),
        ({"target": fxlrp.contrast(1, 3)}, NAMES, [["dog - sky 2", "dog - sky 1.5"]]),
        ({"target": torch.ones(2, 4)}, NAMES, [["7", "7.25"]]),
        ({"targets": [0, [1, 2]]}, NAMES, [["cat 1", "cat 0.25"], ["dog 5", "cup 7.5"]]),
        ({"target": 3, "keep": {"linear": torch.ones(2, 4)}}, NAMES, [["sky", "sky"]]),
        ({"inject": {"linear": torch.ones(2, 4)}}, NAMES, []),
    ],
    ids=["largest", "names", "some names", "chosen", "contrast", "seed", "several", "masked", "injected"],
)
def test_targets_and_scores_are_written(asked: dict[str, Any], classes: Any, texts: list[list[str]]) -> None:
    assert describe_targets(ATTRIBUTOR(X, **asked), classes) == texts


def test_a_pickled_result_still_has_its_scores() -> None:
    assert describe_targets(pickle.loads(pickle.dumps(ATTRIBUTOR(X)))) == [["5", "7.5"]]


def test_a_result_of_no_question_has_none() -> None:
    assert describe_targets(dataclasses.replace(ATTRIBUTOR(X), question=None)) == []


class Shaped(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.inner, self.shape = linear(), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(2, *self.shape) if self.shape else self.inner(x)[:, 1]


@pytest.mark.parametrize(
    ("shape", "texts"),
    [((2, 2), ["entry (0, 1) 5", "entry (1, 0) 7.5"]), ((), ["5", "0.5"])],
    ids=["tables", "numbers"],
)
def test_outputs_of_other_shapes(shape: tuple[int, ...], texts: list[str]) -> None:
    assert describe_targets(fxlrp.compile(Shaped(*shape).eval(), rules="gradient")(X), NAMES) == [texts]


def test_too_few_names_are_refused() -> None:
    with pytest.raises(fxlrp.SignatureError, match="classes has 2 names, and class 2 is explained"):
        describe_targets(ATTRIBUTOR(X), NAMES[:2])
