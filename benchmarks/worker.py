"""One side of a comparison, run by its own Python: ``python worker.py SIDE MODEL OPTIONS``.

It answers lines of JSON on its standard input with lines of JSON, and runs only while it is asked: ``save`` and
``load`` weights and inputs, ``prepare`` a method, ``time`` one call of it, write its ``result``.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from clock import seconds
from networks import HIGH, LOW, Network, Sizes, build
from torch import Tensor

Call = Callable[[], Tensor]

PACKAGES = ("torch", "torchvision", "transformers", "fxlrp", "zennit", "captum", "lxt")


def seed(network: Network, output: Tensor) -> Tensor:
    """The explained number in its place, zero elsewhere."""
    found = torch.zeros_like(output)
    found[(slice(None), *network.target)] = output.detach()[(slice(None), *network.target)]
    return found


def gradient(network: Network, method: str) -> Call:
    """What autograd does alone."""
    return {"forward": network.forward, "gradient_x_input": network.gradient_x_input}[method]


def fxlrp(network: Network, method: str) -> Call:
    """A preset of ours, and the backend after a colon."""
    from compiled import compiled

    name, _, backend = method.partition(":")
    return compiled(network, name, backend or "eager")


def zennit(network: Network, method: str) -> Call:
    """A composite that is registered once, on a copy of its own, with batch norm merged."""
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import COMPOSITES
    from zennit.torchvision import ResNetCanonizer

    model, like = copy.deepcopy(network.model), network.args[0]
    residual = type(model).__name__ == "ResNet"
    canonizer = ResNetCanonizer() if residual else SequentialMergeBatchNorm()
    box = {"low": torch.full_like(like, LOW), "high": torch.full_like(like, HIGH)} if method.endswith("box") else {}
    COMPOSITES[method](canonizers=[canonizer], **box).register(model)

    def call() -> Tensor:
        leaf = network.leaf()
        output = model(leaf)
        (relevance,) = torch.autograd.grad(output, leaf, seed(network, output))
        return relevance

    return call


def captum(network: Network, method: str) -> Call:
    """Captum's own choice of rules."""
    from captum.attr import LRP

    explainer = LRP(copy.deepcopy(network.model))
    return lambda: explainer.attribute(network.leaf(), target=network.target[0])


def lxt(network: Network, method: str) -> Call:
    """Input times gradient of the model that `patch` changed."""
    return network.gradient_x_input


def dynamiclrp(network: Network, method: str) -> Call:
    """An engine that keeps its plan between calls; it needs parameters that require gradients."""
    from lrp_engine import LRPEngine

    options = {"epsilon": {}, "gamma": {"use_gamma": True}, "attnlrp": {"use_attn_lrp": True}}[method]
    network.model.requires_grad_()
    engine = LRPEngine(**options)

    def run(leaf: Tensor) -> Any:
        output = network.run(leaf)
        engine.starting_relevance = seed(network, output)
        _, (relevance, *_) = engine.run(output)
        return relevance

    def call() -> Tensor:
        relevance = run(network.leaf())
        return relevance.sum(-1) if network.text else relevance

    engine.params_to_interpret = [leaf := network.leaf()]
    run(leaf)  # makes the plan, and does not always end with a tensor
    return call


SIDES: dict[str, Callable[[Network, str], Call]] = {
    "fxlrp": fxlrp,
    "zennit": zennit,
    "captum": captum,
    "lxt": lxt,
    "dynamiclrp": dynamiclrp,
}
PATCHED = {
    "llama": "transformers.models.llama.modeling_llama",
    "gpt2": "transformers.models.gpt2.modeling_gpt2",
    "bert": "transformers.models.bert.modeling_bert",
    "vit_b_16": "torchvision.models.vision_transformer",
}
"""The module that LXT patches for a model."""


def patch(side: str, model: str, folder: str | None) -> None:
    """Do what has to be done before the model is built."""
    if side == "lxt":
        from lxt.efficient import monkey_patch

        monkey_patch(importlib.import_module(PATCHED[model]))
    if folder is not None:
        sys.path[:0] = [folder, str(Path(folder) / "src")]


class Worker:
    """A model and the methods that are ready to run on it."""

    def __init__(self, side: str, model: str, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        patch(side, model, options.get("folder"))
        self.side, self.device = side, options["device"]
        self.network = build(model, Sizes(**options["sizes"]), self.device)
        self.calls: dict[str, Call] = {}

    def versions(self) -> dict[str, str]:
        """What is installed here."""
        installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
        return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}

    def save(self, path: str) -> None:
        """Write weights and inputs."""
        torch.save((self.network.model.state_dict(), self.network.args, self.network.kwargs), path)

    def load(self, path: str) -> None:
        """Take the weights and inputs of another side."""
        state, args, kwargs = torch.load(path, map_location=self.device, weights_only=True)
        self.network.model.load_state_dict(state)
        self.network = Network(self.network.model, args, kwargs, self.network.target)

    def prepare(self, method: str) -> None:
        """Compile a method and call it twice, since the second call may take another way than the first."""
        make = gradient if method in ("forward", "gradient_x_input") else SIDES[self.side]
        self.calls[method] = call = make(self.network, method)
        for _ in range(2):
            call()

    def time(self, method: str) -> float:
        """Seconds of one call."""
        return seconds(self.calls[method], self.device)

    def result(self, method: str, path: str) -> None:
        """Write what a method finds."""
        torch.save(self.calls[method]().detach().cpu(), path)

    def answer(self, line: str) -> dict[str, Any]:
        """Do what a line asks for; an error is an answer, too."""
        command = json.loads(line)
        try:
            return {"value": getattr(self, command.pop("do"))(**command)}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer until the input ends. What peers print goes to standard error."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    side, model, options = sys.argv[1:]
    worker = Worker(side, model, json.loads(options))
    print(json.dumps({"value": worker.versions()}), file=answers)
    for line in sys.stdin:
        print(json.dumps(worker.answer(line)), file=answers)


if __name__ == "__main__":
    main()
