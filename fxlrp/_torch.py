"""Every private torch import, in one place, so that an upstream move is a one-line fix."""

import contextlib
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.export.dynamic_shapes
import torch.export.exported_program
import torch.fx._lazy_graph_module
import torch.fx.experimental._config
import torch.fx.graph_module
from sympy import Integer as Integer
from torch._dispatch.python import enable_python_dispatcher as enable_python_dispatcher
from torch._ops import OpOverload as OpOverload
from torch._ops import OpOverloadPacket as OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as disable_proxy_modes_tracing
from torch.fx.experimental.proxy_tensor import make_fx as make_fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int as is_concrete_int
from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true
from torch.fx.traceback import annotate as annotate
from torch.fx.traceback import preserve_node_meta as preserve_node_meta
from torch.fx.traceback import set_current_meta as set_current_meta
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec as TreeSpec
from torch.utils._pytree import keystr as keystr
from torch.utils._pytree import tree_flatten as tree_flatten
from torch.utils._pytree import tree_flatten_with_path as tree_flatten_with_path
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_leaves_with_path as tree_leaves_with_path
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_map_only as tree_map_only
from torch.utils._pytree import tree_unflatten as tree_unflatten
from torch.utils._sympy.printers import PythonPrinter

# torch 2.14 removed `torch.cholesky`; `torch.linalg.cholesky` is another op
CHOLESKY: tuple[OpOverload, ...] = (torch.ops.aten.cholesky.default,) if hasattr(torch.ops.aten, "cholesky") else ()

# Inductor before torch 2.13 makes a scatter onto a constant float32, whatever the dtype of the constant
BEFORE_2_13 = torch.__version__ < (2, 13)  # type: ignore[operator]
INDUCTOR: dict[str, Any] = {"optimize_scatter_upon_const_tensor": False} if BEFORE_2_13 else {}


def load_exported(path: Path) -> torch.export.ExportedProgram:
    """Load what `torch.export.save` wrote, without the warning of torch before 2.13 that it reads weights in place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(path)


def decompose(exported: torch.export.ExportedProgram, table: Mapping[Any, Any]) -> torch.export.ExportedProgram:
    """Call `run_decompositions`, which on small graphs takes five times as long.

    It overrides 500 composite ops one by one by what they are anyway, each time; here, only those that become other
    than they are.
    """
    registered = tuple(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
    overridden, decomposed = split_decompositions(registered, tuple(table.items()))
    with unset_fake_temporarily():
        whole: torch.export.ExportedProgram = torch.export.exported_program._decompose_exported_program(
            exported,
            cia_to_decomp=overridden,
            python_decomp_table=dict(decomposed),
            joint_loss_index=None,
            decompose_custom_triton_ops=False,
        )
    return whole


@functools.lru_cache(maxsize=2)
def split_decompositions(registered: tuple[str, ...], items: tuple[Any, ...]) -> tuple[Any, Any]:
    """Split a table into composite ops that become other than they are, and ops that are not composite.

    Args:
        registered: Names of all composite ops, on which the result depends.
        items: Of the table.
    """
    split = torch.export.exported_program._split_decomp_table_to_cia_and_python_decomp
    composite, decomposed = split(dict(items))
    return {op: f for op, f in composite.items() if getattr(f, "keywords", {}).get("kernel") is not op}, decomposed


def print_specializations() -> Any:
    """Let torch log every size that it specialises, inside a context."""
    return torch.fx.experimental._config.patch(print_specializations=True)  # type: ignore[attr-defined]


def combine_args(*args: Any) -> Any:
    """Return arguments of a module by name, as torch.export binds them."""
    return torch.export.dynamic_shapes._combine_args(*args)


def map_shapes(*args: Any) -> Any:
    """Apply a function to each input and what ``dynamic_shapes`` says of it; return what has the form of the latter."""
    return torch.export.dynamic_shapes._tree_map_with_path(*args, tree_name="inputs")


def chooses_layout(guard: Any) -> bool:
    """Return whether torch asked for a size to guess which kernel would run a convolution, for its strides."""
    place = guard.sloc.framework_loc
    return getattr(place, "name", "") == "conv" and str(getattr(place, "filename", "")).endswith("fake_impls.py")


def print_python(expression: Any) -> str:
    """Write a symbolic expression as Python does."""
    text: str = PythonPrinter().doprint(expression)
    return text


def lazy_modules() -> Any:
    """Let torch generate the code of a graph module when it first runs, not whenever it changes, inside a context."""
    return torch.fx._lazy_graph_module._use_lazy_graph_module(True)


def generate_code(module: torch.fx.GraphModule) -> None:
    """Generate the code of a graph module now: what is lazy would do it in whichever threads run it first."""
    module.recompile()
    if isinstance(module, torch.fx._lazy_graph_module._LazyGraphModule):
        module.real_recompile()


def without_modes() -> Any:
    """Make tensors real and trace nothing inside a context, whatever goes on around it."""
    context = contextlib.ExitStack()
    context.enter_context(torch._C.DisableTorchFunction())
    context.enter_context(_disable_current_modes())
    return context


def without_function_modes() -> Any:
    """Leave out modes of torch's functions, such as a default device, inside a context."""
    return torch._C.DisableTorchFunction()


