"""Whole models: against autograd, between precisions, batch sizes and ways to run."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import input_times_gradient
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map_only
from zoo import ZOO, Sample, targets

import fxlrp
import fxlrp.session.programs
from fxlrp.capture.explained_output import pick_output
from fxlrp.capture.functional_graph import capture
from fxlrp.emit.source_relevance import read_attributed_input
from fxlrp.emit.walk import walk_backward, walk_forward

pytestmark = pytest.mark.slow

BATCH = 8
# the scope makes the tests of a model follow each other, so that they share what is kept
every_model = pytest.mark.parametrize("name", ZOO, scope="module")
RULES = ("attnlrp", "cp_lrp", "epsilon", "epsilon_gamma_box")


@lru_cache(4)
def sample(name: str, dtype: torch.dtype = torch.float64) -> Sample:
    """A model of the zoo and a batch for it, in a precision."""
    model, args, kwargs = ZOO[name](BATCH)
    return model.to(dtype), *cast((args, kwargs), dtype)


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


def rows(inputs: Any, start: int, stop: int) -> Any:
    return tree_map_only(Tensor, lambda t: t[start:stop], inputs)


def logits(model: nn.Module, args: Any, kwargs: Any) -> Tensor:
    return pick_output(model(*args, **kwargs), None)


@cache
def chosen(name: str) -> list[tuple[int, ...]]:
    """The entry of each sample's output that is explained."""
    with torch.no_grad():
        return targets(logits(*sample(name)).shape)


captures: dict[Any, Any] = {}


