"""A picture as one interactive HTML page that needs nothing else, not even a network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from fxlrp.reports.drawing.picture import NODE_KINDS, Boxes, Node, Picture, View

SCRIPTS = ("data.js", "layout.js", "drawing.js", "panel.js", "events.js")
"""Parts of the page's program, in order: they share one scope."""


class TextTable:
    """Texts by number, so that the page holds each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """Return the text's number."""
        return self.numbers.setdefault(text, len(self.numbers))


def make_page(picture: Picture, program: bool = False) -> str:
    """Write the HTML of a picture, which shows the model first, or its program."""
    assets = files("fxlrp.reports.drawing") / "assets"
    frame, style, *scripts = (
        (assets / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *SCRIPTS)
    )
    title = escape(f"{picture.title}: {picture.rules}")
    parts = {"TITLE": title, "STYLE": style, "SCRIPT": "\n".join(scripts), "DATA": write_data(picture, program)}
    return re.sub("@(TITLE|STYLE|SCRIPT|DATA)@", lambda found: parts[found[1]], frame)


def write_data(picture: Picture, program: bool) -> str:
    """Write the picture as JSON that may stand inside a script element."""
    strings = TextTable()
    strings("")
    content = {
        "title": picture.title,
        "rules": picture.rules,
        "first": int(program),
        "kinds": {name: vars(kind) for name, kind in NODE_KINDS.items()},
        "missing": {name: list(inputs) for name, inputs in picture.missing.items()},
        "notes": dict(picture.notes),
        "views": [{"name": name, **make_columns(view, strings)} for name, view in picture.views.items()],
        "strings": list(strings.numbers),
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def make_columns(view: View, strings: TextTable) -> dict[str, Any]:
    """Turn a view into columns; boxes are a tree of (path, class, number of the box around it or -1)."""
    boxes: dict[Boxes, int] = {}
    index = {node.name: i for i, node in enumerate(view.nodes)}
    texts = ("name", "op", "kind", "rule", "formula", "shape", "dtype", "source", "origin")
    return {
        "nodes": {text: [strings(getattr(node, text)) for node in view.nodes] for text in texts},
        "box": [number_box(node.boxes, boxes) for node in view.nodes],
        "boxes": [[strings(c[-1][0]), strings(c[-1][1]), boxes.get(c[:-1], -1)] for c in boxes],
        "numbers": {str(i): row for i, node in enumerate(view.nodes) if (row := round_numbers(node))},
        "edges": [
            [index[e.start], index[e.end], int(e.live), *([round_number(e.weight)] if e.weight is not None else [])]
            for e in view.edges
        ],
    }


def number_box(chain: Boxes, boxes: dict[Boxes, int]) -> int:
    """Return the number of the innermost box of a chain; the boxes around it come first."""
    for size in range(1, len(chain) + 1):
        boxes.setdefault(chain[:size], len(boxes))
    return boxes.get(chain, -1)


def round_numbers(node: Node) -> Mapping[str, float | str]:
    """Round the node's numbers; JSON has none that are not finite."""
    return {name: round_number(number) for name, number in node.numbers.items()}


def round_number(number: float) -> float | str:
    """Round to six digits, which are enough to look at."""
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)
