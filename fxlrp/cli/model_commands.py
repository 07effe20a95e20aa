"""The commands that take a model: coverage, verify, graph, bench, tune and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.artifact_commands import make_artifact_table
from fxlrp.cli.prologue import keep_quiet, prepare_model, print_line, report_errors, show_progress, write_report
from fxlrp.reports.terminal import make_console


@report_errors
def coverage(
    model: options.Model,
    input: options.Input = None,
    text: options.Text = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    strict: options.Strict = True,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Show which op of a model gets which rule."""
    loaded = prepare_model(model, input, text, trust)
    attributor = loaded.compile(rules, output, strict=strict)
    with show_progress("compiling"):
        attributor.compile(*loaded.args, target=loaded.target, **loaded.kwargs)
    report = attributor.coverage()
    make_console().print(report.table())
    write_report(json, report.to_json() + "\n")


@report_errors
def verify(
    model: options.Model,
    input: options.Input = None,
    text: options.Text = None,
    target: options.Target = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    backend: options.Backend = "eager",
    json: Annotated[Path | None, typer.Option(help="Write the checks to this file, too.")] = None,
    strict: options.Strict = True,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Check fxlrp on your own model: output, gradients, ledger, batches, backend, seeds. Exit status 1 if one fails."""
    loaded = prepare_model(model, input, text, trust, target)
    attributor = loaded.compile(rules, output, backend=backend, strict=strict)
    with show_progress("checking"):
        found = attributor.verify(*loaded.args, target=loaded.target, **loaded.kwargs)
    make_console().print(found.table())
    write_report(json, found.to_json() + "\n")
    if not found.passed:
        raise typer.Exit(1)


@report_errors
def graph(
    model: options.Model,
    input: options.Input = None,
    text: options.Text = None,
    target: options.Target = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    out: Annotated[
        Path, typer.Option(help="Where to write: .html (an interactive page), .svg, .png or .pdf (drawn by graphviz).")
    ] = Path("model.html"),
    program: Annotated[bool, typer.Option("--program", help="Draw the relevance program, not the model.")] = False,
    strict: options.Strict = False,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Draw a model: what gets which rule, where relevance flows, what has no rule."""
    loaded = prepare_model(model, input, text, trust, target)
    attributor = loaded.compile(rules, output, strict=strict)
    with show_progress("drawing"):
        attributor.graph(out, *loaded.args, target=loaded.target, program=program, **loaded.kwargs)
    report = attributor.coverage()
    if missing := report.live - report.covered:
        make_console().print(f"{missing} of {report.live} live ops have no rule: red in the picture.")
    print_line(f"Wrote {out}")


@report_errors
def bench(
    model: options.Model,
    input: options.Input = None,
    text: options.Text = None,
    target: options.Target = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    backend: options.Backend = "eager",
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Round the products of the relevance pass.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="How often everything runs.")] = 10,
    strict: options.Strict = True,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Measure how long the model, its gradient and its relevance take."""
    from fxlrp.cli.timing import measure_times

    loaded = prepare_model(model, input, text, trust, target)
    precision = "bfloat16" if bfloat16 else None
    with show_progress("measuring"):
        times = measure_times(loaded, rules, backend, precision, options.parse_output(output), strict, repeats)
    make_console().print(times.table())
    print_line(times.loss())


@report_errors
def tune(
    model: options.Model,
    input: options.Input = None,
    target: options.Target = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            help="Preset to measure; may be given several times. [default: presets, and rules for the model's layers]",
            autocompletion=options.complete(*options.PRESETS),
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What is measured, flipping or leave_one_out.", autocompletion=options.complete(*options.METRICS)
        ),
    ] = "flipping",
    baseline: Annotated[
        float | None,
        typer.Option(help="What replaces parts: a number, or the id of a token. [default: a blur of images]"),
    ] = None,
    patch: Annotated[
        int | None, typer.Option(min=1, help="Side of the patches of images. [default: a seventh of the image]")
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=2, help="Samples that all candidates are measured on. [default: as it works out]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in each forward pass.")] = 32,
    output: options.Output = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the report to this file (.png, .svg, .pdf).")] = None,
    strict: options.Strict = True,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Measure rules on your own model and samples, and choose the best."""
    from fxlrp.cli.arguments import find_samples
    from fxlrp.evaluate.baselines import constant

    loaded = prepare_model(model, input, None, trust, target)
    with keep_quiet():
        report = fxlrp.tune(
            loaded.model,  # type: ignore[arg-type] # it refuses an exported program itself
            find_samples(loaded.args, loaded.kwargs),
            loaded.target,
            candidates=candidates or None,
            metric=metric,
            baseline=None if baseline is None else constant(baseline),
            patch=patch,
            first=first,
            batch=batch,
            output=options.parse_output(output),
            strict=strict,
        )
    make_console().print(report.table())
    print_line(f"\n{report.verdict}\n\n{report.usage()}\n")
    write_report(json, report.to_json() + "\n")
    if plot is not None:
        print_line(f"Wrote {report.plot(plot)}")


@report_errors
def export(
    model: options.Model,
    out: Annotated[Path, typer.Option(help="Where to write: .pt2 or .onnx.")],
    input: options.Input = None,
    text: options.Text = None,
    rules: options.Rules = "auto",
    output: options.Output = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="pt2, aoti (machine code in a .pt2 file) or onnx. [default: by the ending]",
            autocompletion=options.complete(*options.FORMATS),
        ),
    ] = None,
    seeds: Annotated[bool, typer.Option("--seeds", help="Take a seed for every output instead of an index.")] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Take inputs of these sizes only, not other batches and sequences.")
    ] = False,
    read: Annotated[list[str] | None, typer.Option(help="Module whose relevance is returned too.")] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="PEM file of a private key that signs the file (openssl genpkey -algorithm ed25519)."),
    ] = None,
    strict: options.Strict = True,
    trust: options.Trust = False,
    debug: options.Debug = False,
) -> None:
    """Save a model with its explanation as a file that runs without fxlrp."""
    loaded = prepare_model(model, input, text, trust)
    shapes = None if fixed else "auto"
    attributor = loaded.compile(rules, output, read=read or (), dynamic_shapes=shapes, strict=strict)
    with show_progress("exporting"):
        kind = "seed" if seeds else "index"
        attributor.save(out, *loaded.args, format=format, target=kind, sign=sign, **loaded.kwargs)
    for size in () if fixed else attributor.fixed_sizes():
        print_line(str(size))
    make_console().print(make_artifact_table(fxlrp.load(out, allow_native_code=True)))
    print_line(f"Wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
