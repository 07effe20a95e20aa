"""What is lost by computing relevance in fewer digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fxlrp.cache import COMPILE_LOCK
from fxlrp.emit.lower import emit_program
from fxlrp.ir.numerics import compute_at_least
from fxlrp.ir.program import Program
from fxlrp.ir.targets import Form
from fxlrp.plan.decide import Plan
from fxlrp.session.call import Call, fit_call
from fxlrp.session.programs import Programs
from fxlrp.session.signature import plain_mode


def measure_precision(programs: Programs, call: Call) -> dict[str, float]:
    """Measure the errors of the program of a call, see `measure_errors`.

    Raises:
        FxlrpError: As the call.
    """
    with plain_mode():
        fitted = fit_call(programs, call, programs.find_program)
        with COMPILE_LOCK:
            return measure_errors(fitted.signature.plan, fitted.form, *fitted.made, fitted.values)


def measure_errors(
    plan: Plan, form: Form, program: Program, run: Callable[..., Any], values: Sequence[Tensor]
) -> dict[str, float]:
    """Measure the error in norm of every relevance of a program, relative to the same relevance pass in float64.

    Args:
        plan: What the program was made of.
        form: For which form of target.
        program: The program.
        run: What runs it.
        values: The inputs of the model, and the tensors of the target.
    """
    with compute_at_least(torch.float64):
        exact = emit_program(plan, form)
    found, expected = list(run(*values)), list(exact.module(*values))
    names = (*program.relevances, *program.reads)
    pairs = zip(names, found[program.outputs :], expected[program.outputs :], strict=True)
    return {name: measure_norm_error(r, true) for name, r, true in pairs}


def measure_norm_error(r: Tensor, true: Tensor) -> float:
    """Compute ``|r - true| / |true|``; of nothing but zeros the norm itself."""
    norm = float(true.norm())
    return float((r - true).norm()) / (norm or 1.0)
