"""Functions of tensors that a trace meets again and again: traced once for each layout, and then replayed.

Tracing what autograd runs takes several times longer than tracing what it leaves, and deep models repeat their ops.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import SymInt, Tensor, fx

from fxlrp._torch import disable_proxy_modes_tracing, make_fx
from fxlrp.ir.graphs import call_op
from fxlrp.ir.ops import erase_dead_code

Function = Callable[..., tuple[Tensor, ...]]
_graphs: ContextVar[dict[Hashable, fx.Graph | None] | None] = ContextVar("graphs", default=None)


@contextmanager
def share_traces() -> Iterator[None]:
    """Trace functions that are alike once, while one program is traced."""
    token = _graphs.set({})
    try:
        yield
    finally:
        _graphs.reset(token)


def call_by_trace(function: Function, key: Hashable, values: Sequence[Any]) -> tuple[Tensor, ...]:
    """Call the function: inside `share_traces` by the ops that it left at the first call with such a key and values.

    Args:
        function: A function of nothing but its arguments.
        key: Equal for functions that are the same.
        values: What to call it with: tensors, and anything else.
    """
    graphs = _graphs.get()
    tensors = [x for x in values if isinstance(x, Tensor)]
    if graphs is None or any(isinstance(n, SymInt) for x in tensors for n in (*x.shape, *x.stride())):
        return function(*values)
    key = (key, *map(describe_layout, values))
    if key not in graphs:
        graphs[key] = trace_ops(function, values)
    graph = graphs[key]
    return function(*values) if graph is None else run_ops(graph, tensors)


def describe_layout(value: Any) -> Hashable:
    """Return what the ops for a value depend on."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.is_conj(), value.is_neg()
    return type(value), repr(value)


def trace_ops(function: Function, values: Sequence[Any]) -> fx.Graph | None:
    """Return the ops that a function leaves; None if it makes tensors of its own, which are of one trace only."""
    places = [i for i, x in enumerate(values) if isinstance(x, Tensor)]

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = list(values)
        for i, x in zip(places, tensors, strict=True):
            given[i] = x
        return function(*given)

    with disable_proxy_modes_tracing():
        apart = [values[i].detach() for i in places]  # a tensor given twice would be one input of the graph
        graph = make_fx(of_tensors, _allow_non_fake_inputs=True)(*apart).graph
    erase_dead_code(graph)
    return None if graph.find_nodes(op="get_attr") else graph


def run_ops(graph: fx.Graph, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run the ops. Unlike those of `fx.Interpreter`, they are of the node that is being emitted."""
    env: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), tensors, strict=True))
    for node in graph.nodes:
        if node.op == "call_function":
            env[node] = call_op(node, env.__getitem__)
    results: Any = graph.output_node().args[0]
    return tuple(env[node] for node in results)
