"""From a call to its result."""

from __future__ import annotations

from fxlrp.ir.targets import split_target
from fxlrp.session.call import Call, fit_call
from fxlrp.session.doubts import Question
from fxlrp.session.programs import Programs
from fxlrp.session.result import Result, make_result
from fxlrp.session.signature import plain_mode


def explain(programs: Programs, call: Call) -> Result:
    """Run the program of a call, and compare its output with the model's if that is asked for.

    Raises:
        FxlrpError: As `fxlrp.Attributor.__call__`.
    """
    with plain_mode():
        fitted = fit_call(programs, call, programs.find_program)
        program, run = fitted.made
        if fitted.varying:
            run = programs.find_many(fitted.signature, fitted.form, fitted.varying, call.chunk)
        question = Question(programs.choose_explained, fitted.form, tuple(fitted.numbers), call.targets is not None)
        result = make_result(fitted.signature, program, list(run(*fitted.values)), question)
        inputs = call.args, call.kwargs
        programs.compare_with_model(
            fitted.signature, (fitted.varying, fitted.form), inputs, result.output, fitted.tensors
        )
    return result


def compile_program(programs: Programs, call: Call) -> None:
    """Capture the model and make the program of a call, without running it.

    Raises:
        FxlrpError: As `fxlrp.Attributor.__call__`.
    """
    with plain_mode():
        signature, _, sizes = programs.find_signature(call.args, call.kwargs)
        form, _ = split_target(call.target, signature.shape(sizes))
        programs.find_program(signature, form)
