"""From the plan to one flat ATen graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp._torch import enable_python_dispatcher, lazy_modules, make_fx, preserve_node_meta
from fxlrp.emit import explained_rows
from fxlrp.emit.starts_and_masks import start_and_mask
from fxlrp.emit.walk import walk_backward, walk_forward
from fxlrp.ir import adjoint_cache, numerics, targets
from fxlrp.ir.decisions import Env, Tail, Twin
from fxlrp.ir.ops import is_mutable
from fxlrp.ir.program import Captured
from fxlrp.plan.read_points import Point

Results = Callable[[Env, Env], list[Any]]
"""What a program returns, from the value and the carried coefficient of every node."""


def trace_program(
    captured: Captured,
    twins: Mapping[fx.Node, Twin],
    form: targets.Form,
    results: Results,
    starts: Sequence[Point] = (),
    kept: Sequence[Point] = (),
    tail: Tail | None = None,
) -> fx.GraphModule:
    """Trace the forward and the reverse walk into one graph.

    Args:
        captured: The canonical model.
        twins: Rule and operands of every live node.
        form: Form of the target, which gives the coefficient at the output.
        results: What the program returns.
        starts: Where relevance starts in place of the output, by a coefficient given at each call.
        kept: Where the coefficient is multiplied by a mask given at each call.
        tail: What is walked for the explained positions only.

    Returns:
        A module that takes the tensors among the model's flattened inputs, then those of the target (or of
        ``starts``), then those of ``kept``, and returns what ``results`` does.

    Raises:
        RuleError: If a rule returns what does not fit its operands.
    """
    graph, end = captured.graph, captured.explained
    given = [node for node in captured.inputs if isinstance(node.meta["val"], Tensor)]
    fixed = {node: node.meta["val"] for node in captured.inputs if node not in given}
    constants = list(captured.constants)
    placeholders = [*constants, *given]

    def program(*values: Any) -> list[Any]:
        env = walk_forward(graph, dict(zip(placeholders, values, strict=False)) | fixed)
        chosen, masks = values[len(placeholders) : len(values) - len(kept)], values[len(values) - len(kept) :]
        begun = dict(zip(starts, chosen, strict=True)) if starts else {}
        ruled, seed, inside = start_and_mask(twins, begun, dict(zip(kept, masks, strict=True)), env)
        if tail is not None:
            return results(env, explained_rows.walk_explained_rows(graph, env, ruled, tail, form, chosen) | inside)
        if not starts:
            seed = {end: targets.make_seed(form, numerics.widen(env[end]), chosen)}
        return results(env, walk_backward(graph, env, ruled, seed) | inside)

    with end.meta["val"].fake_mode, enable_python_dispatcher(), preserve_node_meta(), lazy_modules(), torch.no_grad():
        chosen = () if starts else targets.make_examples(form, end.meta["val"])
        target = *chosen, *(torch.empty_like(numerics.widen(p.node.meta["val"])) for p in (*starts, *kept))
        values = *detach_values(placeholders), *target
        module = trace_functional(program, values)
    name_inputs(module, [node.name for node in given] + [f"target_{i}" for i in range(len(target))])
    attach_constants(module, [(captured.names[n], captured.constants[n]) for n in constants])
    return module


def trace_functional(program: Callable[..., Any], values: Sequence[Any]) -> fx.GraphModule:
    """Trace the function as a graph of ops that change nothing in place, for values like the given ones."""
    with adjoint_cache.share_traces():
        module = make_fx(program, _allow_non_fake_inputs=True)(*values)
    if any(is_mutable(node.target) for node in module.graph.nodes):  # some backward formulas of torch write in place
        functional = torch.func.functionalize(fx.Interpreter(module).run, remove="mutations_and_views")
        module = make_fx(functional, _allow_non_fake_inputs=True)(*values)
    return module


def detach_values(nodes: list[fx.Node]) -> list[Any]:
    """Return the fake values of nodes; parameters as plain tensors, as no gradient is taken with respect to them."""
    values = [node.meta["val"] for node in nodes]
    return [v.detach() if isinstance(v, Tensor) else v for v in values]


def read_relevance(x: Tensor, carried: Any) -> Tensor:
    """Return the relevance of a value; zeros if nothing arrived."""
    x = numerics.widen(x)
    return torch.zeros_like(x.real) if carried is None else numerics.to_relevance(carried, x)


def name_inputs(module: fx.GraphModule, names: list[str]) -> None:
    """Name the placeholders behind the constants."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    for node, name in zip(placeholders[len(placeholders) - len(names) :], names, strict=True):
        node._rename(name)
        node.target = node.name


def attach_constants(module: fx.GraphModule, constants: list[tuple[str, Any]]) -> None:
    """Turn the leading placeholders into attributes that are the model's own tensors."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    for node, (name, value) in zip(placeholders, constants, strict=False):
        if node.users:
            attribute = name.replace(".", "_")
            while hasattr(module, attribute):
                attribute += "_"
            register_constant(module, attribute, value)
            with module.graph.inserting_before(node):
                own = module.graph.get_attr(attribute)
            own.meta = dict(node.meta)
            node.replace_all_uses_with(own)
        module.graph.erase_node(node)
    module.recompile()


def register_constant(module: nn.Module, name: str, value: Any) -> None:
    """Share a parameter, a tensor, or any other constant with the module."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    elif isinstance(value, Tensor):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)
