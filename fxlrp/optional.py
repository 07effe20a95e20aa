"""Packages that fxlrp needs for some commands only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from fxlrp.errors import FxlrpError


def require(module: str, extra: str) -> Any:
    """Import a module of an optional dependency.

    Raises:
        FxlrpError: If it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise FxlrpError(
            f'this needs the package {error.name}, which is not installed: pip install "fxlrp[{extra}]"'
        ) from error


@contextmanager
def import_transformers(extra: str) -> Iterator[Any]:
    """Import the library transformers, silenced, for as long as models are loaded with it.

    A torchvision that was built for another torch is installed but fails when imported, and most classes of
    transformers fail with it; inside this context it counts as not installed.
    """
    with hide_if_broken("torchvision"):
        library = require("transformers", extra)
        library.utils.logging.disable_progress_bar()
        yield library


@contextmanager
def hide_if_broken(package: str) -> Iterator[None]:
    """Hide an installed package that cannot be imported."""
    if not is_broken(package):
        yield
        return
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def is_broken(package: str) -> bool:
    """Return whether a package is installed but fails when imported."""
    try:
        import_module(package)
    except ModuleNotFoundError:
        return False
    except Exception:
        return True
    return False
