"""Pictures of a compiled model, by the ending of a file's name."""

from __future__ import annotations

from pathlib import Path

from fxlrp.errors import FxlrpError
from fxlrp.reports.drawing import dot
from fxlrp.reports.drawing.page import make_page
from fxlrp.reports.drawing.picture import Picture
from fxlrp.reports.ledger import Ledger

ACCOUNT_COLUMNS = ("received", "passed", "absorbed", "leaked", "stabiliser", "magnitude")


def list_accounts(ledger: Ledger | None) -> dict[str, dict[str, float]]:
    """Rows of a ledger by name of the node."""
    return {e.node: {name: getattr(e, name) for name in ACCOUNT_COLUMNS} for e in (ledger.entries if ledger else ())}


def write_picture(picture: Picture, path: str | Path, program: bool = False) -> Path:
    """Write a picture: an interactive page for ``.html``, otherwise what graphviz makes of it.

    Args:
        picture: What to draw.
        path: Where to write.
        program: Draw the relevance program; the page shows it first.

    Raises:
        FxlrpError: If the ending names no format, or graphviz is not installed.
    """
    path = Path(path)
    format = path.suffix.lower().removeprefix(".")
    if format == "html":
        path.write_text(make_page(picture, program), encoding="utf-8")
    elif format in dot.FORMATS:
        path.write_bytes(dot.render(picture, format, program))
    else:
        endings = ", ".join(f".{known}" for known in ("html", *dot.FORMATS))
        raise FxlrpError(f"{path.name}: a picture ends in one of {endings}")
    return path
