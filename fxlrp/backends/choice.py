"""How a program runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxlrp._torch import generate
from fxlrp.backends.constants import Store, copied, split
from fxlrp.backends.cudagraphs import cudagraphs
from fxlrp.backends.dense import densify
from fxlrp.backends.in_place import reuse
from fxlrp.backends.inductor import inductor
from fxlrp.backends.packed_filters import pack_convolutions
from fxlrp.errors import SignatureError
from fxlrp.ir.program import Program

Runner = Callable[..., Any]


def eager(program: Program, store: Store | None = None) -> Runner:
    """The generated Python code, op by op."""
    own = copied(program.module)
    pack_convolutions(own.graph)
    module, constants = split(own, store)
    reuse(module.graph)
    densify(module.graph)
    generate(module)

    def run(*tensors: Any) -> Any:
        try:
            return module.forward(*tensors, *constants())  # without hooks on all modules: it is none of the model's
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise SignatureError(
                f"the program failed on these inputs\n  {error}\n"
                "Does the model itself run on them? Compare their dtypes and devices with those of its parameters."
            ) from error

    return run


Backend = Callable[[Program, Store | None], Runner]
"""Makes a program run; programs of one model that are given one store share what depends on its tensors alone."""
BACKENDS: dict[str, Backend] = {"eager": eager, "inductor": inductor, "cudagraphs": cudagraphs}


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        SignatureError: If there is none.
    """
    if name not in BACKENDS:
        raise SignatureError(f"backend={name!r} is none of {', '.join(map(repr, BACKENDS))}")
    return BACKENDS[name]
