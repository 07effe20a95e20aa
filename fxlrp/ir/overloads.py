"""What a rule can be for: overloads of ATen ops. Everything else is refused with the way that it can go."""

from __future__ import annotations

import copyreg
from typing import Any

import torch

from fxlrp._torch import OpOverload, OpOverloadPacket
from fxlrp.errors import RuleError


def check_overload(op: object) -> None:
    """Refuse what cannot be a key of the table, with the names that could."""
    if isinstance(op, OpOverloadPacket):
        raise RuleError(f"{op} is a packet of overloads; a rule is for one of them: {list_overloads(op)}")
    if not isinstance(op, OpOverload):
        way = suggest_overload(op)
        raise RuleError(f"a rule is for an op overload such as torch.ops.aten.add.Tensor, not for {op!r}{way}")


def list_overloads(packet: OpOverloadPacket) -> str:
    """Names of all overloads of a packet."""
    return ", ".join(f"{packet}.{name}" for name in packet.overloads())  # type: ignore[no-untyped-call]


def suggest_overload(op: object) -> str:
    """How to name a layer or a function, as the end of a sentence."""
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
    """The overload of a name such as ``aten.relu.default``."""
    namespace, name, overload = path.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload)


# Torch's overloads do not pickle; rule sets do, for processes and for copies of what holds them.
copyreg.pickle(OpOverload, lambda op: (find_overload, (str(op),)))