@pytest.fixture(autouse=True)
def _captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of several rule sets are made of one capture, which they leave as it is."""

    def shared(model: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        key = (model, *(x.shape for x in tree_leaves((args, kwargs))), *(str(value) for value in options.values()))
        if key not in captures:
            captures[key] = capture(model, args, kwargs, **options)
        for old in list(captures)[:-4]:
            del captures[old]
        return captures[key]

    monkeypatch.setattr(fxlrp.session.programs, "capture", shared)


def named(attributor: fxlrp.Attributor, result: fxlrp.Result) -> dict[str, Tensor]:
    """Relevance by name, also when there is one."""
    names, value = attributor.program.relevances, result.relevance
    found = value if isinstance(value, dict) else {names[0]: value}
    assert tuple(found) == names
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every entry agrees within a part of the largest."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name


@lru_cache(8)
def explained(name: str, rules: str) -> tuple[fxlrp.Attributor, fxlrp.Result]:
    model, args, kwargs = sample(name)
    attributor = fxlrp.compile(model, rules=rules)
    return attributor, attributor(*args, target=chosen(name), **kwargs)


@every_model
def test_gradient_rules_are_input_times_gradient(name: str) -> None:
    expected, inputs = input_times_gradient(*sample(name), chosen(name))
    found = named(*explained(name, "gradient"))
    assert inputs <= found.keys() <= expected.keys()
    assert_close(found, {key: expected[key] for key in found}, 1e-9)


@pytest.mark.parametrize("rules", RULES)
@every_model
def test_every_op_has_a_rule(name: str, rules: str) -> None:
    attributor, result = explained(name, rules)
    report = attributor.coverage()
    assert report.covered == report.live > 0
    assert all(row.rule != "MISSING" for row in report.rows)
    model, args, kwargs = sample(name)
    with torch.no_grad():
        own = model(*args, **kwargs)
    for a, b in zip(tree_leaves(result.output), tree_leaves(own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    masks = [mask == 0 for key, mask in kwargs.items() if "mask" in key]
    for key, value in named(attributor, result).items():
        assert value.isfinite().all(), key
        assert (value != 0).double().mean() > 0.5, key
        for padded in masks:
            assert padded.any()
            if padded.shape == value.shape[:2]:
                assert (value[padded] == 0).all(), key


@pytest.mark.parametrize(("dtype", "rules"), [(torch.float16, "attnlrp"), (torch.bfloat16, "epsilon_gamma_box")])
@every_model
def test_half_precision_is_finite(name: str, dtype: torch.dtype, rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, args, kwargs = rows(sample(name, dtype), 0, 2)
    attributor = fxlrp.compile(model, rules=rules)
    if name == "pix2struct":  # in float16 it branches on overflow, which torch.export refuses and which is not met here
        monkeypatch.setattr(torch, "isinf", lambda x: np.False_)
    zeros = tree_map_only(Tensor, lambda t: t * 0 if t.is_floating_point() else t, (args, kwargs))
    for a, k in ((args, kwargs), zeros):
        for key, value in named(attributor, attributor(*a, target=chosen(name)[:2], **k)).items():
            assert value.dtype is torch.float32
            assert value.isfinite().all(), key


@every_model
def test_samples_are_independent(name: str) -> None:
    attributor, together = explained(name, "attnlrp")
    _, args, kwargs = sample(name)
    singles = []
    for i in range(BATCH):
        a, k = rows((args, kwargs), i, i + 1)
        singles.append(named(attributor, attributor(*a, target=chosen(name)[i], **k)))
    joined = {key: torch.cat([one[key] for one in singles]) for key in singles[0]}
    assert_close(named(attributor, together), joined, 1e-10)


FREE = {
    "vgg16": ({0: Dim.AUTO},),
    "vit_b_16": ({0: Dim("batch", min=1, max=64)},),
    "bert": {"input_ids": {0: Dim.AUTO, 1: Dim.AUTO}, "attention_mask": {0: Dim.AUTO, 1: Dim.AUTO}},
    "gpt2": {"input_ids": {0: Dim.AUTO, 1: Dim.AUTO}, "attention_mask": {0: Dim.AUTO, 1: Dim.AUTO}},
    "llama": {"input_ids": {0: Dim.AUTO, 1: Dim.AUTO}, "attention_mask": {0: Dim.AUTO, 1: Dim.AUTO}},
}


@pytest.mark.parametrize("name", FREE)
def test_other_sizes_without_another_capture(name: str) -> None:
    model, args, kwargs = sample(name)
    fixed, expected = explained(name, "attnlrp")
    attributor = fxlrp.compile(model, rules="attnlrp", dynamic_shapes=FREE[name])
    for size in (4, 3, BATCH):
        a, k = rows((args, kwargs), 0, size)
        found = named(attributor, attributor(*a, target=chosen(name)[:size], **k))
        assert_close(found, rows(named(fixed, expected), 0, size), 1e-10)
    if kwargs:
        short = {key: value[:, 2:5] for key, value in kwargs.items()}
        target = [(*entry[:-2], *((2,) if len(entry) == 2 else ()), entry[-1]) for entry in chosen(name)]
        found = named(attributor, attributor(*args, target=target, **short))
        again = fxlrp.compile(model, rules="attnlrp")
        assert_close(found, named(again, again(*args, target=target, **short)), 1e-10)
    assert len(attributor._programs) == 1


@pytest.mark.parametrize(
    ("name", "rules"),
    [("vgg16", "epsilon_gamma_box"), ("gpt2", "attnlrp"), ("flan_t5", "attnlrp"), ("wav2vec2", "epsilon")],
)
def test_program_is_the_walk(name: str, rules: str, tmp_path: Path) -> None:
    """The traced program, the two walks run eagerly, and the program saved and loaded agree."""
    model, args, kwargs = sample(name)
    attributor = fxlrp.compile(model, rules=rules)
    start = torch.randn_like(logits(model, args, kwargs)).detach()
    traced = named(attributor, attributor(*args, target=start, **kwargs))
    leaves = tree_leaves((args, dict(sorted(kwargs.items()))))

    (entry,) = attributor._programs._signatures.values()
    captured, twins = entry.plan.captured, entry.plan.twins
    with torch.no_grad():
        env = walk_forward(captured.graph, {**captured.constants, **dict(zip(captured.inputs, leaves, strict=True))})
        found = walk_backward(captured.graph, env, twins, {captured.explained: start})
    walked: dict[str, Any] = {}
    for s in entry.plan.sources:
        walked[s.name] = walked.get(s.name, 0) + read_attributed_input(s, env, found)
    assert_close(traced, walked, 1e-10)

    program = attributor.program
    with torch.no_grad():
        again = torch.export.export(program.module, (*leaves, start))
        torch.export.save(again, tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()(*leaves, start)
    assert_close(traced, dict(zip(program.relevances, loaded[program.outputs :], strict=True)), 1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by Inductor
@pytest.mark.parametrize("name", ["vit_b_16", "bert", "gru"])
def test_inductor_agrees(name: str) -> None:
    """On one layer, or two steps: compilation takes most of the time."""
    model, args, kwargs = rows(ZOO[name](BATCH), 0, 2)
    if name == "vit_b_16":
        model.encoder.layers = model.encoder.layers[:1]
    elif name == "bert":
        model.bert.encoder.layer = model.bert.encoder.layer[:1]
    else:
        args = (args[0][:, :2],)
    eager, compiled = fxlrp.compile(model), fxlrp.compile(model, backend="inductor")
    expected = named(eager, eager(*args, target=chosen(name)[:2], **kwargs))
    assert_close(named(compiled, compiled(*args, target=chosen(name)[:2], **kwargs)), expected, 1e-9)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        *((name, "attnlrp") for name in ("bert", "gpt2", "llama", "gemma3", "qwen3", "mixtral", "whisper", "siglip2")),
        ("gpt2", "auto"),
        ("siglip2", "auto"),
    ],
)
def test_fused_attention_is_attention(name: str, rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager attention takes its softmax in float32 in some of these; here it keeps float64."""
    softmax = nn.functional.softmax
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim, **_: softmax(x, dim))
    model, args, kwargs = rows(ZOO[name](BATCH), 0, 2)
    inner = getattr(model, "model", model) if name == "siglip2" else model
    assert inner.config._attn_implementation == "sdpa"
    inner.set_attn_implementation("eager")
    attributor = fxlrp.compile(model, rules=rules)
    found = attributor(*args, target=chosen(name)[:2], **kwargs)
    assert "aten.scaled_dot_product_attention.default" not in {row.op for row in attributor.coverage().rows}
    assert_close(named(attributor, found), rows(named(*explained(name, rules)), 0, 2), 1e-10)


def test_cache_that_the_model_returns() -> None:
    model, args, kwargs = ZOO["llama"](BATCH)
    model.config.use_cache = True
    assert model(*args, **kwargs).past_key_values is not None
    attributor = fxlrp.compile(model, rules="attnlrp")
    found = attributor(*args, target=chosen("llama"), **kwargs)
    assert_close(named(attributor, found), named(*explained("llama", "attnlrp")), 1e-12)


def key_biases(model: nn.Module) -> list[Tensor]:
    """The part of each attention's bias that is added to the keys."""
    found = []
    for path, module in model.named_modules():
        if path.endswith("attention.self.key"):
            found.append(module.bias.data)
        elif path.endswith("attn.c_attn"):
            found.append(module.bias.data.chunk(3)[1])
    return found


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_bias_of_keys_changes_nothing(name: str) -> None:
    model, args, kwargs = ZOO[name](BATCH)
    attributor = fxlrp.compile(model)
    before = named(attributor, attributor(*args, target=chosen(name), **kwargs))
    biases = key_biases(model)
    assert len(biases) == 2
    for bias in biases:
        bias += torch.randn_like(bias)
    after = named(attributor, attributor(*args, target=chosen(name), **kwargs))
    assert_close(after, before, 1e-10)
