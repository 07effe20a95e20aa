"""Random small graphs as models, and every property of one judged from a single capture of many side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from steps import EVERY, LARGEST, OPERANDS, STEPS, Parameters
from torch import Tensor, nn

from fxlrp.capture.functional_graph import capture
from fxlrp.emit.lower import emit_program
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.emit.walk import walk_backward, walk_forward
from fxlrp.errors import SignatureError
from fxlrp.ir import numerics
from fxlrp.ir.decisions import Env
from fxlrp.ir.program import Captured
from fxlrp.ir.targets import Form
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.reports.ledger import Ledger
from fxlrp.reports.ledger_program import LedgerProgram
from fxlrp.rules import PRESETS

INPUTS: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "vector": (3,),
    "batch": (2, 3),
    "column": (2, 1),
    "sequence": (2, 2, 3),
    "image": (1, 2, 4, 4),
    "id": (3,),
    "ids": (2, 3),
}
"""Shapes of inputs; ids are whole numbers, everything else double precision."""
LONGEST = 5
"""Steps of a graph."""
BOUND = 1e3
"""Absolute size of the largest entry of a value: beyond it rounding errors would be judged."""
ORACLE = {"single": 1e-4, "half": 0.05, "brain": 0.2}
"""Relative error of the gradient oracle where a step rounds; torch computes those gradients in that precision."""
DOUBLE = 1e-9
"""The same of all other graphs."""
CLOSED = 1e-8
"""Relative gap of a ledger."""
TRACED = 1e-10
"""Relative error of the traced program."""
TRACED_SINGLE = 1e-5
"""The same of graphs with values in float32: tracing decomposes ops, whose sums are then taken in another order."""
FLOOR = 1e-3
"""What errors are relative to at least: where everything cancels, rounding errors are left."""
LEDGERS = ("epsilon", "epsilon_gamma_box", "cp_lrp")
"""Rule sets whose account is closed in rotation, besides that of attnlrp."""

Choose = Callable[[int], int]
"""Draws a number below the one given."""


@dataclass(frozen=True)
class Call:
    """A step and the numbers of the values that it takes."""

    name: str
    operands: tuple[int, ...]

    def __call__(self, parameters: Parameters, values: Sequence[Tensor]) -> Tensor:
        return EVERY[self.name](parameters, *(values[i] for i in self.operands))


@dataclass(frozen=True)
class Graph:
    """Steps that take earlier values; the first values are the inputs."""

    inputs: tuple[str, ...]
    steps: tuple[Call, ...] = ()
    seed: int = 0

    def __str__(self) -> str:
        given = [f"v{i} = {kind}{list(INPUTS[kind])}" for i, kind in enumerate(self.inputs)]
        calls = [f"{step.name}({', '.join(f'v{i}' for i in step.operands)})" for step in self.steps]
        made = [f"v{i} = {call}" for i, call in enumerate(calls, len(self.inputs))]
        return f"seed {self.seed}: " + "; ".join([*given, *made])

    def sample(self) -> list[Tensor]:
        """Inputs, the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            torch.randint(5, shape, generator=generator)
            if kind.startswith("id")
            else torch.randn(shape, dtype=torch.float64, generator=generator)
            for kind, shape in ((kind, INPUTS[kind]) for kind in self.inputs)
        ]

    def values(self, parameters: Parameters, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Every value of the graph."""
        values = list(inputs)
        for step in self.steps:
            values.append(step(parameters, values))
        return values

    def output(self, parameters: Parameters, inputs: Sequence[Tensor]) -> Tensor:
        """All entries of the values that no step takes; the imaginary parts too."""
        values = self.values(parameters, inputs)
        taken = {i for step in self.steps for i in step.operands}
        return torch.cat([parameters.real(x).reshape(-1) for i, x in enumerate(values) if i not in taken])

    @property
    def tolerance(self) -> float:
        return max((ORACLE.get(step.name, DOUBLE) for step in self.steps), default=DOUBLE)

    @property
    def traced_tolerance(self) -> float:
        return TRACED_SINGLE if any(step.name == "single" for step in self.steps) else TRACED


PARAMETERS = Parameters()


def build(choose: Choose, names: Sequence[str] = tuple(STEPS), longest: int = LONGEST) -> Graph:
    """A random graph of some steps. Those are left out that make a value too large or too long."""
    kinds = list(INPUTS)
    graph = Graph(tuple(kinds[choose(len(kinds))] for _ in range(1 + choose(2))), (), choose(10**6))
    values = graph.sample()
    steps = []
    for _ in range(1 + choose(longest)):
        # near values are likelier, so that chains grow long, and every value can be used again
        name, near = names[choose(len(names))], len(values) - 1 - choose(min(2, len(values)))
        step = Call(name, (near, choose(len(values)))[: OPERANDS[name]])
        with torch.no_grad():
            value = step(PARAMETERS, values)
        if fits(value):
            values.append(value)
            steps.append(step)
    return replace(graph, steps=tuple(steps))


def fits(value: Tensor) -> bool:
    return 0 < value.numel() <= LARGEST and bool((value.abs() <= BOUND).all())


class Packed(nn.Module):
    """Graphs side by side, each a module with inputs of its own; their outputs are one row."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        super().__init__()
        self.parameters_of_steps = PARAMETERS
        self.graphs = nn.ModuleList(Member(graph) for graph in graphs)

    def forward(self, *inputs: Tensor) -> Tensor:
        given = iter(inputs)
        outputs = [member(*(next(given) for _ in member.graph.inputs)) for member in self.graphs]
        return torch.cat(outputs)[None]


class Member(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.graph.output(PARAMETERS, inputs)


class Watched(Parameters):
    """Parameters that remember what was looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []

    def lookup(self, ids: Tensor) -> Tensor:
        rows = super().lookup(ids)
        self.found.append((ids, rows))
        return rows


WATCHED = Watched()


def weights(n: int) -> Tensor:
    """Coefficients at the entries of a graph's output, none like another."""
    return torch.linspace(1, 2, n, dtype=torch.float64)


def wanted(graph: Graph) -> tuple[Tensor, list[Tensor]]:
    """Output, and input x gradient of its weighted sum by autograd: of ids summed over what they look up."""
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in graph.sample()]
    WATCHED.found.clear()
    y = graph.output(WATCHED, inputs)
    read_at = [x for x in inputs if x.requires_grad] + [rows for _, rows in WATCHED.found]
    gradients = torch.autograd.grad((weights(y.numel()) * y).sum(), read_at, allow_unused=True, materialize_grads=True)
    parts = list(zip(read_at, [x.detach() * g for x, g in zip(read_at, gradients, strict=True)], strict=True))
    origin = {id(rows): ids for ids, rows in WATCHED.found}
    found = []
    for x in inputs:
        own = [r for at, r in parts if at is x] + [r.sum(-1) for at, r in parts if origin.get(id(at)) is x]
        found.append(sum(own, torch.zeros(x.shape, dtype=torch.float64)))
    return y.detach(), found


@dataclass(frozen=True)
class Pack:
    """Graphs captured as one model, with what is common to all checks.

    Attributes:
        graphs: The graphs.
        inputs: Those of all graphs in turn.
        captured: The model.
        outputs: Which entries of the output are those of each graph.
        seed: Coefficients at the output.
    """

    graphs: Sequence[Graph]
    inputs: tuple[Tensor, ...]
    captured: Captured
    outputs: Sequence[slice]
    seed: Tensor

    @classmethod
    def of(cls, graphs: Sequence[Graph]) -> Pack:
        inputs = tuple(x for graph in graphs for x in graph.sample())
        captured = capture(Packed(graphs).eval(), inputs, {})
        ends = list(accumulate((graph.output(PARAMETERS, graph.sample()).numel() for graph in graphs), initial=0))
        seed = torch.cat([weights(end - start) for start, end in pairwise(ends)])[None]
        return cls(graphs, inputs, captured, [slice(*ends_of) for ends_of in pairwise(ends)], seed)

    def plan(self, rules: str) -> Plan | None:
        """None if the rules leave no path, which an error says by name."""
        try:
            return make_plan(self.captured, PRESETS[rules], (), True)
        except SignatureError:
            return None

    @cached_property
    def names(self) -> list[list[str]]:
        """Names of the inputs of each graph."""
        given = iter(self.captured.inputs)
        return [[next(given).name for _ in graph.inputs] for graph in self.graphs]

    def values(self, inputs: Sequence[Tensor]) -> Env:
        """Value of every node."""
        given = dict(zip(self.captured.inputs, inputs, strict=True))
        return walk_forward(self.captured.graph, {**self.captured.constants, **given})

    def walk(self, rules: str, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Relevance of each input by the two walks, without a program; nothing if there is no path."""
        if (made := self.plan(rules)) is None:
            return {}
        env = self.values(inputs)
        found = walk_backward(self.captured.graph, env, made.twins, {self.captured.explained: self.seed})
        parts: dict[str, Tensor] = {}
        for s in made.sources:
            r = read_attributed_input(s, env, found)
            parts[s.name] = parts[s.name] + r if s.name in parts else r
        return parts

    def account(self, rules: str) -> tuple[Ledger, Tensor] | None:
        """The ledger by the two walks and the output that it accounts for; None if there is no path."""
        if (made := self.plan(rules)) is None:
            return None
        book = Walked(made)
        with numerics.compute_at_least(torch.float64):
            env = self.values(self.inputs)
            found = walk_backward(self.captured.graph, env, book.twins, {self.captured.explained: self.seed})
            return book.close(book.results(env, found)), env[self.captured.explained][0]

    def run(self, rules: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs, and relevance of each input, by the traced program."""
        made = self.plan(rules)
        assert made is not None
        lowered = emit_program(made, Form((), ()))
        output, *relevances = lowered.module(*self.inputs, self.seed)
        return output[0], dict(zip(lowered.relevances, relevances, strict=True))


class Walked(LedgerProgram):
    """A book that is not traced, which takes hundreds of times longer than the walk itself."""

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.passed = {}
        self.twins = {node: replace(twin, rule=self.record_rule(node, twin.rule)) for node, twin in made.twins.items()}


@torch.no_grad()
def judged(graphs: Sequence[Graph], rules: str, traced: bool) -> list[str]:
    """``passes``, or what is wrong, for each of the graphs.

    Args:
        graphs: What to judge.
        rules: A preset whose account must close, besides that of attnlrp.
        traced: Whether to trace the program too, which takes longer than everything else.
    """
    pack = Pack.of(graphs)
    with torch.enable_grad():
        references = [wanted(graph) for graph in graphs]
    checks = [oracle(pack, references), finite(pack)]
    checks += [accounts(pack, name) for name in ("attnlrp", rules)]
    if traced:
        checks.append(program(pack, references))
    return [next(filter(None, wrong), "passes") for wrong in zip(*checks, strict=True)]


References = Sequence[tuple[Tensor, list[Tensor]]]
"""Output, and input x gradient, of each graph."""


def oracle(pack: Pack, references: References) -> list[str]:
    """What is wrong with the preset ``gradient``."""
    found = pack.walk("gradient", pack.inputs)
    given = zip(pack.graphs, references, pack.names, strict=True)
    return [against_gradient(graph, expected, [found.get(n) for n in names]) for graph, (_, expected), names in given]


def finite(pack: Pack) -> list[str]:
    """Where relevance is not finite, by the default rules; also where every input is 0."""
    own = pack.walk("attnlrp", pack.inputs)
    at_zero = pack.walk("attnlrp", [torch.zeros_like(x) for x in pack.inputs])
    named = (("relevance is not finite", own), ("relevance at zero is not finite", at_zero))
    return [
        next((text for text, r in named if not all(r[n].isfinite().all() for n in names if n in r)), "")
        for names in pack.names
    ]


def accounts(pack: Pack, rules: str) -> list[str]:
    """What is wrong with the accounts of all graphs."""
    if (account := pack.account(rules)) is None:
        return [""] * len(pack.graphs)
    ledger, output = account
    return [open_account(pack, ledger, i, output[own].double(), rules) for i, own in enumerate(pack.outputs)]


def program(pack: Pack, references: References) -> list[str]:
    """How the traced program differs from the model and from the walks."""
    walked = pack.walk("attnlrp", pack.inputs)
    if not walked:
        return [""] * len(pack.graphs)
    output, relevance = pack.run("attnlrp")
    found = []
    for own, graph, names, (y, _) in zip(pack.outputs, pack.graphs, pack.names, references, strict=True):
        bound = graph.traced_tolerance
        same = [differs("traced relevance", relevance[n], walked[n], bound) for n in names if n in relevance]
        found.append(next(filter(None, [differs("output", output[own], y, graph.tolerance), *same]), ""))
    return found


def against_gradient(graph: Graph, expected: Sequence[Tensor], found: Sequence[Tensor | None]) -> str:
    """What is wrong with the preset ``gradient``, relative to the largest entry of all inputs."""
    scale = max(FLOOR, *(float(w.abs().amax()) for w in expected))
    for i, (w, r) in enumerate(zip(expected, found, strict=True)):
        error = float((w if r is None else r - w).abs().amax()) / scale
        if not error <= graph.tolerance:
            return f"gradient oracle: relative error {error:.1e} at v{i}"
    return ""


def open_account(pack: Pack, ledger: Ledger, i: int, y: Tensor, rules: str) -> str:
    """What is wrong with the account of a graph."""
    own = [e for e in ledger.entries if e.module == f"graphs.{i}"]
    inputs = [ledger.inputs.get(name, 0.0) for name in pack.names[i]]
    # where the rules leave no path in a graph, it is the row of all outputs that keeps this one
    explained = float((weights(y.numel()) * y).sum()) if own else 0.0
    gap = explained - sum(inputs) - sum(e.absorbed + e.leaked + e.stabiliser for e in own)
    scale = max(FLOOR, abs(explained), *(abs(r) for r in inputs), *(e.magnitude for e in own))
    return "" if abs(gap) <= CLOSED * scale else f"ledger of {rules}: relative gap {abs(gap) / scale:.1e}"


def differs(what: str, found: Tensor, expected: Tensor, tolerance: float) -> str:
    error = float((found - expected).abs().amax() / expected.abs().amax().clamp(min=FLOOR))
    return "" if error <= tolerance else f"{what}: relative error {error:.1e}"


Judge = Callable[[Sequence[Graph], str, bool], list[str]]
"""As `judged`, which is the one by default."""


def verdicts(graphs: Sequence[Graph], rules: str, traced: bool, judge: Judge | None = None) -> list[str]:
    """Verdicts on graphs as one model; on halves of them if it fails."""
    try:
        return (judge or judged)(graphs, rules, traced)
    except Exception as error:
        if len(graphs) == 1:
            return [f"{type(error).__name__}: {str(error).strip()[:300]}"]
        half = len(graphs) // 2
        return verdicts(graphs[:half], rules, traced, judge) + verdicts(graphs[half:], rules, traced, judge)


def failures(graphs: Sequence[Graph], rules: str, traced: bool, judge: Judge | None = None) -> list[str]:
    """Each graph that fails, made as small as it goes, with what is wrong."""
    found = []
    for graph, verdict in zip(graphs, verdicts(graphs, rules, traced, judge), strict=True):
        if verdict != "passes":
            small, wrong = reduced(graph, rules, judge)
            found.append(f"{small}\n  {wrong or f'only in company: {verdict}'}")
    return found


def reduced(graph: Graph, rules: str, judge: Judge | None = None) -> tuple[Graph, str]:
    """The smallest graph found that fails alone as the given one does, and how."""
    wrong = alone(graph, rules, judge)
    smaller = True
    while wrong and smaller:
        smaller = False
        for candidate in simpler(graph):
            verdict = alone(candidate, rules, judge)
            if verdict.partition(":")[0] == wrong.partition(":")[0]:
                graph, wrong, smaller = candidate, verdict, True
                break
    return graph, wrong


def alone(graph: Graph, rules: str, judge: Judge | None = None) -> str:
    """What is wrong with a graph by itself; nothing if its values are too large."""
    with torch.no_grad():
        if not all(fits(value) for value in graph.values(PARAMETERS, graph.sample())):
            return ""
    verdict = verdicts([graph], rules, True, judge)[0]
    return "" if verdict == "passes" else verdict


def simpler(graph: Graph) -> Iterator[Graph]:
    """The graph without one of its steps, without an input, or with one value in place of two."""
    n, steps = len(graph.inputs), graph.steps
    for k in reversed(range(len(steps))):
        for instead in dict.fromkeys(steps[k].operands):
            yield replace(graph, steps=(*steps[:k], *(renumbered(s, n + k, instead) for s in steps[k + 1 :])))
    for i in range(n if n > 1 else 0):
        rest = (*graph.inputs[:i], *graph.inputs[i + 1 :])
        yield replace(graph, inputs=rest, steps=tuple(renumbered(s, i, int(i == 0)) for s in steps))
    for k, step in enumerate(steps):
        if len(set(step.operands)) > 1:
            yield replace(graph, steps=(*steps[:k], Call(step.name, step.operands[:1] * 2), *steps[k + 1 :]))


def renumbered(step: Call, gone: int, instead: int) -> Call:
    """The step where a value is no more, for another."""
    operands = (instead if i == gone else i for i in step.operands)
    return Call(step.name, tuple(i - (i > gone) for i in operands))
