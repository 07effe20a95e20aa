"""While torch captures a model it prints graphs and stacks of what fails; an error of fxlrp says it in four lines."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from fxlrp._torch import list_printers

log = logging.getLogger("fxlrp")


@contextlib.contextmanager
def silence_torch() -> Iterator[None]:
    """Keep what torch says in this thread off the screen; the log of fxlrp has it at level DEBUG."""
    thread = threading.get_ident()

    def printed(*texts: Any, **options: Any) -> None:
        if threading.get_ident() == thread:
            log.debug("torch: %s", " ".join(map(str, texts)))
        else:
            print(*texts, **options)  # noqa: T201

    def heard(record: logging.LogRecord) -> bool:
        ours = record.thread == thread and record.levelno >= logging.WARNING and record.name.startswith("torch")
        if ours:
            log.debug("%s: %s", record.name, record.getMessage())
        return not ours

    with contextlib.ExitStack() as stack:
        for handler in find_handlers():
            handler.addFilter(heard)
            stack.callback(handler.removeFilter, heard)
        for module in list_printers():
            vars(module)["print"] = printed
            stack.callback(vars(module).pop, "print")
        yield


def find_handlers() -> set[logging.Handler]:
    """Find the handlers that what torch logs can reach."""
    named = [logger for name, logger in logging.root.manager.loggerDict.items() if name.startswith("torch")]
    loggers = [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]
    last = {logging.lastResort} if logging.lastResort is not None else set()
    return last.union(*(logger.handlers for logger in loggers))
