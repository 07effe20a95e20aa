"""From the plan of a model to the program for one form of target."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxlrp import passes
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.emit.trace import trace_program
from fxlrp.ir.decisions import Env
from fxlrp.ir.program import Program
from fxlrp.ir.targets import Form
from fxlrp.passes.analyses.positions import find_tail
from fxlrp.plan.decide import Plan
from fxlrp.plan.named_places import name_points
from fxlrp.plan.passing_places import find_passing_point
from fxlrp.plan.position_places import refuse_masked_places
from fxlrp.plan.read_points import drop_broken_facts


def emit_program(plan: Plan, form: Form) -> Program:
    """Emit the program of a plan for one form of target, and clean it up.

    Raises:
        SignatureError: If the form starts or masks relevance at a name that passes none on, or masks it where that of
            positions is read.
    """
    captured = plan.captured
    outputs = [n for n in captured.outputs if isinstance(n, fx.Node)]
    names = tuple(dict.fromkeys(source.name for source in plan.sources))
    points = name_points(captured) if form.starts or form.kept else {}
    starts = [find_passing_point(captured, points, name, plan.twins, "inject") for name in form.starts]
    kept = [find_passing_point(captured, points, name, plan.twins, "keep") for name in form.kept]
    if kept:
        refuse_masked_places(plan.reads.values(), kept)
    twins = drop_broken_facts({**plan.twins, **plan.readers}, [point.node for point in starts])
    whole = {*(point.node for point in kept), *plan.readers}
    tail = find_tail(captured.graph, twins, captured.explained, whole) if form.weights else None

    def collect(env: Env, found: Env) -> list[Any]:
        relevances: dict[str, Any] = dict.fromkeys(names, 0.0)
        for source in plan.sources:
            relevances[source.name] = relevances[source.name] + read_attributed_input(source, env, found)
        reads = [place.read(env, found) for place in plan.reads.values()]
        return [*(env[n] for n in outputs), *relevances.values(), *reads]

    module = trace_program(captured, twins, form, collect, starts, kept, tail)
    passes.run_passes(module, passes.CLEANUP)
    return Program(module, len(outputs), names, tuple(plan.reads))
