"""The user's own oracle: what must hold of any model and any rules, checked on the inputs of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from fxlrp.cache import COMPILE_LOCK
from fxlrp.reports.ledger_program import measure_ledger
from fxlrp.reports.references import (
    Case,
    TensorsByName,
    compute_autograd,
    convert_to_float64,
    double_sample,
    measure_error,
    take_sample,
    use_gradient_rules,
)
from fxlrp.reports.verification import Check, Verification, compare_error, skip_check
from fxlrp.session.agreement import HALF_TOLERANCE, TOLERANCE, find_inexact_tensors
from fxlrp.session.call import Call, fit_call
from fxlrp.session.programs import Programs
from fxlrp.session.signature import plain_mode

MAX_SAMPLES = 4
"""The most samples that are explained one by one."""
MARGIN = 3
"""As many times autograd's own error against float64 is taken for rounding."""

MAX_ROUNDING = 0.5
"""No larger error is rounding."""


def verify_call(programs: Programs, call: Call) -> Verification:
    """Check what can be checked of a model's programs, on the inputs of a call.

    Raises:
        FxlrpError: As the call, if that is not possible.
    """
    model, options = programs.model, programs.options
    backend = options.backend
    with plain_mode(), COMPILE_LOCK:
        case = Case(Programs(model, replace(options, verify="never")), call)  # a wrong output is a row of the table
        types = (x.dtype.to_real() for x in find_inexact_tensors(case.output()))
        rounding = Rounding(max(types, key=lambda dtype: torch.finfo(dtype).eps))
        checks = (
            attempt("the output is the model's", lambda name: check_outputs(name, case, rounding)),
            *check_gradients(case, rounding),
            attempt("the ledger closes", lambda name: check_ledger(name, case)),
            attempt("samples are independent", lambda name: check_independence(name, case, rounding)),
            attempt(f"backend {backend} runs the program op by op", lambda name: check_backend(name, case, rounding)),
            attempt("twice the seed, twice the relevance", lambda name: check_linearity(name, case, rounding)),
        )
    return Verification(type(model).__name__, options.rules.name, backend, checks)


class Rounding:
    """How large an error is no more than rounding.

    Attributes:
        dtype: The least exact type of floating point among the model's outputs.
        base: The error of a well-conditioned model.
        limit: The error of this one.
        reason: Why.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.name = str(dtype).removeprefix("torch.")
        self.base = self.limit = TOLERANCE.get(dtype, HALF_TOLERANCE)
        self.reason = f"rounding in {self.name}"

    def widen(self, lost: float) -> None:
        """Allow for what autograd itself loses in this type."""
        if MARGIN * lost > self.limit:
            self.limit = min(MARGIN * lost, MAX_ROUNDING)
            self.reason = f"{MARGIN} times what autograd itself loses in {self.name}, at most {MAX_ROUNDING}"


def attempt(name: str, check: Callable[[str], Check]) -> Check:
    """Make a check, or say why it cannot be made."""
    try:
        return check(name)
    except Exception as reason:  # of the user's model or rules: it must not hide the other checks
        return skip_check(name, reason)


def check_outputs(name: str, case: Case, rounding: Rounding) -> Check:
    """Check that every tensor that the program returns is the model's own."""
    own = find_inexact_tensors(case.run_model(case.call.args, case.call.kwargs))
    return compare_error(name, measure_error(find_inexact_tensors(case.output()), own), rounding.limit, rounding.reason)


def check_gradients(case: Case, rounding: Rounding) -> Iterator[Check]:
    """Check that adjoints for rules give input times gradient: of a copy in float64, and of the model itself."""
    name = "gradient rules equal autograd in {}"
    exact: list[TensorsByName] = []

    def in_double(label: str) -> Check:
        double = convert_to_float64(case)
        exact.append(compute_autograd(double))
        return compare_error(
            label, measure_error(double.explain(), exact[0]), TOLERANCE[torch.float64], "rounding in float64"
        )

    def in_own(label: str) -> Check:
        own = use_gradient_rules(case)
        rough = compute_autograd(own)
        if exact:
            lost = measure_error(rough, exact[0])
            rounding.widen(lost)
            if MARGIN * lost > MAX_ROUNDING:
                return skip_check(label, f"autograd itself loses {lost:.0%} in {rounding.name}")
        elif rounding.dtype not in TOLERANCE:
            return skip_check(label, f"autograd itself rounds to {rounding.name}, and there is no float64 beside it")
        return compare_error(
            label, measure_error(own.explain(), exact[0] if exact else rough), rounding.limit, rounding.reason
        )

    yield attempt(name.format("float64"), in_double)
    if rounding.dtype is not torch.float64 or not exact:
        yield attempt(name.format(rounding.name), in_own)


def check_ledger(name: str, case: Case) -> Check:
    """Check that what is explained is what arrived and what was kept."""
    book = measure_ledger(case.programs, case.call, zero_bias=False)
    parts = [book.explained, *book.inputs.values(), book.absorbed, book.leaked, book.stabiliser]
    gap = abs(book.gap) / (max(map(abs, parts)) or 1.0)
    return compare_error(name, gap, TOLERANCE[torch.float64], "its sums are of float64")


def check_independence(name: str, case: Case, rounding: Rounding) -> Check:
    """Check that a batch gives what its samples give one by one; a sample that is alone is doubled."""
    y = case.explained()
    n = len(y)
    whole, singles = (
        (double_sample(case), [case, case])
        if n == 1
        else (case, [take_sample(case, i, n) for i in range(min(n, MAX_SAMPLES))])
    )
    z = whole.explained()
    if any(measure_error(single.explained(), z[i : i + 1]) > rounding.limit for i, single in enumerate(singles)):
        return skip_check(name, "the model's own output of a sample depends on the rest of the batch")
    together, worst = whole.explain(), 0.0
    for i, single in enumerate(singles):
        rows = {key: r[i : i + 1] for key, r in together.items() if r.ndim and len(r) == len(z)}
        worst = max(worst, measure_error({key: r for key, r in single.explain().items() if key in rows}, rows))
    how = "one sample, twice" if n == 1 else f"{len(singles)} of {n} samples"
    return compare_error(name, worst, rounding.limit, f"{rounding.reason}; {how}")


def check_backend(name: str, case: Case, rounding: Rounding) -> Check:
    """Check that what runs the program gives what torch gives op by op."""
    fitted = fit_call(case.programs, case.call, case.programs.find_program)
    program, run = fitted.made
    found, expected = list(run(*fitted.values)), list(program.module(*fitted.values))
    return compare_error(name, measure_error(found, expected), rounding.limit, rounding.reason)


def check_linearity(name: str, case: Case, rounding: Rounding) -> Check:
    """Check that the relevance of a seed of 2 is twice that of a seed of 1."""
    y = case.explained()
    seed = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view_as(y)
    once, more = case.explain(seed), case.explain(2 * seed)
    found = measure_error(more, {key: 2 * r for key, r in once.items()})
    return compare_error(name, found, rounding.base, f"rounding in {rounding.name}, of the same values twice")
