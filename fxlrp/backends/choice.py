"""How a program runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxlrp._torch import generate_code
from fxlrp.backends.constants import ConstantStore, copy_program, split_constants
from fxlrp.backends.cudagraphs import record_as_cuda_graphs
from fxlrp.backends.dense import order_operands
from fxlrp.backends.in_place import write_in_place
from fxlrp.backends.inductor import compile_by_inductor
from fxlrp.backends.packed_filters import pack_convolutions
from fxlrp.errors import SignatureError
from fxlrp.ir.program import Program

Runner = Callable[..., Any]


def run_op_by_op(program: Program, store: ConstantStore | None = None) -> Runner:
    """Make the generated Python code run, op by op."""
    own = copy_program(program.module)
    pack_convolutions(own.graph)
    module, constants = split_constants(own, store)
    write_in_place(module.graph)
    order_operands(module.graph)
    generate_code(module)

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


Backend = Callable[[Program, ConstantStore | None], Runner]
"""Makes a program run; programs of one model that are given one store share what depends on its tensors alone."""
BACKENDS: dict[str, Backend] = {
    "eager": run_op_by_op,
    "inductor": compile_by_inductor,
    "cudagraphs": record_as_cuda_graphs,
}


def find_backend(name: str) -> Backend:
    """Find the backend of that name.

    Raises:
        SignatureError: If there is none.
    """
    if name not in BACKENDS:
        raise SignatureError(f"backend={name!r} is none of {', '.join(map(repr, BACKENDS))}")
    return BACKENDS[name]
