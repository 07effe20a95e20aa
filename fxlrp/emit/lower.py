"""From the plan of a model to the program for one form of target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from fxlrp import passes
from fxlrp.emit import source_relevance
from fxlrp.emit.trace import trace_program
from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.program import Program
from fxlrp.ir.targets import Form
from fxlrp.passes.analyses.positions import find_tail
from fxlrp.plan import named_places
from fxlrp.plan.decide import Plan


def emit_program(made: Plan, form: Form) -> Program:
    """Emit the program of a plan for one form of target, and clean it up."""
    outputs = [n for n in made.captured.outputs if isinstance(n, fx.Node)]
    names = tuple(dict.fromkeys(source.name for source in made.sources))

    def results(env: Env, found: Env) -> list[Any]:
        relevances: dict[str, Any] = dict.fromkeys(names, 0.0)
        for s in made.sources:
            relevances[s.name] = relevances[s.name] + source_relevance.read_attributed_input(s, env, found)
        reads = [place.read(env, found) for place in made.reads.values()]
        return [*(env[n] for n in outputs), *relevances.values(), *reads]

    starts = [named_places.find_passing_point(made.captured, name, made.twins, "inject") for name in form.starts]
    kept = [named_places.find_passing_point(made.captured, name, made.twins, "keep") for name in form.kept]
    twins = drop_broken_facts({**made.twins, **made.readers}, [point.node for point in starts])
    whole = {*(point.node for point in kept), *made.readers}
    end = find_tail(made.captured.graph, twins, made.captured.explained, whole) if form.weights else None
    module = trace_program(made.captured, twins, form, results, starts, kept, end)
    passes.run_passes(module, passes.CLEANUP)
    return Program(module, len(outputs), names, tuple(made.reads))


def drop_broken_facts(twins: Mapping[fx.Node, Twin], starts: Collection[fx.Node]) -> dict[fx.Node, Twin]:
    """Twins without the proofs that an injected coefficient breaks: it need not be 0 where the output is negative.

    Masks break none, as they keep zeros, nor does either change the sign of a value.
    """
    doubted = {node: replace(twins[node].facts, dead_below=False) for node in starts}
    return {**twins, **{node: replace(twins[node], facts=facts) for node, facts in doubted.items()}}
