"""Pictures of a compiled model, by the ending of a file's name."""

from __future__ import annotations

from pathlib import Path

from fxlrp.errors import FxlrpError
from fxlrp.reports.drawing import dot
from fxlrp.reports.drawing.page import make_page
from fxlrp.reports.drawing.picture import Picture
from fxlrp.reports.drawing.picture_of_plan import make_picture
from fxlrp.reports.edge_relevance import measure_flow
from fxlrp.reports.ledger import Ledger
from fxlrp.session.call import Call, fit_call
from fxlrp.session.programs import Programs
from fxlrp.session.signature import plain_mode

ACCOUNT_COLUMNS = ("received", "passed", "absorbed", "leaked", "stabiliser", "magnitude")


def list_accounts(ledger: Ledger | None) -> dict[str, dict[str, float]]:
    """Return rows of a ledger by name of the node."""
    return {e.node: {name: getattr(e, name) for name in ACCOUNT_COLUMNS} for e in (ledger.entries if ledger else ())}


def draw_programs(
    programs: Programs, path: str | Path, call: Call | None, ledger: Ledger | None, program: bool
) -> Path:
    """Draw a model and its relevance program, of the last call or of this one; return the path.

    Args:
        programs: The programs of the model.
        path: Where to write.
        call: Its relevance is the width of the edges.
        ledger: An account whose rows are shown at the nodes.
        program: Draw the relevance program; the page shows it first.

    Raises:
        FxlrpError: If the ending names no format, graphviz is not installed, or the call is not possible.
    """
    flow = None
    if call is not None:
        with plain_mode():
            fitted = fit_call(programs, call, programs.find_program)
            flow = measure_flow(fitted.signature.plan, fitted.tensors, fitted.form, fitted.numbers)
    signature, used = programs.last
    title, rows = type(programs.model).__name__, list_accounts(ledger)
    drawn = make_picture(signature.plan, programs.options.rules, used, title=title, flow=flow, numbers=rows)
    return write_picture(drawn, path, program)


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
