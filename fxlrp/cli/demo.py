"""The demonstrations: train or load a model, explain it, account for it, say where the pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import fxlrp
from fxlrp.cli import options
from fxlrp.cli.prologue import print_line, report_errors
from fxlrp.reports.terminal import make_console, show_words

FIRST_SENTENCE = "He withdrew money from the bank."
SECOND_SENTENCE = "She sat on the bank of the river."
TOLERANCE = 1e-4
"""Largest error of the checks, relative to the explained value; they run in float32."""


@report_errors
def demo(
    text: Annotated[bool, typer.Option("--text", help="Compare two sentences instead of reading digits.")] = False,
    first: Annotated[str, typer.Option(help="First sentence, with --text.")] = FIRST_SENTENCE,
    second: Annotated[str, typer.Option(help="Second sentence, with --text.")] = SECOND_SENTENCE,
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("fxlrp-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data split and the training.")] = 0,
    debug: options.Debug = False,
) -> None:
    """Explain a small network on digits and a trained one on photographs (or a sentence encoder), with pictures."""
    if text or (first, second) != (FIRST_SENTENCE, SECOND_SENTENCE):
        demo_sentences(first, second, folder)
    else:
        demo_digits(folder, seed)
        demo_photographs(folder)


def demo_digits(folder: Path, seed: int) -> None:
    """Train, explain, and account for every digit."""
    from fxlrp.demos import digits

    out, epochs = make_console(), 12
    data = digits.load_digits(seed)
    with Progress(console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("training", total=epochs)
        model = digits.train_network(data, seed, epochs, lambda: progress.advance(task))
    with make_console(stderr=True).status("explaining"):
        report = digits.explain_digits(model, data, folder)
    out.print(f"A small network reads {100 * report.accuracy:.1f} % of {digits.HELD_OUT} held-out digits.\n")
    table = Table("digit", "read as", "probability", "logit", "AttnLRP", "biases", "epsilon_gamma_box")
    for column in table.columns[2:]:
        column.justify = "right"
    for s in report.samples:
        numbers = (f"{v:.4f}" for v in (s.logit, s.relevance, s.biases, s.box))
        table.add_row(str(s.label), str(s.predicted), f"{100 * s.probability:.1f} %", *numbers)
    out.print(table)
    out.print(
        "AttnLRP and epsilon_gamma_box: relevance of all pixels together. The biases keep what they add to the logit, "
        "here computed by autograd; AttnLRP leaves the rest to the pixels."
    )
    worst = max(abs(s.relevance + s.biases - s.logit) for s in report.samples)
    check_account(out, "AttnLRP + biases = logit", worst, max(abs(s.logit) for s in report.samples))
    show_coverage(out, report.attributor, report.files)


def demo_photographs(folder: Path) -> None:
    """Explain what EfficientNet-Lite0 sees in photographs."""
    from fxlrp.demos import efficientnet, photographs

    out = make_console()
    try:
        model = efficientnet.load_efficientnet()
    except fxlrp.FxlrpError as error:
        print_line(f"\nNo photographs are explained: {error}")
        return
    with make_console(stderr=True).status("explaining photographs by several presets"):
        report = photographs.explain_photographs(model, folder)
    out.print("\nEfficientNet-Lite0, trained on ImageNet (weights under Apache-2.0), sees in photographs:\n")
    table = Table("photograph", "seen as", "probability", "logit", "pixels")
    for column in table.columns[2:]:
        column.justify = "right"
    for s in report.samples:
        table.add_row(s.name, s.predicted, f"{100 * s.probability:.1f} %", f"{s.logit:.4f}", f"{s.relevance:.4f}")
    out.print(table)
    ledger = report.ledger
    check_account(out, "pixels + all that was kept on the way = logits", abs(ledger.gap), ledger.explained)
    show_coverage(out, report.attributor, report.files)


def demo_sentences(first: str, second: str, folder: Path) -> None:
    """Explain how similar two sentences are."""
    from fxlrp.demos import sentences

    out = make_console()
    with make_console(stderr=True).status("loading the encoder"):
        tokenizer, encoder = sentences.load_encoder()
    with make_console(stderr=True).status("explaining"):
        report = sentences.explain_sentences(tokenizer, encoder, first, second, folder)
    out.print(f"Cosine similarity {report.similarity:.4f}\n")
    show_words(out, report.first.words, report.second.words)
    head, *rows = report.table()
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print(sentences.NOTE)
    total = report.first.embedding + report.second.embedding
    check_account(out, "relevance of both mean vectors = similarity", abs(total - report.similarity), report.similarity)
    show_coverage(out, report.attributor, report.files)


def check_account(out: Console, what: str, difference: float, scale: float) -> None:
    """Print how well an account closes, and fail if it does not."""
    good = difference <= TOLERANCE * max(abs(scale), 1.0)
    out.print(f"Check: {what}, largest difference {difference:.1e}: {'ok' if good else 'FAILED'}\n")
    if not good:
        raise typer.Exit(1)


def show_coverage(out: Console, attributor: fxlrp.Attributor, files: Sequence[Path]) -> None:
    """Print the coverage report and where the files are."""
    out.print(attributor.coverage().table())
    out.print()
    for path in files:
        print_line(f"Wrote {path}")
