"""What is written at the pictures: which numbers of a model's output are explained, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fxlrp.errors import SignatureError
from fxlrp.session.doubts import Question, list_entries
from fxlrp.session.result import Result
from fxlrp.session.signature import plain_mode

Classes = Sequence[str] | Mapping[int, str]
"""Names of classes by their number."""


def describe_targets(result: Result, classes: Classes | None = None) -> list[list[str]]:
    """Write target and score of each sample, for each of several targets.

    Args:
        result: What an attributor returned.
        classes: Names of the classes; those that have none are numbered.

    Returns:
        For each target, a text per sample. Empty where that is not known: relevance starts inside the model, or
        belongs to several questions.
    """
    names = name_targets(result, classes)
    if result.explained is None:
        return names
    scores = result.explained.detach().cpu()
    rows = (scores if scores.ndim == 2 else scores[None]).tolist()
    names = names or [[""] * len(row) for row in rows]
    return [
        [f"{name} {score:.3g}".strip() for name, score in zip(texts, row, strict=True)]
        for texts, row in zip(names, rows, strict=True)
    ]


def name_targets(result: Result, classes: Classes | None) -> list[list[str]]:
    """Write the target of each sample, for each of several targets; nothing if it is not known."""
    question = result.question
    if question is None or question.form.starts:
        return []
    with plain_mode():
        y = question.choose(result.output)
        if not question.form.weights or y.ndim < 2:
            return []
        single = [question]
        if question.several:
            single = [replace(question, numbers=n, several=False) for n in zip(*question.numbers, strict=True)]
        entries = [list(zip(*list_entries(one, y), strict=True)) for one in single]
    return [[name_entry(question, terms, classes) for terms in samples] for samples in entries]


def name_entry(question: Question, terms: Sequence[tuple[int, ...]], classes: Classes | None) -> str:
    """Write the entries that a target weighs, such as ``daisy`` or ``class 3 - class 5``."""
    named = [name_class(index, classes) for index in terms]
    signs = ["" if i == 0 else " + " if w > 0 else " - " for i, w in enumerate(question.form.weights)]
    return "".join(sign + name for sign, name in zip(signs, named, strict=True))


def name_class(index: tuple[int, ...], classes: Classes | None) -> str:
    """Write the name of an entry of a sample's output.

    Raises:
        SignatureError: If names are given as a list that is too short.
    """
    if len(index) > 1:
        return f"entry {index}"
    (number,) = index
    if classes is None or (isinstance(classes, Mapping) and number not in classes):
        return f"class {number}"
    if not isinstance(classes, Mapping) and number >= len(classes):
        raise SignatureError(f"classes has {len(classes)} names, and class {number} is explained: give a name for each")
    return classes[number]
