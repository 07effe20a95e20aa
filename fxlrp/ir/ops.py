"""The ops of graphs: families of ATen overloads, what a call of one is given and may do, and their names.

A family is spelled here once. Whoever needs more or less than a family adds to it where it is used, and says why.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxlrp._torch import OpOverload, OpOverloadPacket
from fxlrp.errors import RuleError
from fxlrp.ir.program import find_op

aten = torch.ops.aten

TRANSPOSED_CONVOLUTIONS = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
"""Convolutions whose weight has the channels of the input first."""

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    *TRANSPOSED_CONVOLUTIONS,
)
"""Convolutions as torch's layers and functions call them."""

AFFINE = (aten.linear.default, *CONVOLUTIONS, aten.convolution.default)
"""Ops ``(x, weight, bias, ...)`` that are linear in ``x`` and in the weight, and add the bias."""

AVERAGE_POOLS = (
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
)
"""Means over windows."""

MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
"""Largest entries of windows."""

REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim, aten.mean.default)
"""Sums and means along dimensions."""

SUMS = (aten.add.Tensor, aten.sub.Tensor)
"""Sums of two operands, the second of which may have a factor."""

OFFSETS = (*SUMS, aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar, aten.rsub.Tensor)
"""Sums and differences of two operands, of which one may be a number."""

CUTS = (aten.slice.Tensor, aten.select.int)
"""Views on part of one dimension."""

VIEWS = (
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    *CUTS,
)
"""Views that show each entry of their operand in one place at most."""

COPIES = (aten.alias.default, aten.clone.default)
"""The same entries in the same places."""

LAYOUTS = (*VIEWS, *COPIES, aten.expand.default, aten.repeat.default, aten.cat.default)
"""Ops that lay their operands' entries out anew, by sizes alone: every entry of the output is one of theirs."""

GATHERS = (aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_select.default, aten.gather.default)
"""Entries of the first operand picked by integers."""

LOOKUPS = (aten.embedding.default, *GATHERS)
"""Ops that take entries of a table by integers."""

MOVES = (
    *LAYOUTS,
    *GATHERS,
    aten.flip.default,
    aten.roll.default,
    aten.unfold.default,
    aten.constant_pad_nd.default,
    aten.slice_scatter.default,
    aten.select_scatter.default,
)
"""Ops that put entries into other places and leave them as they are, with constants or another operand's between."""

GATES = (
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.exp.default,
    aten.exp2.default,
    aten.cos.default,
    aten.cosh.default,
    aten.erfc.default,
)
"""Element-wise functions that are not 0 at 0."""

CLAMPS = (aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default, aten.clamp_max.default)
"""Entries cut off at bounds, of which each may be missing."""

LOG_SOFTMAXES = (aten.log_softmax.int, aten._log_softmax.default)
"""Logarithms of softmax along a dimension, which is the second argument."""

SOFTMAXES = (aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)
"""Softmax along a dimension, which is the second argument."""

NORMS = (aten.layer_norm.default, aten.rms_norm.default)
"""Norms of the last dimensions."""

ATTENTION_KERNELS = (
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)
"""Fused attention of programs: queries, keys and values first."""

ATTENTION_BACKWARDS = (
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    aten._scaled_dot_product_flash_attention_backward.default,
    aten._scaled_dot_product_efficient_attention_backward.default,
    aten._scaled_dot_product_cudnn_attention_backward.default,
)
"""Their adjoints: the coefficient first, then queries, keys and values."""


def complete_arguments(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by their names in the op's schema, in its order, with defaults filled in."""
    schema = op._schema.arguments
    given = dict(zip((a.name for a in schema), args, strict=False))
    return {a.name: a.default_value for a in schema} | given | dict(kwargs)


def name_arguments(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of a node that calls an ATen op, by name; see `complete_arguments`."""
    return complete_arguments(node.target, node.args, node.kwargs)


def is_elementwise(op: object) -> bool:
    """Whether each entry of the output depends on one entry of every operand."""
    return op is aten._to_copy.default or (isinstance(op, OpOverload) and torch.Tag.pointwise in op.tags)


def is_mutable(op: object) -> bool:
    """Whether an op writes to its operands."""
    return isinstance(op, OpOverload) and op._schema.is_mutable


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers, as fused attention does for dropout only."""
    op = find_op(node)
    seeded = isinstance(op, OpOverload) and torch.Tag.nondeterministic_seeded in op.tags
    return seeded and bool(name_arguments(node).get("dropout_p", 1))


def has_effect(node: fx.Node) -> bool:
    """Whether a node does something beside its value: inputs, outputs, writes, checks of sizes that depend on data."""
    return node.op in ("placeholder", "output") or is_mutable(node.target) or "_assert_scalar" in str(node.target)


def is_pure(node: fx.Node) -> bool:
    """Whether a node is a call that gives the same for the same arguments, and does nothing else."""
    known = isinstance(node.target, OpOverload) or getattr(node.target, "__module__", "") in PURE_MODULES
    return node.op == "call_function" and known and not has_effect(node) and not is_random(node)


PURE_MODULES = ("_operator", "operator", "math")
"""Modules of the functions of Python that graphs call on sizes."""


def erase_dead_code(graph: fx.Graph) -> None:
    """Erase what no result needs."""
    graph.eliminate_dead_code(is_impure_node=has_effect)


def check_overload(op: object) -> None:
    """Refuse what cannot be a key of the table, with the names that could."""
    if isinstance(op, OpOverloadPacket):
        raise RuleError(f"{op} is a packet of overloads; a rule is for one of them: {list_overloads(op)}")
    if not isinstance(op, OpOverload):
        way = suggest_overload(op)
        raise RuleError(f"a rule is for an op overload such as torch.ops.aten.add.Tensor, not for {op!r}{way}")


def collect_overloads(given: Any) -> list[OpOverload]:
    """Return one overload or several as a list."""
    listed = isinstance(given, (list, tuple, set, frozenset, Iterator))
    found = list(given) if listed else [given]
    for op in found:
        check_overload(op)
    return found


def list_overloads(packet: OpOverloadPacket) -> str:
    """List the names of all overloads of a packet."""
    return ", ".join(f"{packet}.{name}" for name in packet.overloads())  # type: ignore[no-untyped-call]


def suggest_overload(op: object) -> str:
    """Say how to name a layer or a function, as the end of a sentence."""
    if isinstance(op, type):
        return f". For the layers of a class: rules.where(rule, kind={op.__name__!r})"
    if isinstance(op, torch.nn.Module):
        return f". For one layer: rules.where(rule, module='its.path'), or kind={type(op).__name__!r} for all like it"
    name = op if isinstance(op, str) else getattr(op, "__name__", "")
    packet = getattr(torch.ops.aten, name.rpartition("::")[2].split(".")[-1], None) if name.isidentifier() else None
    if isinstance(packet, OpOverloadPacket):
        return f". The ops of that name: {list_overloads(packet)}"
    return ". The coverage report names the ops of a model, and rules.where(rule, kind='Linear') is for layers"


def find_overload(path: str) -> Any:
    """Return the overload of a name such as ``aten.relu.default``."""
    namespace, name, overload = path.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


# Torch's overloads do not pickle; rule sets do, for processes and for copies of what holds them.
copyreg.pickle(OpOverload, lambda op: (find_overload, (str(op),)))
