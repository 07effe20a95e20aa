"""What `Attributor.verify` found out, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from fxlrp.reports.terminal import write_table

PASSED, FAILED, IMPOSSIBLE = "passed", "failed", "not possible"
STYLES = {PASSED: "green", FAILED: "bold red", IMPOSSIBLE: "yellow"}


@dataclass(frozen=True)
class Check:
    """One property that was checked.

    Attributes:
        check: The property.
        status: ``"passed"``, ``"failed"`` or ``"not possible"``.
        error: The largest relative error in norm, if it could be measured.
        tolerance: The largest error that passes.
        reason: Why the tolerance is what it is, or why the check was not possible.
    """

    check: str
    status: str
    error: float | None
    tolerance: float | None
    reason: str


@dataclass(frozen=True)
class Verification:
    """The checks of a compiled model on the inputs of one call.

    Attributes:
        model: Class of the model.
        rules: Name of its rule set.
        backend: What runs its programs.
        checks: One per property.
    """

    model: str
    rules: str
    backend: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed, and one was possible."""
        statuses = {check.status for check in self.checks}
        return FAILED not in statuses and PASSED in statuses

    def to_rows(self) -> list[dict[str, Any]]:
        """Return checks as dictionaries, ready for ``pandas.DataFrame``."""
        return [asdict(check) for check in self.checks]

    def to_json(self) -> str:
        """Write all checks as JSON."""
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2)

    def table(self) -> Table:
        """Return the checks as a rich table."""
        counts = [sum(check.status == status for check in self.checks) for status in STYLES]
        table = Table(
            title=f"Verification: {self.model}, rules {self.rules}, backend {self.backend}",
            caption=", ".join(f"{count} {status}" for count, status in zip(counts, STYLES, strict=True)),
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("check")
        table.add_column("status", no_wrap=True)
        for name in ("error", "tolerance"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("reason")
        for check in self.checks:
            numbers = ("" if x is None else f"{x:.2g}" for x in (check.error, check.tolerance))
            table.add_row(check.check, Text(check.status, STYLES[check.status]), *numbers, Text(check.reason))
        return table

    def __str__(self) -> str:
        return write_table(self.table())


def compare_error(check: str, error: float, tolerance: float, reason: str) -> Check:
    """Compare the error of a check with its tolerance; an error that is no number fails."""
    return Check(check, PASSED if error <= tolerance else FAILED, error, tolerance, reason)


def skip_check(check: str, reason: str | BaseException) -> Check:
    """Return a check that could not be made."""
    lines: Sequence[str] = str(reason).strip().splitlines()
    kind = "" if isinstance(reason, str) else f"{type(reason).__name__}: "
    return Check(check, IMPOSSIBLE, None, None, kind + (lines[0] if lines else ""))
