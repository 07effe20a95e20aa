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

Function = Callable[..., tuple[Tensor, ...]]
_graphs: ContextVar[dict[Hashable, fx.Graph | None] | None] = ContextVar("graphs", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """While one program is traced: functions that are alike are traced once."""
    token = _graphs.set({})
    try:
        yield
    finally:
        _graphs.reset(token)


def replayed(function: Function, key: Hashable, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What the function returns: inside `shared` by the ops that it left at the first call with such a key and values.

    Args:
        function: A function of tensors alone.
        key: Equal for functions that are the same.
        values: What to call it with.
    """
    graphs = _graphs.get()
    if graphs is None or any(isinstance(n, SymInt) for x in values for n in (*x.shape, *x.stride())):
        return function(*values)
    key = (key, *map(layout, values))
    if key not in graphs:
        graphs[key] = traced(function, values)
    graph = graphs[key]
    return function(*values) if graph is None else run(graph, values)


def layout(x: Tensor) -> Hashable:
    """What the ops for a tensor depend on."""
    return x.dtype, x.shape, x.stride(), x.device, x.is_conj(), x.is_neg()


def traced(function: Function, values: Sequence[Tensor]) -> fx.Graph | None:
    """The ops that a function leaves; none if it makes tensors of its own, which are of one trace only."""
    with disable_proxy_modes_tracing():
        graph = make_fx(function, _allow_non_fake_inputs=True)(*values).graph
    graph.eliminate_dead_code()
    return None if graph.find_nodes(op="get_attr") else graph


def run(graph: fx.Graph, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run the ops. Unlike those of `fx.Interpreter`, they are of the node that is being emitted."""
    env: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), values, strict=True))
    for node in graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            env[node] = node.target(*args, **kwargs)
    return tuple(env[node] for node in graph.output_node().args[0])  # type: ignore[index, union-attr]
