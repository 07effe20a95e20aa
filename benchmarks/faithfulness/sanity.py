"""Does an explanation hang on what the model learned? It must be another one when every parameter is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from photographs import load_lite
from readers import Reader, read_antibodies, read_noise, read_sentences, read_tweets
from tasks import Task
from torch import Tensor, nn

import fxlrp
from fxlrp.evaluate.correlation import correlate_ranks
from fxlrp.evaluate.randomise import copy_for_changes, draw_all_anew, explain_flat

EVERY = 3
"""One in so many photographs."""
RULES = ("auto", "attnlrp", "gradient", "epsilon_plus", "attnlrp_gamma", "reslrp")
Explained = tuple[nn.Module, Tensor, Any]
"""A model, its inputs and what is explained."""


def explain_twice(explained: Explained, rules: str) -> tuple[Tensor, Tensor]:
    """Explain the model, and a copy in which all parameters are drawn anew (Adebayo et al. 2018)."""
    model, inputs, target = explained
    own, call = copy_for_changes(fxlrp.compile(model, rules=rules, verify="never"), None, target)
    learned = explain_flat(call, (inputs,), {}, target, absolute=False)
    draw_all_anew(own, 0)
    return learned, explain_flat(call, (inputs,), {}, target, absolute=False)


def judge_by_randomising(load: Callable[[], Explained]) -> Task:
    """The score is 1 less the rank correlation of the two explanations, and besides that of their sizes alone."""
    explained = load()

    def score(pair: tuple[Tensor, Tensor]) -> list[float]:
        found: list[float] = (1 - correlate_ranks(*pair)).tolist()
        return found

    methods = {rules: partial(explain_twice, explained, rules) for rules in RULES}
    others = {"of sizes": lambda pair: score((pair[0].abs(), pair[1].abs()))}
    return Task("1 - rank correlation with what random parameters give", score, methods, others)


def take_photographs() -> Explained:
    """Some of the photographs, and the class that is predicted."""
    classifier = load_lite(0)
    return classifier.model, classifier.inputs[::EVERY], classifier.target[::EVERY].tolist()


def take_texts(read: Callable[[], Reader]) -> Explained:
    reader = read()
    return reader.model, reader.ids, reader.target


TASKS: dict[str, Callable[[], Task]] = {
    "efficientnet_lite0_sanity": partial(judge_by_randomising, take_photographs),
    "smollm2_sanity": partial(judge_by_randomising, partial(take_texts, partial(read_sentences, "smollm2"))),
    "minilm_sanity": partial(judge_by_randomising, partial(take_texts, read_tweets)),
    "antiberty_sanity": partial(judge_by_randomising, partial(take_texts, read_antibodies)),
    "smoke_sanity": partial(judge_by_randomising, partial(take_texts, read_noise)),
}
