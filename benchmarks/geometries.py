"""Random convolutions and products against plain torch in float64: ``python benchmarks/geometries.py --processes 2``.

Cases of `shapes.py` are captured some together, with inputs and constants in every order of memory, and run in float32
and bfloat16 by the backend "eager", and op by op as they are given to Inductor ("packed"); the first ``--compiled`` of
them are compiled by Inductor as well. Their outputs must be those of the model itself in float64, and relevance that of
the program in float64, where nothing is packed, or input x gradient by autograd if those are the rules.

Each pack is judged in a process of its own, so that a crash or an endless loop is a finding: the pack is then halved
until the case is found. With ``--out`` a run that was cut off goes on where it was. ``--only products/7`` judges one
case again. ``ONEDNN_MAX_CPU_ISA=AVX2`` lets oneDNN use the kernels of an older processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # in this process: others would outlive a crash

import forked
import torch
from shapes import KINDS, Case, case, ordered
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

import fxlrp
from fxlrp.backends import inductor

OUT = Path(__file__).parent / "results" / "geometries.json"
TOGETHER = 25
"""Cases that are captured as one model: what a capture costs besides is shared."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SECONDS = {"eager": 300, "packed": 300, "inductor": 1200}
"""After which a pack hangs."""
FACTOR, FLOOR, RUNS, MORE = 4, 4, 3, 40
LIMIT = f"""
How far results may be off is measured: the program runs in float64 with each of its values off by half a unit in the
last place of the type, up or down at random, and its constants by one of float32, in which products are summed. The
largest difference in {RUNS} such runs, or {MORE} where a result is beyond that, times {FACTOR}, is the limit, but at
least {FLOOR} units of the largest entry.
"""


class Pack(nn.Module):
    """Networks side by side, each with an input of its own; their outputs are one row."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(case.model() for case in cases)

    def forward(self, *inputs: Tensor) -> Tensor:
        pairs = zip(self.networks, inputs, strict=True)
        return torch.cat([network(x).flatten() for network, x in pairs])[None]


class Rounded(fx.Interpreter):
    """Runs a program with all its values a little off."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype, seed: int) -> None:
        super().__init__(module)
        self.unit, self.generator = torch.finfo(dtype).eps, torch.Generator().manual_seed(seed)

    def signs(self, like: Tensor) -> Tensor:
        return torch.randint(0, 2, like.shape, generator=self.generator) * 2.0 - 1

    def off(self, value: Any, by: float) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value * (1 + by * self.signs(value)) if floating else value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.off(super().get_attr(target, args, kwargs), torch.finfo(torch.float32).eps)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = super().call_function(target, args, kwargs)
        if target is torch.ops.aten.native_group_norm.default:  # of values that are alike, it subtracts large products
            y, mean, scale = found
            product = float(args[0].abs().max() * scale.max() * args[1].abs().max())
            return y + self.unit * product * self.signs(y), mean, scale
        if target is torch.ops.aten.native_group_norm_backward.default:  # likewise: what torch's own kernel loses
            rough = super().call_function(target, *tree_map_only(Tensor, Tensor.float, (args, kwargs)))
            return tuple(
                x if x is None else x + (y.double() - x).abs() * self.signs(x)
                for x, y in zip(found, rough, strict=True)
            )
        return self.off(found, self.unit / 2)


@dataclass(frozen=True)
class Task:
    """Cases of one pack, of one kind, that are judged together.

    Attributes:
        seed: That of the run.
        kind: What the cases are about.
        indices: Which they are.
        backends: How they are run.
        dtypes: In which types.
    """

    seed: int
    kind: str
    indices: tuple[int, ...]
    backends: tuple[str, ...]
    dtypes: tuple[str, ...] = tuple(DTYPES)

    @property
    def rules(self) -> str:
        return self.chance().choice(sorted(fxlrp.presets()))

    @property
    def as_given(self) -> bool:
        """Whether programs are traced with the very inputs that they run on, or with rows."""
        return self.chance().random() < 0.5

    def chance(self) -> random.Random:
        """The same for all cases of a pack, however it is halved."""
        return random.Random(f"{self.seed}/{self.kind}/pack {self.indices[0] // TOGETHER}")

    @property
    def seconds(self) -> float:
        """After which it hangs."""
        return max(SECONDS[backend] for backend in self.backends)

    def halves(self) -> list[Task]:
        """Nothing if it is a single case."""
        middle = len(self.indices) // 2
        return [replace(self, indices=part) for part in (self.indices[:middle], self.indices[middle:]) if middle]

    def __str__(self) -> str:
        return f"{self.kind}/{self.indices[0]}" + (f" to {self.indices[-1]}" if len(self.indices) > 1 else "")


