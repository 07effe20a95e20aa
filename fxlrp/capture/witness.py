"""What a model does while it is exported and export does not write down: noted in the graph, or said."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from fxlrp._torch import annotate, preserve_node_meta, tree_map_only
from fxlrp.capture.author_stops import STOPPED
from fxlrp.capture.custom_backward import Backward, is_of_torch, judge_backward
from fxlrp.ir.stop_gradient import HOLD, STRAIGHT
from fxlrp.ir.user_lines import find_running_line

Function = torch.autograd.Function


class Witness(TorchFunctionMode):
    """Marks what runs while gradients are off, and follows functions with a backward pass of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.depth = 0
        self.said: set[type] = set()
        self.apply: Any = Function.__dict__["apply"]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and mark its ops if their gradients are forgotten."""
        if torch.compiler.is_dynamo_compiling():  # a branch of control flow, which is refused later
            return func(*args, **(kwargs or {}))
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        off = not self.depth and (not torch.is_grad_enabled() or torch.is_inference_mode_enabled())
        with annotate({STOPPED: True}) if off else contextlib.nullcontext():
            return func(*args, **(kwargs or {}))

    def stand_in(self, cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``Function.apply``."""
        run = self.apply.__get__(None, cls)
        if threading.get_ident() != self.thread or self.depth:
            return run(*args, **kwargs)
        if cls is CheckpointFunction:
            return args[0](*args[2:])
        off = not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        self.depth += 1
        try:
            with annotate({STOPPED: True}) if off else contextlib.nullcontext():
                out = run(*args, **kwargs)
                return out if off or is_of_torch(cls) else self.follow_backward(cls, run, args, kwargs, out)
        finally:
            self.depth -= 1

    def follow_backward(self, cls: type[Function], run: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Return the output of a function with the gradient that its backward pass gives it, or warn."""
        found = judge_backward(cls, run, args, kwargs)
        if isinstance(found, int):
            return STRAIGHT(args[found], HOLD(out))
        if found is Backward.STOPS:
            return tree_map_only(Tensor, lambda t: HOLD(t) if t.is_floating_point() else t, out)
        if found is Backward.OTHER and cls not in self.said:
            self.said.add(cls)
            line = find_running_line()
            warnings.warn(
                f"{cls.__qualname__} has a backward pass of its own, which relevance does not follow: it follows the "
                "ops of the forward pass, and rules='gradient' is not autograd's gradient there\n"
                f"  at {line if line else 'unknown source'}\n"
                "Write it in plain ops, such as y.detach() + (x - x.detach()) for a gradient that passes straight.",
                stacklevel=2,
            )
        return out


@contextlib.contextmanager
def watch_gradients() -> Iterator[None]:
    """Note what a model does with gradients while it is exported: in the nodes, or by a warning that names it."""
    witness = Witness()
    Function.apply = classmethod(witness.stand_in)  # type: ignore[method-assign, assignment]
    try:
        with preserve_node_meta(), witness:
            yield
    finally:
        Function.apply = witness.apply  # type: ignore[method-assign]