def compile_graph(module: torch.fx.GraphModule, values: list[Any]) -> Any:
    """Call `torch._inductor.compile`, whose import takes a second or two."""
    import torch._inductor

    return torch._inductor.compile(module, values, options=INDUCTOR or None)


def compile_open(module: torch.fx.GraphModule) -> Any:
    """Call `torch.compile` for a graph with open sizes."""
    return torch.compile(module, fullgraph=True, dynamic=True, options=INDUCTOR or None)


def compile_ahead(module: torch.fx.GraphModule, values: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call `torch._inductor.aot_compile`."""
    import torch._inductor

    return torch._inductor.aot_compile(module, values, options=options | INDUCTOR)


def load_package(path: str) -> Any:
    """Call `torch._inductor.aoti_load_package`."""
    import torch._inductor

    return torch._inductor.aoti_load_package(path)


def package_pt2(*args: Any, **kwargs: Any) -> Any:
    """Write an archive as torch.export does; its import brings dynamo with it."""
    from torch.export.pt2_archive._package import package_pt2

    return package_pt2(*args, **kwargs)


def list_printers() -> tuple[Any, ...]:
    """List torch's modules that print the graph of what fails to standard error; the first brings Inductor with it."""
    import torch.export._trace

    return torch.export._trace, torch.fx.graph_module


def list_global_hooks() -> list[Any]:
    """List the hooks on every module there is."""
    module = torch.nn.modules.module
    return [*module._global_forward_pre_hooks.values(), *module._global_forward_hooks.values()]


def export_schema() -> Any:
    """Return the dataclasses that describe how torch.export writes a program as JSON."""
    import torch._export.serde.schema

    return torch._export.serde.schema


def is_tagged(kind: Any) -> bool:
    """Return whether a class of that description is written as one field of several."""
    return issubclass(kind, torch._export.serde.union._Union)


def list_schema_dtypes() -> dict[int, torch.dtype]:
    """Return types of tensors by their number in that description."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    return _SERIALIZE_TO_TORCH_DTYPE  # type: ignore[no-any-return]


def list_schema_formats() -> dict[int, torch.memory_format]:
    """Return memory formats by their number in that description."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_MEMORY_FORMAT

    return _SERIALIZE_TO_TORCH_MEMORY_FORMAT  # type: ignore[no-any-return]


def find_schema(target: str) -> Any:
    """Find the schema of an op as an exported program names it; None of a function on sizes."""
    prefix = "torch.ops.aten."
    if not target.startswith(prefix):
        return None
    packet, overload = target.removeprefix(prefix).split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)._schema


def dump_tree(tree: Any) -> str:
    """Write how values are nested, as torch.export does."""
    return torch.utils._pytree.treespec_dumps(tree_flatten(tree)[1])
