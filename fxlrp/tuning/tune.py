"""Measures rule sets on a user's own model and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from fxlrp.api import compile
from fxlrp.capture.explained_output import Output
from fxlrp.errors import RuleError, SignatureError, TargetError
from fxlrp.evaluate.baselines import Baseline
from fxlrp.evaluate.segments import Model, call_in_batches, read_classes
from fxlrp.ir.targets import LARGEST, Target, to_numbers
from fxlrp.reports.terminal import open_stderr_console
from fxlrp.tuning.bench import Bench, capture_model, run_model
from fxlrp.tuning.candidates import Candidates, list_candidates, read_candidates
from fxlrp.tuning.halving import LEAST, Begin, Step, Trial, choose_first, halve, list_rungs
from fxlrp.tuning.metrics import Metric, make_metric, name_metric
from fxlrp.tuning.report import TuningReport


def tune(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    candidates: Candidates | None = None,
    metric: str | Metric = "flipping",
    baseline: Baseline | None = None,
    segments: Tensor | None = None,
    patch: int | None = None,
    first: int | None = None,
    eta: int = 2,
    batch: int = 32,
    output: Output = None,
    seed: int = 0,
    strict: bool = True,
    progress: bool = True,
) -> TuningReport:
    """Measure rule sets on samples, and choose the one whose explanations say best what the model does.

    All candidates are measured on a few samples, the better half of them on twice as many, and so on until those that
    are left have been measured on all (successive halving, Jamieson and Talwalkar 2016). Candidates whose relevance on
    each first sample is that of an earlier one, to a thousandth, are dropped, as are those that have no rule for an op,
    a rule that serves nothing, or relevance that is not finite: the report says why.

    Who is best of many on some samples is less so on others: judge the choice on samples that it was not made on.

    Args:
        model: A module in evaluation mode that takes one tensor, in batches of any size.
        x: The samples, ``(samples, ...)``, two or more, on the device of the model: images, token ids, or anything
            else with ``segments``.
        target: What is explained of each sample, as in a call of an attributor: None (the largest), a class, or a
            list or tensor of classes.
        candidates: Presets, rule sets or tables by name, or a list of presets and rule sets; by default presets, and
            rules for the types of layers that the model has, crossed (`fxlrp.tuning.candidates`).
        metric: ``"flipping"`` (area between the curves of what the model says while the most or the least relevant
            parts are replaced), ``"leave_one_out"`` (correlation with what the model loses without each part), or a
            function of ``(model, x, relevance, target)`` to one number per sample, the larger the better.
        baseline: What replaces parts, of `fxlrp.evaluate.baselines`; by default a blur of images. Other inputs need
            one: for token ids ``constant(id)`` of the mask or padding token.
        segments: Number of the part that each place is in; by default square patches of images, and each place of
            samples of one dimension.
        patch: Side of the square patches; by default a seventh of the shorter side.
        first: Samples that all candidates are measured on; by default so many that two candidates are left when all
            samples are used, and at least 4.
        eta: One of so many candidates goes on, with so many times the samples.
        batch: Inputs in each forward pass.
        output: What of the model's output has the classes, as in `fxlrp.compile`.
        seed: Of the order in which samples are used.
        strict: Whether an op without a rule is a reason to drop a candidate.
        progress: Show a bar.

    Raises:
        CaptureError: If the model cannot be exported, or is in training mode.
        RuleError: If there are no candidates, one is none, or all were dropped.
        SignatureError: If the samples do not fit the model, or the metric is none or needs more.
        TargetError: If the target does not select one class of each sample.
    """
    check_numbers(first=(first, 2), eta=(eta, 2), batch=(batch, 1))
    check_inputs(model, x)
    given = None if candidates is None else read_candidates(candidates)
    judge = make_metric(metric, x, segments, baseline, patch, batch)
    chunk = min(batch, len(x), first or LEAST)
    probe = compile(model, rules="gradient", output=output, strict=strict)
    plan = capture_model(probe, x[:chunk])
    classes = choose_classes(partial(run_model, probe), x, target, batch)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    name = plan.captured.inputs[0].name
    bench = Bench(probe, judge, name, chunk, x[order.to(x.device)], classes[order.to(classes.device)])
    given = list_candidates(plan, x) if given is None else given
    rungs = list_rungs(len(x), first or choose_first(len(given), len(x), eta), eta)
    trials = [Trial(name, rules) for name, rules in given.items()]
    with show_bar(bench, progress) as (begin, step):
        ranked = halve(trials, rungs, eta, begin, step)
    if ranked[0].dropped:
        raise RuleError("\n".join(["no candidate can be measured:", *(f"  {t.name}: {t.dropped}" for t in ranked)]))
    return TuningReport(tuple(ranked), tuple(rungs), name_metric(judge))


@contextmanager
def show_bar(bench: Bench, shown: bool) -> Iterator[tuple[Begin, Step]]:
    """Show a bar of the samples that candidates are measured on, while what is yielded measures them."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with open_stderr_console() as error:
        bar = Progress(*columns, console=error, transient=True, disable=not (shown and error.is_terminal))
        task = bar.add_task("", total=0)

        def begin(trials: Sequence[Trial], start: int, end: int) -> None:
            bar.update(task, total=bar.tasks[task].completed + len(trials) * (end - start))
            bench.begin(trials, start, end)

        def step(trial: Trial) -> Trial:
            bar.update(task, description=trial.name)
            measured = bench.measure(trial)
            bar.advance(task, len(bench.rung[0]))
            return measured

        with bar:
            yield begin, step


def check_numbers(**numbers: tuple[int | None, int]) -> None:
    """Refuse numbers below the least that each may be.

    Raises:
        SignatureError: Naming the first.
    """
    for name, (given, least) in numbers.items():
        if given is not None and given < least:
            raise SignatureError(f"{name}={given}, but it has to be {least} or more")


def check_inputs(model: object, x: object) -> None:
    """Refuse what is no model that batches of any size can be run on, or no samples.

    Raises:
        SignatureError: Saying what to give.
    """
    if not isinstance(model, nn.Module):
        raise SignatureError(
            "rules are measured by running the model on batches of several sizes: give a module, not "
            f"{type(model).__name__}"
        )
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise SignatureError(f"give two samples or more as one tensor (samples, ...), not {found}")


def choose_classes(model: Model, x: Tensor, target: Target, batch: int) -> Tensor:
    """Return the class of each sample that is explained.

    Raises:
        SignatureError: If the model does not return one row of classes per sample.
        TargetError: If the target does not select one class of each.
    """
    with torch.no_grad():
        said = call_in_batches(model, lambda rows: x[rows], len(x), batch, x.device)
    if said.ndim != 2:
        raise SignatureError(
            f"rules are measured on models of classes, (samples, classes), and this one returns {tuple(said.shape)}: "
            "choose a part of it by output=, such as lambda found: found.logits[:, -1]"
        )
    numbers = to_numbers(target, said.shape)
    if numbers.is_floating_point():
        raise TargetError("a seed is no class: give target= a class, or one class per sample")
    chosen = numbers[:, 0].to(said.device)
    classes = torch.where(chosen == LARGEST, said.argmax(1), chosen)
    read_classes(said, classes, "logit")
    return classes
