"""A model's double, for torch to take apart in place of the model itself."""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import nn


def double_model(model: nn.Module) -> nn.Module:
    """Return a model of the same modules, tensors and hooks, none of whose modules is one of the model's.

    While torch exports a module it puts fake tensors into it, which another thread that runs the model would meet,
    and which stay there if it fails.
    """
    return double_value(model, {})  # type: ignore[no-any-return]


def double_value(value: Any, made: dict[int, Any]) -> Any:
    """Return the value with doubles in place of all modules in it.

    Args:
        value: A module, a container, a method of a module, or anything else, which is shared.
        made: The double of each module and container so far, by identity.
    """
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        double = made[id(value)] = object.__new__(type(value))
        double.__dict__.update({name: double_value(part, made) for name, part in value.__dict__.items()})
        return double
    if isinstance(value, MethodType):
        return MethodType(value.__func__, double_value(value.__self__, made))
    if type(value) in (dict, OrderedDict):
        double = made[id(value)] = type(value)()
        double.update((key, double_value(part, made)) for key, part in value.items())
        return double
    if type(value) in (list, set):
        double = made[id(value)] = type(value)()
        parts = [double_value(part, made) for part in value]
        double.extend(parts) if isinstance(double, list) else double.update(parts)
        return double
    if type(value) is tuple:
        return tuple(double_value(part, made) for part in value)
    return value
