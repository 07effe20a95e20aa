"""How many ops of published architectures have a rule: ``python benchmarks/coverage.py``.

Every model is built at its published size on the meta device, so that neither weights nor a network are needed, then
captured and planned as `fxlrp.compile` does it.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from published import ARCHITECTURES, Architecture
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import fx

import fxlrp
from fxlrp.capture.functional_graph import capture
from fxlrp.emit.lower import emit_program
from fxlrp.ir import targets
from fxlrp.ir.rule_set import RuleSet
from fxlrp.passes.analyses import liveness
from fxlrp.plan.decide import Plan, make_plan
from fxlrp.reports.coverage import report_coverage

PAPER = {
    "VGG16": (90, 90),
    "ResNet-50": (339, 339),
    "ViT-b-16": (779, 779),
    "EfficientNetv2-medium": (1526, 1526),
    "SigLIP-2-So400m-base14-384": (2178, 2178),
    "Wav2Vec2-xls-r-300m": (2021, 2022),
    "whisper-small": (2729, 2729),
    "GPT-2": (885, 885),
    "RoBERTa-large": (1461, 1461),
    "Llama3.2-1B": (1787, 1787),
    "Gemma-3-270m-it": (2482, 2482),
    "Qwen3-0.6B": (2590, 2590),
    "Flan-T5-large": (5713, 5713),
    "DePlot": (2863, 2863),
    "Mamba-130m": (3397, 3421),
}
"""Covered and all nodes of the autograd graph (Lee and Millan Arias 2025, table of operation coverage)."""
PAPER_TOTAL = (31440, 31465)
"""The total that the paper gives. Its rows add up to 30,840 of 30,865."""
PACKAGES = ("fxlrp", "torch", "transformers", "torchvision", "timm")


@dataclass(frozen=True)
class Measurement:
    """Coverage of one model.

    Attributes:
        name: Checkpoint or configuration.
        family: Kind of architecture.
        paper: Its name in the DynamicLRP paper, or nothing.
        parameters: Numbers in its parameters.
        nodes: Ops in the canonical graph.
        live: Ops on a path from an input to the output.
        covered: How many of them have a rule.
        held: Further ops with a differentiable path from an input to the output, where relevance does not flow because
            a rule holds them fixed or stops: statistics of norms, gates, divisors.
        held_covered: How many of these have a rule all the same.
        unique_ops: Kinds of ops among them.
        kinds: Live ops by kind of rule.
        promises: Live ops whose operands a walk over an autograd graph has to promise; none is needed here.
        density: Promises per live op.
        missing: Op, count and first source line of ops without a rule.
        strict: Whether the model compiles with ``strict=True``.
        build_seconds: To make the model without its weights.
        capture_seconds: To export and decompose it.
        plan_seconds: To run the passes and analyses and choose rules.
        program_nodes: Ops in the emitted program, if it was emitted.
        emit_seconds: To emit it.
    """

    name: str
    family: str
    paper: str
    parameters: int
    nodes: int
    live: int
    covered: int
    held: int
    held_covered: int
    unique_ops: int
    kinds: dict[str, int]
    promises: int
    density: float
    missing: list[tuple[str, int, str]]
    strict: bool
    build_seconds: float
    capture_seconds: float
    plan_seconds: float
    program_nodes: int = 0
    emit_seconds: float = 0.0


def measure(architecture: Architecture, rules: RuleSet, emit: bool = False) -> Measurement:
    """Build, capture and plan a model."""
    start = time.perf_counter()
    with torch.device("meta"):
        model, args, kwargs = architecture.build()
        model.to("meta").eval()
        built = time.perf_counter()
        captured = capture(model, args, kwargs)
    done = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no rule.*")
        made = make_plan(captured, rules, (), strict=False)
    planned = time.perf_counter()
    report = report_coverage(made, rules.name)
    held = fixed(made)
    kinds: Counter[str] = Counter()
    for row in report.rows:
        kinds[row.kind] += row.count
    found = Measurement(
        name=architecture.name,
        family=architecture.family,
        paper=architecture.paper,
        parameters=sum(p.numel() for p in model.parameters()),
        nodes=report.nodes,
        live=report.live,
        covered=report.covered,
        held=len(held),
        held_covered=len(rules.assign(held)),
        unique_ops=len({row.op for row in report.rows}),
        kinds=dict(kinds.most_common()),
        promises=report.promises_eliminated,
        density=round(report.promises_eliminated / report.live, 4),
        missing=[(row.op, row.count, row.source) for row in report.rows if row.rule == "MISSING"],
        strict=not made.missing,
        build_seconds=round(built - start, 2),
        capture_seconds=round(done - built, 2),
        plan_seconds=round(planned - done, 2),
    )
    return with_program(found, made) if emit else found


def fixed(made: Plan) -> list[fx.Node]:
    """Ops on a differentiable path from an input to the output that carry no relevance."""
    starts = {source.node for source in made.sources}
    slots = liveness.find_live(made.captured.graph, starts, made.captured.explained, {}, lambda node, reached: ())
    return [node for node in slots if slots[node] and node not in made.twins]


def with_program(found: Measurement, made: Plan) -> Measurement:
    """Emit the program for the largest output, too."""
    start = time.perf_counter()
    form, _ = targets.split_target(None, tuple(made.captured.explained.meta["val"].shape))
    program = emit_program(made, form)
    nodes = sum(node.op == "call_function" for node in program.module.graph.nodes)
    return replace(found, program_nodes=nodes, emit_seconds=round(time.perf_counter() - start, 2))


def totals(measurements: Iterable[Measurement]) -> dict[str, Any]:
    """Sums over models."""
    rows = list(measurements)
    live, covered, promises = (sum(getattr(m, k) for m in rows) for k in ("live", "covered", "promises"))
    held, held_covered = (sum(getattr(m, k) for m in rows) for k in ("held", "held_covered"))
    return {
        "models": len(rows),
        "strict": sum(m.strict for m in rows),
        "nodes": sum(m.nodes for m in rows),
        "live": live,
        "covered": covered,
        "percent": round(100 * covered / max(live, 1), 2),
        "held": held,
        "held_covered": held_covered,
        "promises": promises,
        "density": round(promises / max(live, 1), 4),
        "seconds": round(sum(m.capture_seconds + m.plan_seconds for m in rows), 1),
    }


def groups(measurements: Iterable[Measurement]) -> dict[str, dict[str, Any]]:
    """Sums over the models of the paper, the others, and all."""
    rows = list(measurements)
    parts = {"of the paper": [m for m in rows if m.paper], "others": [m for m in rows if not m.paper], "all": rows}
    return {name: totals(part) for name, part in parts.items()}


def summary(measurements: Sequence[Measurement], failures: Mapping[str, str], rules: str) -> dict[str, Any]:
    """Everything that is written: what was measured, where, and with what."""
    covered, nodes = PAPER_TOTAL
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rules": rules,
        "versions": versions(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "totals": groups(measurements),
        "dynamiclrp": {"covered": covered, "nodes": nodes, "percent": round(100 * covered / nodes, 2), "models": PAPER},
        "failures": dict(failures),
        "models": [asdict(m) for m in measurements],
    }


def earlier(path: Path, rules: str) -> dict[str, Measurement]:
    """What the same versions measured before, by name; rows of another form are left out."""
    report = json.loads(path.read_text()) if path.exists() else {}
    if (report.get("rules"), report.get("versions")) != (rules, versions()):
        return {}
    known = {field.name for field in fields(Measurement)}
    found = [Measurement(**m) for m in report["models"] if m.keys() == known]
    return {m.name: m for m in found if m.name in ARCHITECTURES}


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(measurements: Sequence[Measurement]) -> Table:
    """A row for every model; without all its rules it is red."""
    shown = Table(title="Coverage of published architectures", title_justify="left")
    shown.add_column("model")
    shown.add_column("family")
    for column in (
        "nodes",
        "live",
        "covered",
        "held",
        "ops",
        "promises",
        "density",
        "capture s",
        "plan s",
        "DynamicLRP",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for m in measurements:
        theirs = "{:,}/{:,}".format(*PAPER[m.paper]) if m.paper else ""
        shown.add_row(
            m.name,
            m.family,
            f"{m.nodes:,}",
            f"{m.live:,}",
            f"{m.covered:,}",
            f"{m.held_covered:,}/{m.held:,}",
            str(m.unique_ops),
            f"{m.promises:,}",
            f"{m.density:.3f}",
            f"{m.capture_seconds:.1f}",
            f"{m.plan_seconds:.1f}",
            theirs,
            style=None if m.strict else "bold red",
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="which models, such as 'timm/*'; all by default")
    parser.add_argument("--rules", default="attnlrp", help="name of a preset")
    parser.add_argument("--emit", action="store_true", help="emit the relevance programs, too")
    parser.add_argument("--out", type=Path, help="JSON file; models that it holds and that are not chosen stay in it")
    options = parser.parse_args()
    rules = fxlrp.rule_set(options.rules)
    chosen = [a for a in ARCHITECTURES.values() if any(fnmatch.fnmatchcase(a.name, p) for p in options.patterns)]
    if not chosen:
        parser.error(f"no architecture is named like {options.patterns}")
    console = Console()
    wide = Console(width=max(console.width, 175))
    found = earlier(options.out, rules.name) if options.out else {}
    failures: dict[str, str] = {}
    for i, architecture in enumerate(chosen, 1):
        found.pop(architecture.name, None)
        try:
            with console.status(f"{i} of {len(chosen)}: {architecture.name}"):
                found[architecture.name] = measure(architecture, rules, options.emit)
            console.print(*lines(found[architecture.name]), sep="\n", highlight=False)
        except Exception as error:  # a long run goes on, and reports it
            failures[architecture.name] = f"{type(error).__name__}: {error}"
            console.print(f"{architecture.name}: [bold red]failed[/]", Text(failures[architecture.name]))
        gc.collect()
        rows = sorted(found.values(), key=lambda m: (not m.paper, m.family, m.name))
        report = summary(rows, failures, rules.name)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    wide.print(table(rows))
    for name, sums in groups(found.values()).items():
        console.print(f"{name}: {sums['covered']:,} of {sums['live']:,} live ops ({sums['percent']:.2f} %)")
    console.print("DynamicLRP: {:,} of {:,} autograd nodes".format(*PAPER_TOTAL))
    return int(bool(failures) or not all(m.strict for m in found.values()))


def lines(m: Measurement) -> list[str]:
    """One line on a model, and one on each op without a rule."""
    seconds = m.capture_seconds + m.plan_seconds
    missing = [f"  [bold red]no rule[/]: {op} x{count}  {source}" for op, count, source in m.missing]
    return [f"{m.name}: {m.covered:,} of {m.live:,} live ops, {seconds:.1f} s", *missing]


if __name__ == "__main__":
    sys.exit(main())