Results = list[list[Tensor]]
"""Of each case its output and its relevance."""


@dataclass(frozen=True)
class Exact:
    """Cases in float64.

    Attributes:
        cases: The cases.
        model: Their networks.
        inputs: Their inputs.
        target: Coefficients at the output.
        expected: The right results.
        near: Results that are a little off, for each type.
    """

    cases: Sequence[Case]
    model: Pack
    inputs: Sequence[Tensor]
    target: Tensor
    expected: Results
    near: dict[str, list[Results]]

    @classmethod
    def of(cls, task: Task, runs: int = RUNS) -> Exact:
        cases = [case(task.seed, task.kind, index) for index in task.indices]
        model, inputs = Pack(cases).eval(), [case.input() for case in cases]
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = model(*leaves)
        target = torch.randint(1, 9, y.shape, generator=torch.Generator().manual_seed(task.seed)) / 8.0
        target = target.double()
        attributor = fxlrp.compile(model, rules=task.rules)
        attributor.compile(*inputs, target=target)
        program = attributor.program.module
        with torch.no_grad():
            flat = [y.detach(), *program(*inputs, target)[1:]]
            if task.rules == "gradient":
                flat[1:] = [x * g for x, g in zip(inputs, torch.autograd.grad(y, leaves, target), strict=True)]
            near = {
                name: [Rounded(program, dtype, seed).run(*inputs, target) for seed in range(runs)]
                for name, dtype in DTYPES.items()
                if name in task.dtypes
            }
        sizes = [network(x).numel() for network, x in zip(model.networks, inputs, strict=True)]
        sorted_runs = {name: [by_case(one, sizes) for one in found] for name, found in near.items()}
        return cls(cases, model, inputs, target, by_case(flat, sizes), sorted_runs)


def by_case(flat: Sequence[Tensor], sizes: Sequence[int]) -> Results:
    """Outputs and relevances of a program, sorted by case."""
    y, *relevances = flat
    return [[one.double(), r.double()] for one, r in zip(y[0].split(list(sizes)), relevances, strict=True)]


@dataclass(frozen=True)
class Verdict:
    """How far a result is off.

    Attributes:
        name: Kind and index of the case.
        dtype: Its type.
        backend: How it was run.
        what: The output or the relevance.
        error: The largest difference, relative to the largest entry.
        limit: The same of what rounding explains.
    """

    name: str
    dtype: str
    backend: str
    what: str
    error: float
    limit: float

    @property
    def right(self) -> bool:
        return self.error <= self.limit  # what is not a number is not


def judge(task: Task, runs: int = RUNS) -> list[Verdict]:
    """Run the cases in every type and by every backend, and compare; once more with a better limit if one is wrong."""
    exact = Exact.of(task, runs)
    verdicts = []
    for name in task.dtypes:
        dtype = DTYPES[name]
        model = Pack(exact.cases).to(dtype).eval()
        inputs = [ordered(x.to(dtype), one.order) for x, one in zip(exact.inputs, exact.cases, strict=True)]
        traced = inputs if task.as_given else [x.contiguous() for x in inputs]
        for backend in task.backends:
            found = run(model, inputs, traced, exact.target, task.rules, backend)
            results = by_case(found, [len(y) for y, _ in exact.expected])
            for i, index in enumerate(task.indices):
                for k, what in enumerate(("output", "relevance")):
                    near = [one[i][k] for one in exact.near[name]]
                    off = compare(results[i][k], exact.expected[i][k], near, torch.finfo(dtype).eps)
                    verdicts.append(Verdict(f"{task.kind}/{index}", name, backend, what, *off))
    return verdicts if runs == MORE or all(v.right for v in verdicts) else judge(task, MORE)


def run(
    model: nn.Module, inputs: Sequence[Tensor], traced: Sequence[Tensor], target: Tensor, rules: str, backend: str
) -> list[Tensor]:
    """The output and all relevances of a backend."""
    compile_graph: Any = inductor.compile_graph
    try:
        if backend == "packed":
            inductor.compile_graph = lambda module, values: module
        attributor = fxlrp.compile(model, rules=rules, backend="eager" if backend == "eager" else "inductor")
        attributor.compile(*traced, target=target)
        found = attributor(*inputs, target=target)
    finally:
        inductor.compile_graph = compile_graph
    relevances = found.relevance.values() if isinstance(found.relevance, dict) else [found.relevance]
    return [found.output.detach(), *relevances]


def compare(found: Tensor, expected: Tensor, near: Sequence[Tensor], unit: float) -> tuple[float, float]:
    """The largest difference and its limit, both relative to the largest entry."""
    largest = float(expected.abs().max()) or 1.0
    rounding = max(float((one - expected).abs().max()) for one in near)
    limit = max(FACTOR * rounding / largest, FLOOR * unit)
    return float((found - expected).abs().max()) / largest, limit


