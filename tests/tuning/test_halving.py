"""Successive halving without models: which candidates are measured on which samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import t as student

from fxlrp.rules import PRESETS
from fxlrp.tuning.halving import LEAST, Trial, choose_first, count_kept, halve, list_rungs
from fxlrp.tuning.intervals import compare_scores, find_quantile

RULES = PRESETS["attnlrp"]


class Scale:
    """Gives each candidate the same number on every sample, and writes down what was asked."""

    def __init__(self, numbers: dict[str, float], dropped: dict[str, int] | None = None) -> None:
        self.numbers, self.dropped = numbers, dropped or {}
        self.asked: list[tuple[int, int, tuple[str, ...]]] = []

    def begin(self, trials: Sequence[Trial], start: int, end: int) -> None:
        self.asked.append((start, end, tuple(trial.name for trial in trials)))

    def step(self, trial: Trial) -> Trial:
        start, end, _ = self.asked[-1]
        if self.dropped.get(trial.name) == len(self.asked):
            return trial.drop("broken", 1.0)
        return trial.add(torch.full((end - start,), self.numbers[trial.name], dtype=torch.float64), 1.0)

    def run(self, rungs: Sequence[int], eta: int) -> list[Trial]:
        return halve([Trial(name, RULES) for name in self.numbers], rungs, eta, self.begin, self.step)


def test_the_better_half_goes_on_to_twice_as_many_samples() -> None:
    scale = Scale({"a": 1, "b": 7, "c": 3, "d": 6, "e": 5, "f": 2, "g": 4, "h": 0})
    ranked = scale.run([2, 4, 8, 16], 2)
    assert [(start, end) for start, end, _ in scale.asked] == [(0, 2), (2, 4), (4, 8), (8, 16)]
    assert [names for *_, names in scale.asked] == [tuple("abcdefgh"), tuple("bdeg"), tuple("bd"), tuple("bd")]
    assert "".join(trial.name for trial in ranked) == "bdegcfah"
    assert [len(trial.scores) for trial in ranked] == [16, 16, 4, 4, 2, 2, 2, 2]
    assert [trial.seconds for trial in ranked] == [4, 4, 2, 2, 1, 1, 1, 1]
    assert [trial.mean for trial in ranked] == sorted(scale.numbers.values(), reverse=True)


def test_of_equal_candidates_the_first_goes_on() -> None:
    scale = Scale(dict.fromkeys("abcdef", 1.0))
    assert "".join(trial.name for trial in scale.run([1, 3, 9], 3)) == "abcdef"
    assert [len(names) for *_, names in scale.asked] == [6, 2, 2]


def test_what_is_dropped_is_last_and_takes_no_place() -> None:
    scale = Scale({"a": 1, "b": 9, "c": 3, "d": 8, "e": 7}, {"b": 1, "d": 2})
    ranked = scale.run([4, 8], 2)
    assert scale.asked[1][2] == ("d", "e")
    assert [trial.name for trial in ranked] == ["e", "c", "a", "b", "d"]
    assert [trial.dropped for trial in ranked] == ["", "", "", "broken", "broken"]
    assert [len(trial.scores) for trial in ranked] == [8, 4, 4, 0, 4]
    assert math.isnan(ranked[3].mean)


def test_all_may_be_dropped() -> None:
    ranked = Scale({"a": 1, "b": 2}, {"a": 1, "b": 1}).run([2, 4], 2)
    assert all(trial.dropped for trial in ranked)


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("candidates", [1, 2, 3, 9, 33])
@pytest.mark.parametrize("samples", [2, 4, 7, 100, 1000])
def test_two_are_left_when_all_samples_are_used(candidates: int, samples: int, eta: int) -> None:
    """If there are samples enough for that, and no rung costs more than one with all candidates."""
    first = choose_first(candidates, samples, eta)
    rungs = list_rungs(samples, first, eta)
    assert rungs[0] == first <= samples == rungs[-1]
    assert all(one < other <= eta * one for one, other in itertools.pairwise(rungs))
    assert first >= min(LEAST, samples)
    left = candidates
    for _ in rungs[1:]:
        left = count_kept(left, eta)
    assert left == min(2, candidates) or first == min(LEAST, samples)


def test_intervals_are_those_of_students_t() -> None:
    for freedom in (*range(1, 41), 99, 1000):
        assert find_quantile(freedom) == pytest.approx(student.ppf(0.975, freedom), abs=1e-7)


def test_differences_are_paired_on_the_samples_of_both() -> None:
    one = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    other = torch.tensor([0.0, 0.0, 1.0, 100.0], dtype=torch.float64)
    found = compare_scores(one, other)
    assert found.mean == pytest.approx(2)
    assert found.half == pytest.approx(4.302652729 * 1 / math.sqrt(3))  # the differences are 1, 2, 3
    assert not found.sure
    assert compare_scores(other, one).mean == -found.mean
    assert compare_scores(one + 10, one).sure
    assert not compare_scores(one, one).sure
