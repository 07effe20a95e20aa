"""How fast the page of a large model opens in Chromium: ``python benchmarks/page.py``.

The models are as deep as they were published and narrow, so that relevance and its ledger are computed in a minute.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fxlrp

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from browser import Browser
from deep import DEEP

NOTES = "JSON.parse(document.getElementById('data').textContent).notes"
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
MODULES = {"resnet50": "layer3.2", "llama": "model.layers.5", "flan_t5": "decoder.block.20"}
"""A module of each to open for the pictures."""


def write(name: str, path: Path) -> None:
    """Write the page of a model with flow and ledger."""
    model, args, kwargs = DEEP[name]()
    target = None if name == "resnet50" else (-1, None)
    attributor = fxlrp.compile(model)
    ledger = attributor.ledger(*args, target=target, **kwargs)
    attributor.graph(path, *args, target=target, ledger=ledger, **kwargs)


def opening(browser: Browser, path: Path) -> float:
    """Seconds until a page is ready and painted."""
    start = time.perf_counter()
    browser.open(path)
    browser.evaluate(DRAWN)
    return time.perf_counter() - start


def take_pictures(browser: Browser, name: str, folder: Path) -> None:
    """Write what is seen at first, and with a module open."""
    browser.screenshot(folder / f"{name}.png")
    browser.evaluate("document.getElementById('search').focus()")
    browser.type(MODULES[name])
    browser.press("Enter", 13)
    if browser.evaluate("document.querySelector('.item.chosen').getAttribute('aria-expanded')") == "false":
        browser.press("Enter", 13)
    browser.screenshot(folder / f"{name}-open.png")


def machine() -> str:
    """What the seconds were measured on."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    version = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {version}; torch {torch.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(DEEP), help=f"some of {', '.join(DEEP)}")
    parser.add_argument("--repeats", type=int, default=5, help="times that each page is opened")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args(arguments)
    table = Table("model", "ops", "program", "kB", "least s", "median s", title=machine())
    for column in table.columns[3:]:
        column.justify = "right"
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        for name in options.models:
            path = Path(folder) / f"{name}.html"
            write(name, path)
            seconds = [opening(browser, path) for _ in range(options.repeats)]
            size = f"{path.stat().st_size / 1000:.0f}"
            numbers = (f"{min(seconds):.2f}", f"{statistics.median(seconds):.2f}")
            notes = browser.evaluate(NOTES)
            table.add_row(name, notes["ops"], notes["program"], size, *numbers)
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                take_pictures(browser, name, options.pictures)
        failed = bool(browser.errors) or any(not url.startswith("file://") for url in browser.requests)
        for error in browser.errors:
            print(error, file=sys.stderr)
    Console(width=150).print(table)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