class Account:
    """What was found, kept in a file."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path = path
        self.found: dict[str, Any] = {"seed": seed, "environment": environment(), "limit": " ".join(LIMIT.split())}
        self.found |= {"cases": {}, "worst": {}, "failures": [], "judged": []}
        if path is not None and path.exists() and (known := json.loads(path.read_text()))["seed"] == seed:
            if known["environment"] != self.found["environment"]:
                raise SystemExit(f"{path} was begun in another environment: choose another file, or another seed")
            self.found = known
        self.judged = set(self.found["judged"])

    def add(self, task: Task, verdicts: Sequence[Verdict], reason: str) -> None:
        """Count the verdicts of a task, and show what is wrong."""
        counts = Counter(f"{task.kind}, {v.dtype}, {v.backend}" for v in verdicts if v.what == "output")
        for key, count in counts.items():
            self.found["cases"][key] = self.found["cases"].get(key, 0) + count
        for verdict in verdicts:
            key = f"{task.kind}, {verdict.dtype}, {verdict.what}"
            share = verdict.error / verdict.limit
            worst = self.found["worst"].setdefault(key, {"of the limit": 0.0})
            if verdict.right and share > worst["of the limit"]:
                self.found["worst"][key] = {"of the limit": share, "error": verdict.error, "case": verdict.name}
        wrong = [asdict(verdict) for verdict in verdicts if not verdict.right]
        if reason:
            wrong = [{"name": str(task), "backends": task.backends, "reason": reason}]
        for failure in wrong:
            index = int(failure["name"].partition("/")[2])
            failure |= {"rules": task.rules, "as given": task.as_given, "code": str(case(task.seed, task.kind, index))}
            print(json.dumps(failure), flush=True)
        self.found["failures"] += wrong
        self.found["judged"] += [label(task, index) for index in task.indices]
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def label(task: Task, index: int) -> str:
    return f"{task.kind}/{index} {' '.join((*task.backends, *task.dtypes))}"


def environment() -> dict[str, Any]:
    """What results may depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "oneDNN limited to": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "bfloat16 is packed": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def packs(task: Task, count: int) -> list[Task]:
    """Tasks of so many cases, like the given one."""
    borders = [*range(0, count, TOGETHER), count]
    return [replace(task, indices=tuple(range(*pair))) for pair in pairwise(borders)]


def planned(options: argparse.Namespace) -> list[Task]:
    """All that is to be judged."""
    backends, dtypes = tuple(options.backend), tuple(options.dtype)
    if options.only:
        kind, _, index = options.only.partition("/")
        return [Task(options.seed, kind, (int(index),), backends, dtypes)]
    tasks = []
    for kind, count in zip(KINDS, (options.count, options.products), strict=True):
        tasks += packs(Task(options.seed, kind, (), backends, dtypes), count)
        if "inductor" not in backends:
            tasks += packs(Task(options.seed, kind, (), ("inductor",), dtypes), min(count, options.compiled))
    return tasks


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="convolutions")
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--compiled", type=int, default=200, help="of either kind, compiled by Inductor as well")
    parser.add_argument("--backend", nargs="+", default=["eager", "packed"], choices=list(SECONDS))
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", help="one case, such as convolutions/12")
    parser.add_argument("--out", type=Path, help=f"keep account in this JSON file, and go on from it; ours is {OUT}")
    options = parser.parse_args(given)
    torch.set_num_threads(1)  # so that processes can be forked
    account = Account(options.out, options.seed)
    tasks = [t for t in planned(options) if label(t, t.indices[-1]) not in account.judged]
    cases, begun, number = sum(len(t.indices) for t in tasks), time.perf_counter(), 0

    def done(task: Task, verdicts: list[Verdict], reason: str) -> None:
        nonlocal number
        number += len(task.indices)
        account.add(task, verdicts, reason)
        seconds = time.perf_counter() - begun
        print(f"{number} of {cases} cases, {seconds:.0f} s, {seconds / number:.2f} s a case", file=sys.stderr)

    fxlrp.compile(nn.Linear(2, 2).eval(), rules="gradient")(torch.ones(1, 2), target=0)  # loads what processes share
    forked.sweep(tasks, options.processes, judge, done)
    for what in ("cases", "worst"):
        print(json.dumps(account.found[what], indent=1))
    print(f"seed {options.seed}: {len(account.found['failures'])} failures")
    return int(bool(account.found["failures"]))


if __name__ == "__main__":
    raise SystemExit(main())
