"""Which part of a model's output is explained, and the objective that is computed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp._torch import make_fx, tree_flatten, tree_unflatten
from fxlrp.errors import FxlrpError, SignatureError

Output = str | int | Callable[[Any], Any] | None
Objective = Callable[[Tensor], Tensor] | None


def append_explained(
    graph: fx.Graph, outputs: tuple[Any, ...], out_spec: Any, output: Output, objective: Objective
) -> tuple[fx.Node, dict[fx.Node, Tensor]]:
    """Append the choice of the output and the objective; return their node and the constants they bring."""
    nodes = [n for n in outputs if isinstance(n, fx.Node) and isinstance(n.meta.get("val"), Tensor)]
    if not nodes:
        raise SignatureError("the model returns no tensor, so that there is nothing to explain")

    def chosen(*tensors: Tensor) -> Tensor:
        values = dict(zip(nodes, tensors, strict=True))
        flat = [values.get(n) if isinstance(n, fx.Node) else n for n in outputs]
        y = pick_output(tree_unflatten(flat, out_spec), output)
        if objective is not None:
            y = objective(y)
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise SignatureError(f"the explained output must be a real floating point tensor, not {describe_output(y)}")
        return y if y.ndim else y.reshape(1)

    examples = [n.meta["val"] for n in nodes]
    mode = examples[0].fake_mode
    try:
        with mode, torch.no_grad():
            traced = make_fx(chosen, _allow_non_fake_inputs=True)(*examples)
            constants = lift_constants(traced)
            examples += [mode.from_tensor(t) for t in constants]
            traced = make_fx(torch.func.functionalize(fx.Interpreter(traced).run))(*examples)
    except FxlrpError:
        raise
    except Exception as error:
        raise SignatureError(
            f"output= or objective= failed on the model's output\n  {type(error).__name__}: {error}\n"
            "It takes the output and returns a tensor: for objective=, one number per sample."
        ) from error
    added = {}
    for i, constant in enumerate(constants):
        with graph.inserting_before(next(iter(graph.nodes))):
            given = graph.placeholder(f"objective_constant_{i}")
        given.meta["val"] = examples[len(nodes)]
        nodes.append(given)
        added[given] = constant
    return append_traced(graph, traced, nodes), added


def lift_constants(traced: fx.GraphModule) -> list[Tensor]:
    """Turn the constants of a traced function into further inputs of it, and return them."""
    constants = []
    last = [n for n in traced.graph.nodes if n.op == "placeholder"][-1]
    for node in list(traced.graph.nodes):
        if node.op == "get_attr":
            constants.append(getattr(traced, node.target))
            with traced.graph.inserting_after(last):
                last = traced.graph.placeholder(f"constant_{len(constants)}")
            node.replace_all_uses_with(last)
            traced.graph.erase_node(node)
    return constants


def append_traced(graph: fx.Graph, traced: fx.GraphModule, nodes: list[fx.Node]) -> fx.Node:
    """Copy a traced function of ``nodes`` to the end of the graph and return the node of its result."""
    copies = dict(zip(traced.graph.find_nodes(op="placeholder"), nodes, strict=True))
    with graph.inserting_before(graph.output_node()):
        return graph.graph_copy(traced.graph, copies)  # type: ignore[return-value]


def pick_output(out: Any, output: Output) -> Any:
    """Return the part of a model's output that is explained."""
    if callable(output):
        return output(out)
    if output is None:
        if isinstance(out, Tensor):
            return out
        if (logits := find_entry(out, "logits")) is not None:
            return logits
        leaves = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor) and t.is_floating_point()]
        if not leaves:
            raise SignatureError("the model returns no floating point tensor, so that there is nothing to explain")
        return leaves[0]
    found = find_entry(out, output)
    if found is None:
        raise SignatureError(f"output={output!r} is not part of the model's output, which is {describe_output(out)}")
    return found


def find_entry(out: Any, key: str | int) -> Any:
    """Find the entry of a mapping or sequence, or the attribute; None if there is none."""
    if isinstance(out, Mapping) and key in out:
        return out[key]
    if isinstance(key, int):
        return out[key] if isinstance(out, (tuple, list)) and -len(out) <= key < len(out) else None
    return (
        getattr(out, key, None)
        if not isinstance(out, (Tensor, tuple, list, Mapping)) or hasattr(out, "_fields")
        else None
    )


def describe_output(out: Any) -> str:
    """Describe a model's output in a few words."""
    if isinstance(out, Tensor):
        return f"one {out.dtype} tensor"
    if isinstance(out, Mapping):
        return f"{type(out).__name__} with {', '.join(map(repr, out))}"
    if isinstance(out, (tuple, list)):
        return f"{type(out).__name__} of {len(out)}"
    return type(out).__name__
