"""Programs compiled by Inductor: each kind of repeated block once, with its weights as inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn

from fxlrp._torch import compile_graph, compile_open, generate_code
from fxlrp.backends.constants import ConstantStore, copy_program, split_constants
from fxlrp.backends.dense import order_operands
from fxlrp.backends.packed_filters import pack_convolutions
from fxlrp.backends.packed_weights import pack_weights
from fxlrp.backends.segments import Segment, cut_segments, extract_segment
from fxlrp.cache import Cache
from fxlrp.ir.program import Program

MAX_LAYOUTS = 16
"""Compiled forms of one kind of segment that are kept, one for each choice of strides."""


class SegmentKind(nn.Module):
    """The segments of one kind, as one function that is compiled at its first call.

    Sizes of a program without symbolic sizes are the same at every call, so that strides are all there is to guard:
    images may come with their channels first or last.
    """

    def __init__(self, part: Segment, dynamic: bool) -> None:
        super().__init__()
        self.part, self.dynamic = part, dynamic
        self.compiled: Cache[Hashable, Callable[..., Any]] = Cache(MAX_LAYOUTS)

    def forward(self, *values: Any) -> Any:
        """Return the outputs of the segment for its inputs."""
        key = None if self.dynamic else tuple(x.stride() for x in values if x.layout is torch.strided)
        return self.compiled(key, lambda: self.compile_for(values))(*values)

    def compile_for(self, values: Sequence[Any]) -> Callable[..., Any]:
        """Compile the segment for values of such strides."""
        module = extract_segment(self.part)
        write_out_erfc(module)
        if self.dynamic:
            return compile_open(module)  # type: ignore[no-any-return]
        return compile_graph(module, list(values))  # type: ignore[no-any-return]


ERFC_TAIL = (-1.26545292, 0.998732965, 0.385779274, 0.0387195122, -0.0108340792, -0.0575148836, -0.723754111, 1.1773763,
        -0.689589177, 0.146537169)  # fmt: skip
"""Coefficients of ``log(erfc(y) * exp(y * y) / t)`` by powers of ``t = 1 / (1 + y / 2)``.

A least-squares fit at Chebyshev's nodes for y from 0 to 10, where it is right to 5e-8.
"""


def compute_erfc(y: Any) -> Any:
    """Compute the complementary error function to the precision of float32, its tail included."""
    t = 1 / (1 + 0.5 * torch.abs(y))
    exponent: Any = 0
    for coefficient in reversed(ERFC_TAIL):
        exponent = exponent * t + coefficient
    upper = t * torch.exp(exponent - y * y)
    return torch.where(y < 0, 2 - upper, upper)


def write_out_erfc(module: fx.GraphModule) -> None:
    """Write out what Inductor computes one number at a time on a CPU: the ``erfc`` of gelu's twin."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.erfc.default):
        if node.meta["val"].dtype is torch.float32:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(compute_erfc(fx.Proxy(node.args[0])).node)
            module.graph.erase_node(node)
    module.recompile()


def chain_segments(program: fx.GraphModule) -> fx.GraphModule:
    """Turn a program into a chain of calls, one for each segment, of one module for each kind of segment."""
    dynamic = any(is_dynamic(node) for node in program.graph.nodes)
    attributes: dict[str, Any] = {n.target: getattr(program, n.target) for n in program.graph.find_nodes(op="get_attr")}
    kinds: dict[Hashable, str] = {}
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            copies[node] = graph.node_copy(node)
    for part in cut_segments(program.graph):
        if part.key not in kinds:
            kinds[part.key] = f"kind_{len(kinds)}"
            attributes[kinds[part.key]] = SegmentKind(part, dynamic)
        call = graph.call_module(kinds[part.key], tuple(copies[node] for node in part.inputs))
        for i, node in enumerate(part.outputs):
            copies[node] = graph.call_function(operator.getitem, (call, i))
    graph.output(fx.map_arg(program.graph.output_node().args[0], copies.__getitem__))
    return fx.GraphModule(attributes, graph)


def is_dynamic(node: fx.Node) -> bool:
    """Whether a size of the value is symbolic, or the value is such a size."""
    value = node.meta.get("val")
    sizes = tuple(value.shape) if isinstance(value, Tensor) else (value,)
    return any(isinstance(size, SymInt) for size in sizes)


def compile_by_inductor(program: Program, store: ConstantStore | None = None) -> Callable[..., Any]:
    """Compile a program at its first call, with weights packed for the CPU."""
    own = copy_program(program.module)
    pack_weights(own.graph)
    pack_convolutions(own.graph)
    module, constants = split_constants(own, store)
    order_operands(module.graph)
    stitched = chain_segments(module)
    generate_code(stitched)

    def run(*tensors: Tensor) -> Any:
        return stitched(*(x.contiguous() for x in tensors), *constants())

    return run
