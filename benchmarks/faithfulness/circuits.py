"""Which outputs of which layers matter: coefficients beside activation patching, on SmolLM2.

Activation patching (Vig et al. 2020, Meng et al. 2022) puts the value that a part of the model has in one run into
another, and measures what it changes. ``(a_clean - a_corrupted) * c`` estimates that for all parts at once, where ``c``
is the coefficient of the part in the corrupted run: under the rules of RelP (Rezaei Jafari et al. 2025), or the
gradient, which makes it attribution patching (Nanda 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from language import TEMPLATES, Sentences, load_sentences
from tasks import Task
from torch import Tensor, nn

import fxlrp
from fxlrp.evaluate.correlation import correlate_rows

KINDS = {"residual": "{layer}:input", "mlp": "{layer}.mlp", "attention": "{layer}.self_attn"}
"""Where a layer is read, by what it is: the residual stream in front of it, and what its two branches add."""
LAYERS = "model.model.layers"
RULES = (
    "auto",
    "relp",
    "relp_ah",
    "gradient",
    "attnlrp",
    "attnlrp_gamma",
    "cp_lrp",
    "reslrp",
    "dynamiclrp",
    "libragrad",
)
"""Rules whose coefficients are compared."""


def name_places(sentences: Sentences, kind: str) -> list[str]:
    count = len(sentences.model.get_submodule(LAYERS))
    return [KINDS[kind].format(layer=f"{LAYERS}.{i}") for i in range(count)]


@cache
def record(swapped: bool) -> dict[str, Tensor]:
    """Record what every place holds, ``(layers, samples, positions, features)`` by kind."""
    sentences = load_sentences()
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    hooks = []
    for layer in sentences.model.get_submodule(LAYERS):
        hooks.append(layer.register_forward_pre_hook(lambda m, args: found["residual"].append(args[0])))
        for kind, part in (("mlp", layer.mlp), ("attention", layer.self_attn)):
            hooks.append(part.register_forward_hook(lambda m, a, y, kind=kind: found[kind].append(first(y))))
    with torch.no_grad():
        sentences.model(sentences.swapped if swapped else sentences.ids)
    for hook in hooks:
        hook.remove()
    return {kind: torch.stack(values) for kind, values in found.items()}


def first(output: Any) -> Tensor:
    value: Tensor = output if isinstance(output, Tensor) else output[0]
    return value


@torch.no_grad()
def patch(kind: str) -> Tensor:
    """Patch each place of the corrupted run, and measure what comes back, ``(samples, layers, positions)``."""
    sentences, clean, corrupted = load_sentences(), record(False), record(True)
    layers, rows = sentences.model.get_submodule(LAYERS), []
    length = sentences.ids.shape[1]
    each = torch.arange(length)
    for sample in range(len(sentences.ids)):
        whole = sentences.measure(sentences.swapped[sample, None], sample)
        for i in range(len(layers)):
            start = corrupted["residual"][i, sample].expand(length, -1, -1).clone()
            value = clean[kind][i, sample]
            if kind == "residual":
                start[each, each] = value
            with shortened(sentences.model.model, i) as (model, layer):
                hooks = [replace_output(layer, kind, value)] if kind != "residual" else []
                logits = model(inputs_embeds=start, use_cache=False, logits_to_keep=1).logits[:, -1]
                for hook in hooks:
                    hook.remove()
            rows.append(sentences.measure(start, sample, lambda _, y=logits: y) - whole)
    return torch.stack(rows).reshape(len(sentences.ids), len(layers), length)


@contextmanager
def shortened(model: Any, start: int) -> Iterator[tuple[Any, Any]]:
    """Leave out the layers in front of one, whose inputs are known, and name that one."""
    whole, count = model.model.layers, model.config.num_hidden_layers
    model.model.layers, model.config.num_hidden_layers = whole[start:], count - start
    try:
        yield model, whole[start]
    finally:
        model.model.layers, model.config.num_hidden_layers = whole, count


def replace_output(layer: nn.Module, kind: str, value: Tensor) -> Any:
    """Let a branch of a layer return, in row and position k, the value at k of another run."""
    each = torch.arange(len(value))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[each, each] = value
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return layer.get_submodule({"mlp": "mlp", "attention": "self_attn"}[kind]).register_forward_hook(hook)


@cache
def read_scores(rules: str) -> dict[str, Tensor]:
    """Read ``(a_clean - a_corrupted) * c`` at every place, ``(samples, layers, positions)`` by kind."""
    sentences = load_sentences()
    names = {kind: [f"{name}:coefficient" for name in name_places(sentences, kind)] for kind in KINDS}
    attributor = fxlrp.compile(sentences.model, rules=rules, read=[name for some in names.values() for name in some])
    target = fxlrp.contrast(sentences.wanted.tolist(), sentences.other.tolist())
    found = attributor(sentences.swapped, target=target).read
    clean, corrupted = record(False), record(True)
    return {
        kind: torch.stack(
            [((clean[kind][i] - corrupted[kind][i]) * found[name]).sum(-1) for i, name in enumerate(some)], 1
        )
        for kind, some in names.items()
    }


def judge_by_patching(kind: str) -> Task:
    """Correlate scores of all layers and positions with what patching measures (Pearson).

    Both are summed over the sentences of a template, and besides over all sentences, as Rezaei Jafari et al. 2025 do.
    """
    truth = cache(partial(patch, kind))

    def correlate(scores: Tensor, groups: int) -> list[float]:
        rows = (x.unflatten(0, (groups, -1)).sum(1).flatten(1) for x in (scores, truth()))
        found: list[float] = correlate_rows(*rows).tolist()
        return found

    methods: dict[str, Callable[[], Any]] = {rules: lambda rules=rules: read_scores(rules)[kind] for rules in RULES}
    others = {"all sentences": partial(correlate, groups=1)}
    score = partial(correlate, groups=len(TEMPLATES))
    return Task(f"correlation with activation patching, {kind}", score, methods, others)


TASKS: dict[str, Callable[[], Task]] = {f"smollm2_{kind}": partial(judge_by_patching, kind) for kind in KINDS}
