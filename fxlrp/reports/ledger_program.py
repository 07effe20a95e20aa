"""The program that measures a ledger: the relevance program, which also notes what every rule passes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from fxlrp import passes
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.emit.trace import read_relevance, trace_program
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env, Twin
from fxlrp.ir.provenance import module_path, source_line
from fxlrp.ir.rule import Parts, Rule, Site
from fxlrp.ir.targets import Form
from fxlrp.passes.analyses.constants import find_additive, find_origins
from fxlrp.plan.decide import Plan
from fxlrp.reports.edge_relevance import find_live_operands
from fxlrp.reports.ledger import Ledger, LedgerEntry
from fxlrp.rules.published.positional import find_held
from fxlrp.session.call import Call, fit_call
from fxlrp.session.programs import Programs
from fxlrp.session.signature import CapturedSignature, plain_mode


class LedgerProgram:
    """Emits the accounting program of a plan and reads its numbers."""

    def __init__(self, plan: Plan, form: Form) -> None:
        self.plan = plan
        self.passed: dict[fx.Node, tuple[Tensor, Tensor, Tensor]] = {}
        twins = {node: replace(twin, rule=self.record_rule(node, twin.rule)) for node, twin in plan.twins.items()}
        with numerics.compute_at_least(torch.float64):
            self.module = trace_program(plan.captured, twins, form, self.results)
        passes.run_passes(self.module, passes.CLEANUP)

    def record_rule(self, node: fx.Node, rule: Rule) -> Rule:
        """Let a rule note what it passes on, what it would without its stabiliser, and what positions take."""

        def apply(site: Site, c: Tensor) -> Parts:
            parts = rule(site, c)
            passed = sum_relevance(site, parts)
            exact = passed if rule.limit is None else sum_relevance(site, rule.limit(site, c))
            taken = torch.zeros(()) if rule.positions is None else rule.positions(site, c).sum()
            self.passed[node] = passed, exact, taken
            return parts

        return replace(rule, apply=apply)

    def results(self, env: Env, found: Env) -> list[Tensor]:
        """Return rows of (received, passed, that without stabiliser, taken, magnitude) per node; then the sources."""
        zero = torch.zeros((), dtype=numerics.widen_dtype(env[self.plan.captured.explained].dtype))
        rows = []
        for node in self.plan.twins:
            r = read_relevance(env[node], found.get(node))
            passed = self.passed.get(node, (zero, zero, zero))
            rows.append(torch.stack([to_real(v, zero) for v in (r.sum(), *passed, r.abs().sum())]))
        end = self.plan.captured.explained
        sources = [read_attributed_input(s, env, found) for s in self.plan.sources]
        return [torch.stack(rows), to_real(read_relevance(env[end], found[end]).sum(), zero), *sources]

    def close(self, flat: Sequence[Tensor]) -> Ledger:
        """Read the ledger from the program's results."""
        rows, explained, *sources = flat
        inputs: dict[str, float] = defaultdict(float)
        first: dict[str, float] = {}
        for source, r in zip(self.plan.sources, sources, strict=True):
            inputs[source.name] += float(r.real.sum())
            if source.dims is not None and r.ndim > 1 and r.shape[1] > 1 and r.any():
                first[source.name] = float(r[:, 0].abs().sum() / r.abs().sum())
        constants = find_origins(self.plan.captured)
        numbers = zip(self.plan.twins.items(), rows.tolist(), strict=True)
        entries = tuple(make_entry(node, twin, row, constants) for (node, twin), row in numbers)
        return Ledger(float(explained), dict(inputs), entries, first)


def measure_ledger(programs: Programs, call: Call, zero_bias: bool) -> Ledger:
    """Account for the relevance of a call.

    Args:
        programs: The programs of the model.
        call: The call.
        zero_bias: Put zeros in place of all additive parameters.

    Raises:
        FxlrpError: As the call.
    """
    shapes = tuple(tuple(x.shape) for x in call.tensors())

    def make(signature: CapturedSignature, form: Form) -> LedgerProgram:
        def emit() -> LedgerProgram:
            plan = programs.plan_without_biases(call.args, call.kwargs) if zero_bias else signature.plan
            return LedgerProgram(plan, form)

        kind = form, shapes if zero_bias else ()  # without biases it is another capture, for other sizes
        made: LedgerProgram = signature.reports(kind, emit)
        return made

    with plain_mode():
        fitted = fit_call(programs, call, make)
        return fitted.made.close(fitted.made.module(*fitted.values))


def sum_relevance(site: Site, parts: Parts) -> Tensor:
    """Sum the relevance that a rule gives to all operands."""
    return sum((numerics.to_relevance(p, x).sum() for p, x in zip(parts, site.operands, strict=True)), torch.zeros(()))


def to_real(value: Tensor, like: Tensor) -> Tensor:
    """Return a real scalar of the ledger's dtype and device; the relevance of complex values is real in total."""
    return (value.real if value.is_complex() else value).to(like)


def make_entry(
    node: fx.Node, twin: Twin, row: Sequence[float], constants: Mapping[fx.Node, tuple[str, ...]]
) -> LedgerEntry:
    """Make the account of one node from its five sums.

    Where positions enter they keep what their rule says: fused attention leaks beside it, and a bias that an input's
    mask went into is no constant.
    """
    received, passed, exact, taken, magnitude = row
    live, kept = find_live_operands(node, twin), received - exact
    if twin.rule.positions is not None:
        absorbers, absorbed = [find_held(node)], taken
    else:
        absorbers = [n for n in find_additive(node, constants) if n not in live]
        absorbed = kept if absorbers else 0.0
    return LedgerEntry(
        node=node.name,
        op=str(node.target),
        rule=twin.rule.name,
        module=module_path(node),
        source=source_line(node),
        received=received,
        passed=passed,
        absorbed=absorbed,
        leaked=kept - absorbed,
        stabiliser=exact - passed,
        absorbers=tuple(dict.fromkeys(name for n in absorbers for name in constants.get(n) or (n.name,))),
        magnitude=magnitude,
    )
