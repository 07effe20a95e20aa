"""Many targets or conditions of one input: one forward walk, and the relevance pass for several of them at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from fxlrp import passes
from fxlrp._torch import (
    FakeTensorMode,
    enable_python_dispatcher,
    preserve_node_meta,
    set_current_meta,
    tree_flatten,
)
from fxlrp.backends.choice import Runner
from fxlrp.backends.constants import find_constant_nodes
from fxlrp.cache import Cache
from fxlrp.emit.trace import attach_constants, trace_functional
from fxlrp.ir.graphs import call_op, extract
from fxlrp.ir.ops import ATTENTION_BACKWARDS, erase_dead_code
from fxlrp.ir.program import Program
from fxlrp.ir.provenance import find_role
from fxlrp.passes.lowering.recompute import RECOMPUTED, find_following

aten = torch.ops.aten

ANY_STRIDES: dict[Any, Any] = dict.fromkeys((aten.view.default, aten._unsafe_view.default), aten.reshape.default)
"""With one more dimension, or by another backend, memory may not be in the order that a view asks for."""

STRIDED = (aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default)
"""Ops that read or fill memory, for which torch has no batches."""

MAX_PROGRAMS = 16
"""Programs kept for different sizes, least recently used out first."""

ATTENTION_ADJOINTS = (
    *ATTENTION_BACKWARDS,
    aten._scaled_dot_product_fused_attention_overrideable_backward.default,
)
"""Kernels for one batch of queries, keys and values, which torch would call once for each target."""


class ManyTargets:
    """A program in two halves: what is the same for every target, and the rest for several targets at a time.

    Values that are computed twice to save memory are computed in the second half, once for every chunk of targets.

    Args:
        program: The program for one target.
        varying: Places of its inputs that come with a leading dimension: tensors of the target, masks of conditions.
        backend: What makes a program run.
    """

    def __init__(self, program: Program, varying: Sequence[int], backend: Callable[[Program], Runner]) -> None:
        graph = program.module.graph
        results: Any = graph.output_node().args[0]
        self.program, self.backend, self.varying = program, backend, varying
        self.given = [graph.find_nodes(op="placeholder")[i] for i in varying]
        self.found: Sequence[fx.Node] = results[program.outputs :]
        self.late = find_following(graph, {*self.given, *(n for n in graph.nodes if find_role(n) == RECOMPUTED)})
        fixed = find_constant_nodes(graph)  # what depends on weights alone: the backend keeps it between calls
        taken = dict.fromkeys(self.found)
        for node in reversed(graph.nodes):
            if node in self.late or (node in fixed and node in taken):
                taken |= dict.fromkeys(node.all_input_nodes)
        self.steps = [n for n in graph.nodes if n in self.late or (n in fixed and n in taken and n.op != "get_attr")]
        self.attributes = [n for n in taken if n.op == "get_attr"]
        self.saved = [n for n in taken if not (n in self.late or n in fixed or n in self.given)]
        self.first = backend(self.forward([*results[: program.outputs], *self.saved]))
        self.second: Cache[Any, Runner] = Cache(MAX_PROGRAMS)

    def __call__(self, chunk: int, *values: Tensor) -> list[Tensor]:
        """Return outputs of the model, then every relevance with a leading dimension for the targets.

        Args:
            chunk: The most targets at a time.
            values: Inputs of the program, some with a leading dimension for the targets.
        """
        stacks = [values[i] for i in self.varying]
        count = len(stacks[0])
        size = choose_chunk_size(count, chunk)
        early = self.first(*(x for i, x in enumerate(values) if i not in self.varying))
        own, saved = early[: self.program.outputs], dict(zip(self.saved, early[self.program.outputs :], strict=True))
        chunks = [
            dict(zip(self.given, (pad_chunk(t[start : start + size], size) for t in stacks), strict=True))
            for start in range(0, count, size)
        ]
        run = self.find_second_half(saved | chunks[0])
        parts = [run(*(x for x in (saved | some).values() if isinstance(x, Tensor))) for some in chunks]
        return [*own, *(torch.cat(pieces)[:count] for pieces in zip(*parts, strict=True))]

    def find_second_half(self, values: dict[fx.Node, Any]) -> Runner:
        """Return the second half for values of these sizes; it is made at the first call with such."""
        key = tuple(x.shape if isinstance(x, Tensor) else x for x in values.values())
        return self.second(key, lambda: self.backend(self.build_second_half(values)))

    def forward(self, results: Sequence[fx.Node]) -> Program:
        """Make the first half, from what is the same for all targets to some results."""
        graph = self.program.module.graph
        early = [n for n in graph.nodes if n not in self.late and n not in self.given and n.op != "output"]
        part = extract(early, [n for n in early if n.op == "placeholder"], results)
        erase_dead_code(part)
        return Program(fx.GraphModule(self.program.module, part), len(results), (), ())

    def build_second_half(self, values: dict[fx.Node, Any]) -> Program:
        """Build the second half, which takes the tensors among ``values``: what the first half saved, and some targets.

        An op that depends on the target becomes one on all of them, by torch's rules for batches. These do not know
        symbolic sizes.
        """
        attributes = {n: getattr(self.program.module, str(n.target)) for n in self.attributes}
        everything = attributes | values
        taken = [n for n, x in everything.items() if isinstance(x, Tensor)]
        count = len(values[self.given[0]])
        batched = set(self.given)
        for node in self.late:
            if not isinstance(node.meta["val"], SymInt) and not batched.isdisjoint(node.all_input_nodes):
                batched.add(node)

        def program(*tensors: Any) -> list[Tensor]:
            env: dict[fx.Node, Any] = {**everything, **dict(zip(taken, tensors, strict=True))}
            for node in self.steps:
                with set_current_meta(node):
                    env[node] = (
                        call_per_target(node, env, batched) if node in batched else call_once(node, env, batched)
                    )
            return [env[n] if n in batched else env[n].expand(count, *env[n].shape) for n in self.found]

        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode, enable_python_dispatcher(), preserve_node_meta(), torch.no_grad():
            fakes = [mode.from_tensor(everything[n].detach()) for n in taken]
            module = trace_functional(program, fakes)
        for node in module.graph.nodes:
            node.target = ANY_STRIDES.get(node.target, node.target)
        attach_constants(module, [(str(n.target), x) for n, x in attributes.items() if isinstance(x, Tensor)])
        passes.run_passes(module, passes.CLEANUP)
        return replace(self.program, module=module, outputs=0)


def choose_chunk_size(count: int, most: int) -> int:
    """Return how many of ``count`` go together, at most so many: chunks alike, so that one program serves them all."""
    return -(-count // -(-count // most))


def call_once(node: fx.Node, env: Mapping[fx.Node, Any], batched: Collection[fx.Node] = ()) -> Any:
    """Compute the value of a node, which is the same for every target, as sizes are."""
    return call_op(node, lambda n: env[n][0] if n in batched else env[n])


def call_per_target(node: fx.Node, env: Mapping[fx.Node, Any], batched: Collection[fx.Node]) -> Any:
    """Compute a node for several targets, which are the first dimension of some of its operands."""
    if node.target is operator.getitem:
        return call_once(node, env)
    if node.target in ATTENTION_ADJOINTS:
        return call_folded(node, env, batched)
    op: Any = ANY_STRIDES.get(node.target, node.target)
    own = [n for n in node.all_input_nodes if n in batched]
    outputs: list[Any] = []

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), {**env, **dict(zip(own, values, strict=True))}.__getitem__)
        leaves, spec = tree_flatten(op(*args, **kwargs))
        outputs[:] = [spec, *(not isinstance(leaf, Tensor) for leaf in leaves)]
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    map_targets = call_one_by_one if node.target in STRIDED else torch.vmap
    results = iter(map_targets(call)(*(env[n] for n in own)))
    spec, *absent = outputs
    return spec.unflatten([None if missing else next(results) for missing in absent])


def call_one_by_one(call: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Do as `torch.vmap` for ops that read memory, each time a memory of its own."""

    def mapped(*values: Tensor) -> tuple[Tensor, ...]:
        rows = [call(*(part.clone() for part in parts)) for parts in zip(*values, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

    return mapped


def call_folded(node: fx.Node, env: Mapping[fx.Node, Any], batched: Collection[fx.Node]) -> Any:
    """Do so for a kernel whose operands have a batch: targets times samples are its batch."""
    gradient = env[node.all_input_nodes[0]]
    targets, samples = gradient.shape[:2]

    def operand(n: fx.Node) -> Any:
        x = env[n]
        if n in batched:
            return x.flatten(0, 1)
        return x.expand(targets, *x.shape).flatten(0, 1) if x.ndim > 2 and x.shape[0] == samples else x

    return tuple(y.unflatten(0, (targets, samples)) for y in call_op(node, operand))


def pad_chunk(tensor: Tensor, size: int) -> Tensor:
    """Repeat the last target of a chunk until there are as many as the program takes."""
    return torch.cat([tensor, tensor[-1:].expand(size - len(tensor), *tensor.shape[1:])])
